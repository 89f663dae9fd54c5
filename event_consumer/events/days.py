"""Days (UTC) as partitions know them: which there must be, their names and bounds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple


class Partition(NamedTuple):
    """A partition of events that takes the times from ``lower`` to before ``upper``."""

    name: str
    lower: datetime
    upper: datetime


def start_of(day: date) -> datetime:
    """The day's first moment."""
    return datetime.combine(day, time(), UTC)


def end_of(day: date) -> datetime:
    """The first moment after the day; of the last day there is, the last one that can be said."""
    return start_of(day + timedelta(1)) if day < date.max else datetime.max.replace(tzinfo=UTC)


def partition_of(day: date) -> Partition:
    """The partition for ``day`` alone."""
    return Partition(f"events_{day.year:04d}{day.month:02d}{day.day:02d}", start_of(day), end_of(day))


def window(today: date, *, back: int, ahead: int, oldest: date | None) -> list[date]:
    """The days that are to have a partition: today and those ahead first, then backwards, none before ``oldest``."""
    days = [today + timedelta(n) for n in range(ahead + 1)] + [today - timedelta(n) for n in range(1, back + 1)]
    return [day for day in days if oldest is None or day >= oldest]


def lacking(days: Sequence[date], partitions: Sequence[Partition]) -> list[date]:
    """Those of ``days`` of which no partition takes any moment, in their order."""
    return [
        day
        for day in days
        if not any(taken.lower < end_of(day) and start_of(day) < taken.upper for taken in partitions)
    ]


def bit_of(day: date) -> int:
    """The day within ``user_days.days``."""
    return 1 << (day.day - 1)


def month_of(day: date) -> str:
    """The first day of its month, as text: asyncpg would take the first day of all for minus infinity."""
    return day.replace(day=1).isoformat()
