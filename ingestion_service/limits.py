"""What the door takes at most. Pure."""

from __future__ import annotations

from typing import NamedTuple

from event_core.event import MAX_DEPTH, MAX_EVENT_BYTES

MAX_BATCH_EVENTS = 1_000
"""Events in one request."""


class Limits(NamedTuple):
    """Of one body and its events. Bytes count after decompression."""

    event_bytes: int = MAX_EVENT_BYTES
    depth: int = MAX_DEPTH
    separators: int = 100_000
    """Commas, colons and brackets in a body: 10 MB of ``[],[]`` would parse to 228 MiB."""
    events: int = MAX_BATCH_EVENTS
    retention_days: int | None = None
    """Events of days (UTC) longer ago are refused; None: none is too old."""
