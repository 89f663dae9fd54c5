"""A message that could not be stored, as it is kept: original bytes, origin, reason. Pure.

Two ways lead here: a message that the consumer gives up (``dead_letter``), and a record of the dead letters' topic, where the
door's letters come from (``letter_on_topic``).
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from event_core.clock import from_milliseconds
from event_core.dead_letters import (
    HEADER_DEAD_LETTER_ID,
    HEADER_RETRY_COUNT,
    MAX_TOPIC_CHARACTERS,
    STAGE_REFUSED,
    STAGE_STORE,
    as_uuid,
    read_headers,
    storable_text,
    without_letter_headers,
)
from event_core.errors import UndecodableMessage
from event_core.event import MAX_NAME
from event_core.source import Message
from event_core.topics import HEADER_EVENT_ID

SOURCE: Final = "event_consumer"
NOT_A_DEAD_LETTER: Final = "not_a_dead_letter"
"""The reason of a record that somebody else put on the dead letters' topic."""
_BY_THE_STORE = frozenset({"refused_by_store", "conflict", "overdue"})

OriginalHeaders = Iterable[tuple[str, bytes | None]]


class DeadLetter(NamedTuple):
    """A row of ``dead_letters``; ``headers`` is the JSON text of ``[[name, value in base64 or null], …]``."""

    topic: str
    partition: int | None
    offset: int | None
    message_at: datetime | None
    key: bytes | None
    value: bytes | None
    headers: str
    reason: str
    error: str
    source: str = SOURCE
    stage: str = STAGE_REFUSED
    event_id: UUID | None = None
    tenant_id: str | None = None
    stub: bool = False
    retry_count: int = 0
    failed_at: datetime | None = None
    """None: now."""
    dead_letter_id: UUID | None = None
    """None: a new one. Of a replayed message its letter's."""
    on_topic: bool = False
    """It lies on the dead letters' topic already."""


class Replay(NamedTuple):
    """What a replayed message says of itself."""

    dead_letter_id: UUID
    retry_count: int


def replay_of(headers: OriginalHeaders) -> Replay | None:
    """None where the message is no replay: its very last header is not ``dead-letter-id``."""
    given = tuple(headers)
    if not given or given[-1][0] != HEADER_DEAD_LETTER_ID:
        return None
    dead_letter_id = as_uuid((given[-1][1] or b"").decode(errors="replace"))
    if dead_letter_id is None:
        return None
    count = given[-2][1] or b"" if len(given) > 1 and given[-2][0] == HEADER_RETRY_COUNT else b""
    return Replay(dead_letter_id, int(count) if count.isdigit() and len(count) < 10 else 1)


def dead_letter(message: Message, error: UndecodableMessage) -> DeadLetter:
    """``message`` set aside because of ``error``."""
    headers: list[tuple[str, bytes | None]] = list(message.headers)
    replay = replay_of(headers)
    if replay is not None:
        headers = without_letter_headers(headers)
    event_id, tenant_id = identity(message.value, headers)
    return DeadLetter(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        message_at=from_milliseconds(message.timestamp),
        key=message.key,
        value=message.value,
        headers=headers_text(headers),
        reason=error.reason,
        error=storable_text(error.message),
        stage=STAGE_STORE if error.reason in _BY_THE_STORE else STAGE_REFUSED,
        event_id=event_id,
        tenant_id=tenant_id,
        retry_count=replay.retry_count if replay else 0,
        dead_letter_id=replay.dead_letter_id if replay else None,
    )


def letter_on_topic(message: Message) -> DeadLetter:
    """A record of the dead letters' topic. One without our headers is a letter too, about itself; never raises."""
    said = read_headers(message.headers)
    if said is None:
        event_id, tenant_id = identity(message.value, message.headers)
        return DeadLetter(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            message_at=from_milliseconds(message.timestamp),
            key=message.key,
            value=message.value,
            headers=headers_text(message.headers),
            reason=NOT_A_DEAD_LETTER,
            error=f"on the dead letters' topic, but without the headers of one, above all {HEADER_DEAD_LETTER_ID}",
            event_id=event_id,
            tenant_id=tenant_id,
            on_topic=True,
        )
    event_id, tenant_id = identity(_head(message.value) if said.stub else message.value, said.headers)
    return DeadLetter(
        topic=said.topic[:MAX_TOPIC_CHARACTERS],
        partition=said.partition,
        offset=said.offset,
        message_at=None,
        key=message.key or None,
        value=message.value,
        headers=headers_text(said.headers),
        reason=said.reason,
        error=said.error,
        source=said.source,
        stage=said.stage,
        event_id=event_id,
        tenant_id=tenant_id,
        stub=said.stub,
        retry_count=said.retry_count,
        failed_at=said.failed_at,
        dead_letter_id=said.dead_letter_id,
        on_topic=True,
    )


# --- whose event it is, as far as the bytes say it

_event_id = re.compile(rb'"event_id"\s{0,9}:\s{0,9}"([0-9a-fA-F-]{36})"').search
_ID_HEADERS = (HEADER_EVENT_ID, "ce-id")


def identity(value: bytes | None, headers: OriginalHeaders) -> tuple[UUID | None, str | None]:
    """(event_id, tenant_id) of ``value`` in any form that the platform takes, whole or not; None where it does not say."""
    fields: Any = None
    with contextlib.suppress(ValueError):  # what is no JSON may still tell its id
        fields = orjson.loads(value or b"")
    given = dict(headers)
    event_id = tenant_id = None
    if isinstance(fields, dict):
        event_id = as_uuid(fields.get("event_id"))
        tenant_id = _tenant(fields.get("tenant_id"))
        if "specversion" in fields:
            event_id = event_id or as_uuid(fields.get("id"))
            tenant_id = tenant_id or _tenant(fields.get("tenantid"))
    elif value and (found := _event_id(value)):
        event_id = as_uuid(found[1].decode())
    for name in _ID_HEADERS:
        event_id = event_id or as_uuid((given.get(name) or b"").decode(errors="replace"))
    return event_id, tenant_id or _tenant((given.get("ce-tenantid") or b"").decode(errors="replace"))


def _tenant(given: object) -> str | None:
    return storable_text(given) if isinstance(given, str) and 0 < len(given) <= MAX_NAME else None


def _head(stub: bytes | None) -> bytes:
    """The beginning of the original that ``stub`` describes."""
    try:
        described = orjson.loads(stub or b"")
        head = described["head"]
        return base64.b64decode(head) if described["encoding"] == "base64" else str(head).encode()
    except (ValueError, KeyError, TypeError):
        return b""


# --- columns


def headers_text(headers: OriginalHeaders) -> str:
    """``headers`` as the column holds them."""
    shown = [
        [storable_text(name, 6 * len(name)), None if value is None else base64.b64encode(value).decode()]
        for name, value in headers
    ]
    return orjson.dumps(shown).decode()


def headers_of(text: str) -> list[tuple[str, bytes | None]]:
    """The inverse of ``headers_text``."""
    return [(name, None if value is None else base64.b64decode(value)) for name, value in orjson.loads(text)]
