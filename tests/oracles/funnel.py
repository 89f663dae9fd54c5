"""Funnels, by trying every chain of events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from tests.oracles.counts import passes
from tests.oracles.events import Event


class Step(NamedTuple):
    """As the SQL function's rows."""

    step: int
    event_name: str
    users: int
    still_open: int


def _chains(
    begun: list[Event], events: Sequence[Event], steps: Sequence[str], window: timedelta, per_step: bool
) -> Iterator[list[Event]]:
    """The chain as far as it is, and every way to go on."""
    yield begun
    if len(begun) < len(steps):
        deadline = (begun[-1] if per_step else begun[0]).timestamp + window
        for event in events:
            if event.event_name == steps[len(begun)] and begun[-1].timestamp < event.timestamp <= deadline:
                yield from _chains([*begun, event], events, steps, window, per_step)


def funnel(
    events: Sequence[Event],
    start: datetime,
    end: datetime,
    steps: Sequence[str],
    window: timedelta,
    per_step: bool,
    filters: Mapping[str, Any],
    as_of: datetime,
) -> list[Step]:
    """Users by their longest chain; open are those who have any chain, of any length, whose deadline lies after ``as_of``."""
    each: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events:
        if passes(event, filters):
            each[event.tenant_id, event.user_id].append(event)
    furthest: dict[tuple[str, str], int] = {}
    still_open: set[tuple[str, str]] = set()
    for user, theirs in each.items():
        for entry in theirs:
            if entry.event_name == steps[0] and start <= entry.timestamp < end:
                for chain in _chains([entry], theirs, steps, window, per_step):
                    furthest[user] = max(furthest.get(user, 0), len(chain))
                    if (chain[-1] if per_step else entry).timestamp + window > as_of:
                        still_open.add(user)
    return [
        Step(
            number,
            name,
            sum(reached >= number for reached in furthest.values()),
            sum(reached == number < len(steps) and user in still_open for user, reached in furthest.items()),
        )
        for number, name in enumerate(steps, 1)
    ]
