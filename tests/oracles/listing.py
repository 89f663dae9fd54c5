"""Lists of events, and where an event is, one event at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from tests.oracles.counts import matching
from tests.oracles.events import Event


def listed(
    events: Sequence[Event], start: datetime, end: datetime, filters: Mapping[str, Any], *, newest: bool
) -> list[UUID]:
    """The ids of those of [start, end) that the filters let through, by timestamp, then by id."""
    meant = matching(events, start, end, filters)
    return [event.event_id for event in sorted(meant, key=place, reverse=newest)]


def place(event: Event) -> tuple[datetime, bytes]:
    """Where it stands among the others."""
    return event.timestamp, event.event_id.bytes


def ahead(event: Event, of: Event, *, newest: bool) -> bool:
    """Whether a walk that stands at ``of`` has yet to come to ``event``."""
    return place(event) < place(of) if newest else place(event) > place(of)


def whereabouts(event_id: UUID, stored: set[UUID], ever_stored: set[UUID], set_aside: set[UUID]) -> str:
    """What became of an event."""
    if event_id in stored:
        return "stored"
    if event_id in ever_stored:
        return "gone"
    return "dead_letter" if event_id in set_aside else "unknown"
