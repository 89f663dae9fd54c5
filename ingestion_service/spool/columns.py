"""Records as columns: what many events have in common is stored once. Pure; nothing is lost, whatever the bytes are.

Values are cut at their quotes (``"``), which leaves keys and texts of JSON as pieces; pieces at the same place of many values
are a column. Nothing depends on the bytes being JSON: a value of any other form is merely stored in a less compact way.

The blob, version 1; *number* is LEB128, *signed* a number whose lowest bit is the sign, *text* a number and as many bytes::

    "EPC" 1                 magic and version
    4 bytes                 CRC-32 of everything else, the magic included (big-endian)
    number                  records
    number                  bytes of all keys, values, header names and header values, and one more for each header
    a zstd frame            with its content's size: number, as many bytes of description, then blocks

The description, in which each column takes its blocks in turn::

    records      = number of groups (equal header names); which group each record is of (integers, where there are several);
                   for each: number of headers; their names, each a text; columns of keys, values, each header's values
    integers     = byte: bytes of each << 1 | stepwise; the least (signed); the unit all are multiples of; where stepwise the
                   first (signed), and what follows are steps. Blocks: the lowest bytes of all, the next higher bytes …
    column       = byte: its kind; then
      SAME         a text that is every entry
      AGAIN        number: equal to that column of the blob, counted from 0 as they begin, SAME and AGAIN left out
      CHOICE       number of distinct texts; a column of them; which one each entry is (integers)
      JOINED       number of parts; a column each, whose entries stand one after the other in this one's
      SHAPES       number of shapes; which one each entry has (integers); for each shape a column of its entries
      UUIDS        byte: 1 where all have version 7, whose milliseconds are integers. Blocks: (other) bytes by place
      TIMES        byte: decimals << 1 | none where they are zero; integers in units of the last decimal, since 1970
      NUMBERS      byte: digits, 0 where not filled with zeros; integers
      QUOTED       number: bytes. Block: the entries with quotes between them
      COUNTED      integers: their lengths. Block: the entries

A block of some length is compressed apart from its neighbours, by a flush before and after it: bytes of different places have
nothing in common.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from itertools import repeat

import zstandard

from event_core.codec import Headers, Record
from ingestion_service.spool.column_io import Reader, Writer
from ingestion_service.spool.column_tree import (
    COLUMNS,
    JOINTS,
    MAX_HEADERS,
    merge,
    read_column,
    read_same,
    sizes_of,
    write_column,
)
from ingestion_service.spool.damaged import Damaged

MAX_RECORDS = 1 << 14
"""Most records of a blob."""
MAX_BYTES = 1 << 26
"""Most bytes of its keys, values and headers together."""

_MAGIC = b"EPC\x01"
_FAULTS = (ArithmeticError, LookupError, TypeError, struct.error, zstandard.ZstdError)


def pack(records: Sequence[Record]) -> bytes:
    """The records, in their order, as one blob. About 2,000 alike make the most of it; any thread may call it.

    The blob is read again before it is given out; should that fail, it is made anew with every column as plain text.

    Raises:
        ValueError: more than MAX_RECORDS records, MAX_BYTES bytes or 256 headers of a record; or what is given are no records.
    """
    if len(records) > MAX_RECORDS:
        raise ValueError(f"{len(records):,} records are more than a blob holds")
    given = list(records)
    for plain in (False, True):
        with suppress(Damaged, *_FAULTS):
            blob = _pack(given, plain)
            if unpack(blob) == given:
                return blob
    raise ValueError(
        "the records do not come back equal: keys and values must be bytes, headers a list of (str, bytes)"
    )


def unpack(blob: bytes) -> list[Record]:
    """The records that ``pack`` was given. Any thread may call it.

    Raises:
        Damaged: the blob is not, to the last bit, one that ``pack`` made.
    """
    if blob[:4] != _MAGIC:
        raise Damaged("not a blob, or one of another version")
    if blob[4:8] != _checksum(blob[8:]):
        raise Damaged("the checksum does not fit")
    try:
        head = Reader(blob[8:28], b"", 0, 0)
        count, size = head.number(), head.number()
        if count > MAX_RECORDS or size > MAX_BYTES:
            raise Damaged("it claims to hold more than a blob can")
        # What no blob of this many records and bytes comes to, so that a forged one cannot fill the memory either.
        raw = min(16 * (count + size) + (1 << 16), 2 * MAX_BYTES)
        cells = min(16 * count + 8 * size, count * COLUMNS)
        reader = Reader.of(blob[8 + head.at :], raw, cells, JOINTS * size)
        records, found = _read_records(reader, count)
        if not reader.done or size != found:
            raise Damaged("something is left over or missing")
    except (ValueError, *_FAULTS) as error:
        raise Damaged(str(error)) from error
    return records


def _pack(records: list[Record], plain: bool) -> bytes:
    out = Writer(plain=plain)
    size = _write_records(out, records)
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes are more than a blob holds")
    head = Writer()
    head.number(len(records))
    head.number(size)
    body = bytes(head.meta) + out.compressed()
    return _MAGIC + _checksum(body) + body


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body, zlib.crc32(_MAGIC)).to_bytes(4, "big")


def _write_records(out: Writer, records: Sequence[Record]) -> int:
    """Returns how many bytes they have."""
    if not records:
        return 0
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    order = []
    for record in records:
        names = tuple([name for name, _ in record.headers])
        groups[names].append(record)
        order.append(names)
    out.number(len(groups))
    if len(groups) > 1:
        numbers = {names: number for number, names in enumerate(groups)}
        out.integers([numbers[names] for names in order])
    size = 0
    for names, group in groups.items():
        if len(names) > MAX_HEADERS:
            raise ValueError(f"{len(names):,} headers are more than a record may have here")
        written = [name.encode("utf-8", "surrogatepass") for name in names]
        out.number(len(names))
        for name in written:
            out.text(name)
        keys, values, headers = zip(*group, strict=True)
        columns = [keys, values, *([value for _, value in column] for column in zip(*headers, strict=True))]
        for column in columns:
            write_column(out, column)
        size += len(group) * (sum(map(len, written)) + len(written)) + sum(sum(map(len, column)) for column in columns)
    return size


def _read_records(reader: Reader, count: int) -> tuple[list[Record], int]:
    if not count:
        return [], 0
    groups = reader.number()
    order = reader.integers(count) if groups > 1 else [0] * count
    sizes = sizes_of(order, groups)
    records = []
    size = 0
    for length in sizes:
        written = [reader.text() for _ in range(reader.number())]
        size += length * (sum(map(len, written)) + len(written))
        keys, values = read_column(reader, length), read_column(reader, length)
        size += sum(map(len, keys)) + sum(map(len, values))
        pairs = []
        for name in [name.decode("utf-8", "surrogatepass") for name in written]:
            reader.fill(length)
            same = read_same(reader)
            if same is None:
                column = read_column(reader, length)
                size += sum(map(len, column))
                pairs.append(list(zip(repeat(name), column)))
            else:
                size += length * len(same)
                pairs.append([(name, same)] * length)
        headers: list[Headers] = list(map(list, zip(*pairs, strict=True))) if pairs else [[] for _ in range(length)]
        records.append(list(map(Record, keys, values, headers)))
    return merge(records, order), size
