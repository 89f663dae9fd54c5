"""From a message to a row of public.events. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from event_core.codec import decode
from event_core.errors import UndecodableMessage, Unstorable
from event_core.jsonguard import encode, refuse_unstorable
from event_core.source import Message


class EventRow(NamedTuple):
    """In the order of the columns in insert_events.sql; JSON as text."""

    event_id: UUID
    user_id: str
    event_name: str
    metadata: str
    timestamp: datetime
    received_at: datetime
    tenant_id: str
    context: str
    experiment_id: str | None
    variant: str | None
    source: str | None


def to_row(message: Message) -> EventRow:
    """The row of ``message``.

    Raises:
        UndecodableMessage: no event, or one that Postgres could not hold: a dead letter.
    """
    value = message.value
    event = decode(value)
    try:
        if value is not None and b"\\u0000" in value:
            refuse_unstorable(event)
        metadata, context = event["metadata"], event["context"]
        return EventRow(
            event["event_id"],
            event["user_id"],
            event["event_name"],
            encode(metadata).decode() if metadata else "{}",
            event["timestamp"],
            event["received_at"],
            event["tenant_id"],
            encode(context).decode() if context else "{}",
            event.get("experiment_id"),
            event.get("variant"),
            event.get("source"),
        )
    except Unstorable as error:
        raise UndecodableMessage(error.message, reason="unstorable_value") from None
