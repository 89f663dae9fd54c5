"""Where is my event: stored, set aside, gone, or not known. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, Field

from analytics_service.errors import InvalidQuery
from analytics_service.questions.base import Freshness, Row
from analytics_service.questions.events import ListedEvent, event_of
from event_core.sqlfiles import load_sql

WHERE = load_sql("analytics_service.sql", "where_is_event")
"""Takes an event's id; one row, for ``place_of``."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}")
_MEANING = {
    "stored": "it is stored, and counted once",
    "gone": "it was stored and counted; retention dropped its row since, and only its id and timestamp are kept",
    "dead_letter": "it could not be stored and was set aside: reason and error say why; make dlq shows, mends and replays it",
    "unknown": "it is not stored and was not set aside. Sent after the freshness' watermark, or waiting in the"
    " collector's disk buffer, it may be on its way: ask again",
}


def event_id_of(text: str) -> UUID:
    """The id that a path names.

    Raises:
        InvalidQuery: it is no UUID.
    """
    # uuid.UUID alone takes braces, underscores and the digits of every script.
    if not _UUID.fullmatch(text):
        raise InvalidQuery("event_id: no UUID: send one like 018f4e9a-6c1e-7b0a-9c0e-3f6f1c2d4b5a")
    return UUID(text)


def place_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The reply, but for its freshness."""
    row = rows[0]
    state = row["state"]
    letter = state == "dead_letter"
    return {
        "event_id": str(row["event_id"]),
        "state": state,
        "semantics": _MEANING[state],
        "timestamp": row["timestamp"],
        "event": event_of(row) if state == "stored" else None,
        "reason": row["reason"],
        "error": row["error"],
        "dead_letter_id": str(row["dead_letter_id"]) if letter else None,
        "dead_letter_state": row["dead_letter_state"],
        "failed_at": row["failed_at"],
        "dead_letters": orjson.Fragment(row["dead_letters"]),
    }


class DeadLetter(BaseModel):
    """A message set aside, without its bytes."""

    dead_letter_id: str
    event_id: str | None
    tenant_id: str | None
    state: Literal["open", "replayed", "resolved", "discarded"]
    reason: Annotated[str, Field(description="A label of a closed set")]
    error: Annotated[str, Field(description="The same for people")]
    failed_at: datetime
    state_at: datetime
    source: Annotated[str, Field(description="The service that gave up")]
    stage: str
    topic: str
    partition: int | None
    offset: int | None
    retry_count: int


class WhereReply(BaseModel):
    """Where an event is."""

    event_id: str
    state: Literal["stored", "dead_letter", "gone", "unknown"]
    semantics: Annotated[str, Field(description="What the state means")]
    timestamp: Annotated[datetime | None, Field(description="The event's own time, where it is or was stored")]
    event: Annotated[ListedEvent | None, Field(description="The event, where it is stored")]
    reason: Annotated[str | None, Field(description="Of the newest dead letter, where the state is dead_letter")]
    error: str | None
    dead_letter_id: str | None
    dead_letter_state: str | None
    failed_at: datetime | None
    dead_letters: Annotated[
        list[DeadLetter],
        Field(
            description="All with this id, newest first, at most 100; of a stored event too: another event had its id, say"
        ),
    ]
    freshness: Freshness
