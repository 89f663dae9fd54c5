"""Different users, one event at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from tests.oracles.counts import Asked, bounds, matching, value_of
from tests.oracles.events import Event


def users(events: Iterable[Event]) -> set[tuple[str, str]]:
    """A user_id of another tenant is another user."""
    return {(event.tenant_id, event.user_id) for event in events}


def unique(events: Sequence[Event], start: datetime, end: datetime, filters: Mapping[str, Any]) -> int:
    """Of [start, end)."""
    return len(users(matching(events, start, end, filters)))


def series(
    events: Sequence[Event], start: datetime, end: datetime, width: Asked, zone: str, filters: Mapping[str, Any]
) -> list[tuple[datetime, datetime, int]]:
    """(beginning, end, users) of each bucket."""
    meant = matching(events, start, end, filters)
    edges = bounds(start, end, width, zone)
    return [
        (low, high, len(users(event for event in meant if low <= event.timestamp < high)))
        for low, high in pairwise(edges)
    ]


def per(
    events: Sequence[Event], start: datetime, end: datetime, dimension: str, filters: Mapping[str, Any]
) -> list[tuple[str | None, int]]:
    """(value, users), most users first, then by value, none last."""
    found: dict[str | None, set[tuple[str, str]]] = defaultdict(set)
    for event in matching(events, start, end, filters):
        found[value_of(event, dimension)].add((event.tenant_id, event.user_id))
    return sorted(
        ((value, len(who)) for value, who in found.items()),
        key=lambda pair: (-pair[1], pair[0] is None, (pair[0] or "").encode()),
    )
