"""Retention, one user, one period and one event at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from tests.oracles.counts import passes
from tests.oracles.events import Event

WIDTHS = {"day": "1 day", "week": "7 days", "month": "1 month"}
"""As PostgreSQL's intervals."""
_HOUR = timedelta(hours=1)


def period_of(at: datetime, unit: str, zone: str) -> date:
    """The day, the week's Monday or the 1st of the month that a clock in the zone shows."""
    day = at.astimezone(ZoneInfo(zone)).date()
    if unit == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if unit == "month" else day


def _periods(start: datetime, end: datetime, unit: str, zone: str) -> list[date]:
    """Those that the clock really shows within [start, end), hour by hour."""
    found = {period_of(end - timedelta(microseconds=1), unit, zone)}
    while start < end:
        found.add(period_of(start, unit, zone))
        start += _HOUR
    return sorted(found)


def retention(
    events: Sequence[Event],
    start: datetime,
    end: datetime,
    unit: str,
    zone: str,
    periods: int,
    filters: Mapping[str, Any],
) -> list[tuple[date, int, date, int]]:
    """(cohort, n, the n-th period after it, users) of every cohort that [start, end) touches."""
    cohorts = _periods(start, end, unit, zone)
    longest = {"day": 1, "week": 7, "month": 31}[unit]
    everything = _periods(start, end + timedelta(days=longest * (periods + 1) + 2), unit, zone)
    choosing = {name: wanted for name, wanted in filters.items() if name in ("tenant_id", "user_id")}
    first: dict[tuple[str, str], datetime] = {}
    for event in events:
        if passes(event, choosing):
            user = (event.tenant_id, event.user_id)
            first[user] = min(first.get(user, event.timestamp), event.timestamp)
    cells = []
    for place, cohort in enumerate(cohorts):
        members = {user for user, at in first.items() if period_of(at, unit, zone) == cohort}
        for n in range(periods + 1):
            period = everything[place + n]
            active = {
                (event.tenant_id, event.user_id)
                for event in events
                if passes(event, filters) and period_of(event.timestamp, unit, zone) == period
            }
            cells.append((cohort, n, period, len(members if n == 0 else members & active)))
    return cells
