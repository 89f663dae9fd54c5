"""Time is passed in: logic takes ``now`` or a ``Clock``, so that tests choose it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the present as an aware UTC datetime."""
Monotonic = Callable[[], float]
"""Returns seconds that never go backwards, for ages and time-outs."""

monotonic: Monotonic = time.monotonic


def utc_now() -> datetime:
    """The present as an aware UTC datetime."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """``moment`` (aware) as RFC 3339 in UTC with a ``Z``: ``2026-01-31T12:00:00.000001Z``."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def from_milliseconds(milliseconds: int) -> datetime | None:
    """A record's time (milliseconds since 1970); None where there is none, or some producer's clock made it impossible."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds >= 0 else None
    except (OverflowError, ValueError, OSError):
        return None
