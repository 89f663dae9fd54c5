"""From messages to rows of public.events, or to dead letters. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

import orjson

from event_consumer.batch import Item
from event_consumer.dead_letter import DeadLetter, dead_letter, letter_on_topic
from event_core.codec import Decoded, decode
from event_core.errors import UndecodableMessage, Unstorable
from event_core.instants import to_micros
from event_core.jsonguard import refuse_unstorable
from event_core.source import Message


class EventRow(NamedTuple):
    """In the order of ``COLUMNS``; JSON as text, times as ``event_core.instants``."""

    event_id: UUID
    user_id: str
    event_name: str
    metadata: str
    timestamp: int
    received_at: int
    tenant_id: str
    context: str
    experiment_id: str | None
    variant: str | None
    source: str | None


COLUMNS = EventRow._fields

Decode = Callable[[Sequence[Message]], tuple[list[Item[EventRow]], list[DeadLetter]]]


def decoder(dlq_topic: str) -> Decode:
    """What makes rows and dead letters of messages of one partition; a record of ``dlq_topic`` is a dead letter already."""

    def decode_all(messages: Sequence[Message]) -> tuple[list[Item[EventRow]], list[DeadLetter]]:
        items: list[Item[EventRow]] = []
        if messages and messages[0].topic == dlq_topic:
            return items, [letter_on_topic(message) for message in messages]
        dead: list[DeadLetter] = []
        for message in messages:
            try:
                items.append(Item(to_row(message.value), message))
            except UndecodableMessage as error:
                dead.append(dead_letter(message, error))
        return items, dead

    return decode_all


def to_row(value: bytes | None) -> EventRow:
    """The row of a record's value.

    Raises:
        UndecodableMessage: no event, or one that Postgres could not hold: a dead letter.
    """
    event = decode(value)
    try:
        metadata, context = bytes(event.metadata).decode(), bytes(event.context).decode()
    except UnicodeDecodeError as error:
        raise UndecodableMessage(f"a text is not UTF-8: {error}", reason="not_json") from None
    if metadata[0] != "{" or context[0] != "{":
        field = "context" if metadata[0] == "{" else "metadata"
        raise UndecodableMessage(f"{field}: a JSON object is required", reason="invalid_event")
    if value is not None and b"\\u" in value:  # rare: the ingestion service writes only control characters so
        _refuse_escapes(event, metadata, context)
    return EventRow(
        event.event_id,
        event.user_id,
        event.event_name,
        metadata,
        to_micros(event.timestamp),
        to_micros(event.received_at),
        event.tenant_id,
        context,
        event.experiment_id,
        event.variant,
        event.source,
    )


def _refuse_escapes(event: Decoded, metadata: str, context: str) -> None:
    """Raises UndecodableMessage where an escape means NUL or half a character, which no text of Postgres can hold."""
    names = [event.user_id, event.event_name, event.tenant_id, event.experiment_id, event.variant, event.source]
    try:
        refuse_unstorable([*names, orjson.loads(metadata), orjson.loads(context)])
    except Unstorable as error:
        raise UndecodableMessage(error.message, reason="unstorable_value") from None
    except orjson.JSONDecodeError as error:
        raise UndecodableMessage(f"metadata or context: {error}", reason="unstorable_value") from None
