"""An experiment's users, one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from tests.oracles.counts import passes
from tests.oracles.events import Event


class Counted(NamedTuple):
    """A variant's users."""

    users: int = 0
    conversions: int = 0
    still_open: int = 0


def experiment(
    events: Sequence[Event],
    asked: tuple[str, str],
    start: datetime,
    end: datetime,
    window: timedelta,
    filters: Mapping[str, Any],
    watermark: datetime,
) -> tuple[dict[str, Counted], int]:
    """What is to be counted in each variant, and how many users are excluded. ``asked``: the experiment and the goal."""
    about_users = {name: wanted for name, wanted in filters.items() if name in ("tenant_id", "user_id")}
    found: dict[str, Counted] = {}
    excluded = 0
    for user in {(event.tenant_id, event.user_id) for event in events if passes(event, about_users)}:
        own = [event for event in events if (event.tenant_id, event.user_id) == user]
        exposures = [event for event in own if event.experiment_id == asked[0] and event.variant is not None]
        if not exposures:
            continue
        first = min(exposures, key=lambda event: event.timestamp)
        if not start <= first.timestamp < end:
            continue
        if len({event.variant for event in exposures if event.timestamp < end}) > 1:
            excluded += 1
            continue
        over = first.timestamp + window
        converts = any(
            event.event_name == asked[1] and passes(event, filters) and first.timestamp < event.timestamp <= over
            for event in own
        )
        assert first.variant is not None
        users, conversions, still_open = found.get(first.variant, Counted())
        found[first.variant] = Counted(users + 1, conversions + converts, still_open + (over > watermark))
    return found, excluded
