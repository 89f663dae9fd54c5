"""A message that could not be stored, as it is kept: original bytes, origin, reason. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import orjson

from event_core.dead_letters import storable_text
from event_core.errors import UndecodableMessage
from event_core.source import Message


class DeadLetter(NamedTuple):
    """A row of ``dead_letters``, in the order of its columns in insert_dead_letters.sql."""

    topic: str
    partition: int
    offset: int
    message_at: datetime | None
    key: bytes | None
    value: bytes | None
    headers: str
    reason: str
    error: str


def dead_letter(message: Message, error: UndecodableMessage) -> DeadLetter:
    """``message`` set aside because of ``error``."""
    return DeadLetter(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        message_at=_time(message.timestamp),
        key=message.key,
        value=message.value,
        headers=_headers(message.headers),
        reason=error.reason,
        error=storable_text(error.message),
    )


def _time(milliseconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds >= 0 else None
    except (OverflowError, ValueError, OSError):
        return None  # a broken clock of some producer is no reason to lose the letter


def _headers(headers: Iterable[tuple[str, bytes | None]]) -> str:
    shown = [
        [name.replace("\x00", "\\u0000"), None if value is None else base64.b64encode(value).decode()]
        for name, value in headers
    ]
    return orjson.dumps(shown).decode()
