"""A frame: what one row of a spool file holds. Records by lane, with a checksum and what they are called. Pure.

::

    crc32 u32 | kind u8 | body             (little-endian; the checksum is over all behind it)
    body:  topics u16 | groups u16 | (length u16 | UTF-8) of each topic | group … | payload     (of ROWS in one zstd frame)
    group: topic u32 | number u32 | of u32 | start u64 | skipped u32 | records u32 | size u32

A record's *position* is its number within its lane and slot: it never changes and is never given twice, so files that
overlap, a segment beside the journals it replaces or a cursor from before a crash cannot mislead a reader. ``skipped``
positions before ``start`` were given to an append that failed; any other hole in a lane is a loss.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple
from zlib import crc32

import zstandard

from event_core.codec import Record
from ingestion_service.spool.damaged import Damaged
from ingestion_service.spool.lane import Lane

_HEAD: Final = struct.Struct("<IB")
_COUNTS: Final = struct.Struct("<HH")
_LENGTH: Final = struct.Struct("<H")
_GROUP: Final = struct.Struct("<IIIQIII")
_RECORD: Final = struct.Struct("<IIH")
_HEADER: Final = struct.Struct("<HI")
_CHECKSUM_BYTES: Final = 4


class _Codecs(threading.local):
    """Made once in a thread: making them costs more than compressing an event."""

    def __init__(self) -> None:
        # The fastest level: an acknowledgement waits for it, and compaction does better soon.
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_codecs = _Codecs()

Pack = Callable[[Sequence[Record]], bytes]
Unpack = Callable[[bytes], list[Record]]


class Kind(IntEnum):
    """What a frame's payload is."""

    SEAL = 0x50
    """The last word of a finished file: which positions it holds."""
    ROWS = 0x51
    """One append: records of several lanes, group after group."""
    PACKED = 0x52
    """Records of one lane in columns (columns.py)."""


class Group(NamedTuple):
    """``records`` records of ``lane`` at the positions from ``start``; ``size`` bytes once decompressed."""

    lane: Lane
    start: int
    skipped: int
    records: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.records


class Frame(NamedTuple):
    kind: Kind
    groups: list[Group]
    payload: bytes


def encode(kind: Kind, groups: Sequence[Group], payload: bytes) -> bytes:
    """The bytes of a frame."""
    topics = list(dict.fromkeys(group.lane.topic for group in groups))
    parts = [_COUNTS.pack(len(topics), len(groups))]
    for topic in topics:
        name = topic.encode()
        parts += (_LENGTH.pack(len(name)), name)
    for (topic, number, of), *rest in groups:
        parts.append(_GROUP.pack(topics.index(topic), number, of, *rest))
    parts.append(payload)
    body = b"".join(parts)
    if kind is Kind.ROWS:
        body = _codecs.compressor.compress(body)
    return crc32(body, crc32(bytes((kind,)))).to_bytes(_CHECKSUM_BYTES, "little") + bytes((kind,)) + body


def parse(data: object) -> Frame:
    """The frame whose bytes are ``data``.

    Raises:
        Damaged: they are not what ``encode`` returned.
    """
    if not isinstance(data, bytes) or len(data) < _HEAD.size:
        raise Damaged("too short for a frame")
    checksum, code = _HEAD.unpack_from(data)
    if crc32(memoryview(data)[_CHECKSUM_BYTES:]) != checksum:
        raise Damaged("the frame's checksum differs")
    topics, groups = [], []
    try:
        kind, body = Kind(code), data[_HEAD.size :]
        if kind is Kind.ROWS:
            body = _codecs.decompressor.decompress(body)
        topic_count, group_count = _COUNTS.unpack_from(body)
        at = _COUNTS.size
        for _ in range(topic_count):
            (length,) = _LENGTH.unpack_from(body, at)
            at += _LENGTH.size + length
            topics.append(body[at - length : at].decode())
        end = at + group_count * _GROUP.size
        for topic, number, of, *rest in _GROUP.iter_unpack(body[at:end]):
            groups.append(Group(Lane(topics[topic], number, of), *rest))
        return Frame(kind, groups, body[end:])
    except (LookupError, ValueError, struct.error, zstandard.ZstdError) as error:
        # The checksum is right: another version wrote it.
        raise Damaged(f"not a frame of this version: {error}") from None


def encode_records(records: Sequence[Record]) -> bytes:
    """``records`` one after the other: lengths before bytes."""
    parts: list[bytes] = []
    for key, value, headers in records:
        parts += (_RECORD.pack(len(key), len(value), len(headers)), key, value)
        for name, content in headers:
            encoded = name.encode("utf-8", "surrogatepass")
            parts += (_HEADER.pack(len(encoded), len(content)), encoded, content)
    return b"".join(parts)


def decode_records(data: bytes, count: int) -> list[Record]:
    """The records that ``encode_records`` wrote.

    Raises:
        Damaged: it did not write these bytes.
    """
    records, at = [], 0
    try:
        for _ in range(count):
            key_size, value_size, header_count = _RECORD.unpack_from(data, at)
            key_end = at + _RECORD.size + key_size
            at = key_end + value_size
            key, value, headers = data[key_end - key_size : key_end], data[key_end:at], []
            for _ in range(header_count):
                name_size, content_size = _HEADER.unpack_from(data, at)
                name_end = at + _HEADER.size + name_size
                at = name_end + content_size
                name = data[name_end - name_size : name_end].decode("utf-8", "surrogatepass")
                headers.append((name, data[name_end:at]))
            records.append(Record(key, value, headers))
    except (struct.error, UnicodeDecodeError) as error:
        raise Damaged(f"records cannot be read: {error}") from None
    if at != len(data):
        raise Damaged("records end elsewhere than they should")
    return records


def encode_rows(groups: Sequence[tuple[Lane, int, int, Sequence[Record]]]) -> tuple[bytes, list[Group]]:
    """The frame of one append: (lane, start, skipped, records) each; and its groups."""
    parts, named = [], []
    for lane, start, skipped, records in groups:
        part = encode_records(records)
        parts.append(part)
        named.append(Group(lane, start, skipped, len(records), len(part)))
    return encode(Kind.ROWS, named, b"".join(parts)), named


def split_rows(frame: Frame) -> list[bytes]:
    """What ``decode_records`` takes, one for each group of a ROWS frame."""
    parts, at = [], 0
    for group in frame.groups:
        parts.append(frame.payload[at : at + group.size])
        at += group.size
    return parts
