"""Counts, one event and one minute at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from tests.oracles.events import Event

MINUTE = timedelta(minutes=1)


class Asked(NamedTuple):
    """The width of a bucket: of one unit (minute, day or month) so many."""

    number: int
    unit: str

    @property
    def sql(self) -> str:
        """As PostgreSQL's interval."""
        return f"{self.number} {self.unit}s"


def shown(value: object) -> str | None:
    """A JSON value as text."""
    if value is None or isinstance(value, str):
        return value
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def value_of(event: Event, dimension: str) -> str | None:
    """What the event has there."""
    if not dimension.startswith("metadata."):
        return getattr(event, dimension)  # type: ignore[no-any-return]  # of a tuple's named field
    found: Any = event.metadata
    for key in dimension.removeprefix("metadata.").split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return shown(found)


def passes(event: Event, filters: Mapping[str, Any]) -> bool:
    """Whether every filter lets it through."""
    for name, wanted in filters.items():
        if name == "metadata":
            if any(value_of(event, f"metadata.{path}") not in values for path, values in wanted.items()):
                return False
        elif value_of(event, name) not in wanted:
            return False
    return True


def matching(events: Iterable[Event], start: datetime, end: datetime, filters: Mapping[str, Any]) -> list[Event]:
    """Those of [start, end) that the filters let through."""
    return [event for event in events if start <= event.timestamp < end and passes(event, filters)]


def _label(wall: datetime, width: Asked) -> datetime:
    """The beginning, as clocks show it, of the bucket that this time belongs to."""
    midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
    if width.unit == "month":
        return midnight.replace(day=1)
    if width.unit == "day":
        return midnight - timedelta(days=(midnight.toordinal() - date(2001, 1, 1).toordinal()) % width.number)
    passed = (wall - midnight) // MINUTE
    return midnight + MINUTE * (passed // width.number * width.number)


def bounds(start: datetime, end: datetime, width: Asked, zone: str) -> list[datetime]:
    """Where buckets begin and end, found by watching a clock of the zone minute by minute."""
    longest = {"minute": timedelta(days=1), "day": timedelta(days=width.number), "month": timedelta(days=31)}[
        width.unit
    ]
    clock = ZoneInfo(zone)
    at = start.replace(second=0, microsecond=0) - longest - timedelta(days=3)
    latest = _label(at.astimezone(clock).replace(tzinfo=None), width)
    found: list[datetime] = []
    while not (found and found[-1] >= end):
        at += MINUTE
        wall = at.astimezone(clock).replace(tzinfo=None)
        label = _label(wall, width)
        again = width.unit == "minute" and width.number <= 60 and wall == label
        if label > latest or again:
            found.append(at.astimezone(UTC))
        latest = max(label, latest)
    first = max(place for place, bound in enumerate(found) if bound <= start)
    return found[first:]


def timeseries(
    events: Sequence[Event], start: datetime, end: datetime, width: Asked, zone: str, filters: Mapping[str, Any]
) -> list[tuple[datetime, datetime, int]]:
    """(beginning, end, events) of each bucket."""
    meant = matching(events, start, end, filters)
    edges = bounds(start, end, width, zone)
    return [(low, high, sum(low <= event.timestamp < high for event in meant)) for low, high in pairwise(edges)]


def top(
    events: Sequence[Event], start: datetime, end: datetime, by: str, filters: Mapping[str, Any]
) -> Counter[str | None]:
    """How often each value is there."""
    return Counter(value_of(event, by) for event in matching(events, start, end, filters))
