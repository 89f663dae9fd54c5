"""The canonical event: what a topic carries and a table keeps, whichever form the sender used. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NotRequired
from uuid import UUID

from annotated_types import MaxLen, MinLen
from typing_extensions import TypedDict

MAX_NAME = 256
"""Longest user id, event name, tenant id … in characters: 4 bytes each still fit an index entry (2,704 bytes)."""
MAX_DEPTH = 64
"""Deepest nesting of an event's JSON."""
MAX_EVENT_BYTES = 256 * 1024
"""Largest encoded event; below every Kafka default limit, so that no acknowledged event is refused by the broker."""
DEFAULT_TENANT = "default"
FUTURE_TOLERANCE = timedelta(hours=24)
"""An event further ahead than this is stored, and flagged in its context."""

# Postgres stores the two ends of Python's datetime as ±infinity, so they would not come back equal.
EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)

Name = Annotated[str, MinLen(1), MaxLen(MAX_NAME)]


class Event(TypedDict):
    """One event. Times are aware UTC datetimes with microseconds; ``metadata`` and ``context`` are JSON objects. Readers have
    ``codec.Decoded``."""

    event_id: UUID
    tenant_id: Name
    user_id: Name
    event_name: Name
    timestamp: datetime
    received_at: datetime
    metadata: dict[str, Any]
    context: dict[str, Any]
    experiment_id: NotRequired[Name | None]
    variant: NotRequired[Name | None]
    source: NotRequired[Name | None]


def as_utc(moment: datetime) -> datetime:
    """``moment`` in UTC; one without a zone is taken to be UTC.

    Raises:
        ValueError: outside the years 1–9999 in UTC, or the very first or last representable microsecond.
    """
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time lies outside the years 1 to 9999 in UTC") from None
    if not EARLIEST < moment < LATEST:
        raise ValueError("the first and the last microsecond of the years 1 to 9999 in UTC cannot be stored")
    return moment
