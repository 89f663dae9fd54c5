"""The one form of a dead letter on a topic: the original bytes, and headers that say where they came from and what was
wrong with them. Pure; the contract is docs/wire-contract.md.

The header names are Kafka Connect's, so that tools which read its dead letters read ours.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from event_core.codec import Headers, Record

MAX_DEAD_LETTER_BYTES: Final = 1 << 20
"""Larger originals become a stub: twice this is what the topic takes (DLQ_MAX_MESSAGE_BYTES), the headers need room too."""
MAX_ERROR_CHARACTERS: Final = 2_000
MAX_HEAD_BYTES: Final = 64 << 10
"""What a stub keeps of the original. Also the most that the original key, and the original headers, may take."""

HEADER_TOPIC = "__connect.errors.topic"
HEADER_PARTITION = "__connect.errors.partition"
HEADER_OFFSET = "__connect.errors.offset"
HEADER_SOURCE = "__connect.errors.connector.name"
HEADER_STAGE = "__connect.errors.stage"
HEADER_REASON = "__connect.errors.exception.class.name"
HEADER_ERROR = "__connect.errors.exception.message"
HEADER_RETRY_COUNT = "retry-count"
HEADER_FAILED_AT = "failed-at"
HEADER_DEAD_LETTER_ID = "dead-letter-id"
HEADER_STUB = "dead-letter-stub"
HEADER_LEFT_OUT = "dead-letter-left-out"
BASE64_PREFIX = "base64:"
"""Before the name of an original header whose value is no UTF-8 text, and therefore stands there in base64."""

STAGE_REFUSED = "VALUE_CONVERTER"
"""The event was refused for what it holds."""
STAGE_PRODUCE = "KAFKA_PRODUCE"
"""The event was good, but the broker would not take it."""
STAGE_STORE = "TASK_PUT"
"""It was read from its topic, and the store would not take it."""

MAX_TOPIC_CHARACTERS: Final = 249
"""Kafka's own limit."""
MAX_LABEL_CHARACTERS: Final = 100
"""Of a reason, a source and a stage."""

_OURS = frozenset(
    {
        HEADER_TOPIC,
        HEADER_PARTITION,
        HEADER_OFFSET,
        HEADER_SOURCE,
        HEADER_STAGE,
        HEADER_REASON,
        HEADER_ERROR,
        HEADER_RETRY_COUNT,
        HEADER_FAILED_AT,
        HEADER_DEAD_LETTER_ID,
        HEADER_STUB,
        HEADER_LEFT_OUT,
    }
)


def dead_letter_record(
    original: bytes,
    *,
    topic: str,
    reason: str,
    error: str,
    stage: str,
    source: str,
    failed_at: datetime,
    retry_count: int = 0,
    key: bytes | None = None,
    headers: Iterable[tuple[str, bytes | None]] = (),
    partition: int | None = None,
    offset: int | None = None,
    dead_letter_id: UUID | None = None,
    max_bytes: int = MAX_DEAD_LETTER_BYTES,
    stub: bool = False,
) -> Record:
    """``original``, meant for or read from ``topic``, as a record of the dead letters' topic.

    ``reason`` is a label of a closed set, ``error`` is for people; ``source`` is the service that gave up, at ``stage``, on
    ``failed_at`` (aware). An original of more than ``max_bytes`` (at least 4,096) is replaced by a stub of its beginning.
    Every header's value is UTF-8, whatever the arguments hold. Headers of an earlier dead letter are replaced by the new ones.
    ``stub``: ``original`` is such a stub already.
    """
    made: Headers = [(HEADER_TOPIC, _header(topic))]
    if partition is not None:
        made.append((HEADER_PARTITION, b"%d" % partition))
    if offset is not None:
        made.append((HEADER_OFFSET, b"%d" % offset))
    made += [
        (HEADER_SOURCE, _header(source)),
        (HEADER_STAGE, _header(stage)),
        (HEADER_REASON, _header(reason)),
        (HEADER_ERROR, _header(error)),
        (HEADER_RETRY_COUNT, b"%d" % retry_count),
        (HEADER_FAILED_AT, _rfc3339(failed_at)),
        (HEADER_DEAD_LETTER_ID, str(dead_letter_id or _uuid7(failed_at)).encode()),
    ]
    if len(original) > max_bytes:
        original, stub = _stub(original, max_bytes), True
    if stub:
        made.append((HEADER_STUB, b"1"))
    left_out = []
    if key is not None and len(key) > MAX_HEAD_BYTES:
        key = None
        left_out.append("key")
    kept, dropped = _originals(headers)
    if dropped:
        left_out.append(f"{dropped} headers")
    if left_out:
        made.append((HEADER_LEFT_OUT, ", ".join(left_out).encode()))
    return Record(key or b"", original, made + kept)


class LetterHeaders(NamedTuple):
    """What the headers of a dead letter on a topic say; None where they say nothing of it that can be read."""

    dead_letter_id: UUID
    topic: str
    partition: int | None
    offset: int | None
    source: str
    stage: str
    reason: str
    error: str
    retry_count: int
    failed_at: datetime | None
    stub: bool
    headers: list[tuple[str, bytes | None]]
    """The original ones, in their order."""


