"""How long events are kept: the one rule that the door, which refuses, and the store, which drops, must agree on. Pure."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

LEDGER_DAYS = 30
"""An event's id is remembered at least so long after it was stored, whatever its time: its copies come late too."""


def oldest_kept(now: datetime, days: int) -> datetime:
    """The first moment whose events are kept at ``now``: midnight (UTC) ``days`` days before today's. Whole days go."""
    today = now.astimezone(UTC).date()
    try:
        oldest = today - timedelta(days)
    except OverflowError:
        oldest = date.min
    return datetime.combine(oldest, time(), UTC)
