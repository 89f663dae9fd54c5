"""A batch's ``sent_at`` against this server's clock: by how much event times are corrected. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from event_core.event import as_utc

SKEW_TOLERANCE = timedelta(minutes=5)
"""A client's clock this far off, or less, is believed."""


def correction(sent_at: datetime, received_at: datetime) -> timedelta | None:
    """What to add to each time of a batch sent at ``sent_at`` (by the client's clock); None where the clock is believed.

    Both aware UTC. A slow upload counts as skew: the client cannot know how long it took.
    """
    off = received_at - sent_at
    return off if abs(off) > SKEW_TOLERANCE else None


def corrected(timestamp: datetime, by: timedelta) -> datetime:
    """``timestamp`` by this server's clock: timestamp - sent_at + received_at.

    Raises:
        ValueError: the result lies outside the years 1-9999.
    """
    try:
        return as_utc(timestamp + by)
    except OverflowError:
        raise ValueError("the time, corrected by sent_at, lies outside the years 1 to 9999 in UTC") from None