def read_headers(headers: Iterable[tuple[str, bytes | None]]) -> LetterHeaders | None:
    """What ``dead_letter_record`` wrote. None where ``headers`` are not those of a dead letter of ours: its id, or the topic
    it came from, is missing. Whatever they hold, every text of the result can be stored."""
    said: dict[str, str] = {}
    originals: list[tuple[str, bytes | None]] = []
    for name, value in headers:
        if name in _OURS:
            said.setdefault(name, storable_text((value or b"").decode(errors="backslashreplace")))
        else:
            originals.append(_original(name, value))
    dead_letter_id = as_uuid(said.get(HEADER_DEAD_LETTER_ID))
    topic = said.get(HEADER_TOPIC, "")[:MAX_TOPIC_CHARACTERS]
    if dead_letter_id is None or not topic:
        return None
    return LetterHeaders(
        dead_letter_id,
        topic,
        _number(said.get(HEADER_PARTITION), 31),
        _number(said.get(HEADER_OFFSET), 63),
        said.get(HEADER_SOURCE, "")[:MAX_LABEL_CHARACTERS],
        said.get(HEADER_STAGE, "")[:MAX_LABEL_CHARACTERS],
        said.get(HEADER_REASON, "")[:MAX_LABEL_CHARACTERS] or "unknown",
        said.get(HEADER_ERROR, ""),
        _number(said.get(HEADER_RETRY_COUNT), 31) or 0,
        _moment(said.get(HEADER_FAILED_AT)),
        HEADER_STUB in said,
        originals,
    )


def without_letter_headers(headers: Iterable[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """``headers`` without those of a dead letter."""
    return [(name, value) for name, value in headers if name not in _OURS]


def as_uuid(text: object) -> UUID | None:
    """The UUID that ``text`` says in its canonical form of 36 characters, whatever the case."""
    if not isinstance(text, str) or len(text) != 36:
        return None
    try:
        made = UUID(text)
    except ValueError:
        return None
    return made if str(made) == text.lower() else None  # the class takes hyphens anywhere


def storable_text(text: str, limit: int = MAX_ERROR_CHARACTERS) -> str:
    """``text``, which may quote a message, so that any store takes it: without NUL and lone surrogates, at most ``limit``
    characters."""
    return text[:limit].replace("\x00", "\\u0000").encode("utf-8", "backslashreplace").decode()[:limit]


def _header(text: str) -> bytes:
    return storable_text(text).encode()


def _originals(headers: Iterable[tuple[str, bytes | None]]) -> tuple[Headers, int]:
    """The original headers as they can be sent, and how many did not fit."""
    kept: Headers = []
    room, dropped = MAX_HEAD_BYTES, 0
    for name, value in headers:
        name, value = name.encode("utf-8", "backslashreplace").decode(), value or b""
        if name in _OURS:
            continue
        try:
            value.decode()
        except UnicodeDecodeError:
            name, value = BASE64_PREFIX + name, base64.b64encode(value)
        room -= len(name.encode()) + len(value)
        if room < 0:
            dropped += 1
        else:
            kept.append((name, value))
    return kept, dropped


def _original(name: str, value: bytes | None) -> tuple[str, bytes | None]:
    """An original header, as it was before ``_originals``."""
    if value is None or not name.startswith(BASE64_PREFIX):
        return name, value
    try:
        return name.removeprefix(BASE64_PREFIX), base64.b64decode(value, validate=True)
    except ValueError:
        return name, value  # somebody else's header of that name


def _number(text: str | None, bits: int) -> int | None:
    if text is None or not text.isdecimal() or len(text) > 19:
        return None
    number = int(text)
    return number if number < 1 << bits else None


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _stub(original: bytes, max_bytes: int) -> bytes:
    # A control character takes six bytes in JSON, so an eighth surely fits.
    head = original[: min(MAX_HEAD_BYTES, max_bytes // 8)]
    try:
        text, encoding = _utf8_start(head), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(head).decode(), "base64"
    return orjson.dumps(
        {
            "truncated": True,
            "bytes": len(original),
            "sha256": hashlib.sha256(original).hexdigest(),
            "encoding": encoding,
            "head": text,
        }
    )


def _utf8_start(head: bytes) -> str:
    """``head`` as text, without a character that the cut went through."""
    try:
        return head.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return head[: error.start].decode()
        raise


def _rfc3339(moment: datetime) -> bytes:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z").encode()


def _uuid7(moment: datetime) -> UUID:
    """A version 7 UUID (RFC 9562) of ``moment``: milliseconds since 1970, the rest random."""
    milliseconds = max(0, int(moment.timestamp() * 1000)) & (1 << 48) - 1
    random = int.from_bytes(os.urandom(10))
    return UUID(int=milliseconds << 80 | 0x7 << 76 | (random >> 62 & 0xFFF) << 64 | 0b10 << 62 | random & (1 << 62) - 1)
