"""What is sent: a record to a topic, or a request to the door. Pure."""

from __future__ import annotations

from typing import NamedTuple

from event_core.codec import Record


class Outgoing(NamedTuple):
    """A record on its way. ``partition``: where it goes if it has no key."""

    topic: str
    record: Record
    partition: int | None = None


class DoorRequest(NamedTuple):
    """A POST to the ingestion service."""

    path: str
    headers: list[tuple[bytes, bytes]]
    content: bytes
