"""Which event ids were acknowledged lately, and with what content. Pure: time is passed in.

The window is a first, cheap guard; the consumer's unique event_id is the last. Two generations make it bounded without a clock
per entry: an id is remembered for at least ``seconds`` and ``events`` / 2 ids, and at most twice as long and ``events`` ids.
"""

from __future__ import annotations

from typing import NamedTuple

from ingestion_service.delivery import Delivery


class Seen(NamedTuple):
    """What is known of an event id."""

    content: int
    delivery: Delivery


class Window:
    """Event ids that are acknowledged or on their way to it. 0 ``events`` turns it off."""

    def __init__(self, events: int, seconds: float) -> None:
        self._half = events // 2 if events > 1 else events
        self._seconds = seconds
        self._young: dict[int, Seen] = {}
        self._old: dict[int, Seen] = {}
        self._turned: float | None = None

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def turn(self, now: float) -> None:
        """Forgets what is too old or too much; to be called once per request. ``now`` in seconds."""
        if self._turned is None:
            self._turned = now
        if now - self._turned >= 2 * self._seconds:
            self._young = {}
        if len(self._young) >= self._half or now - self._turned >= self._seconds:
            self._old, self._young = self._young, {}
            self._turned = now

    def find(self, number: int) -> Seen | None:
        """What is known of the event id ``number`` (``UUID.int``). An event that could not be stored is as if it never came."""
        seen = self._young.get(number) or self._old.get(number)
        if seen is None or isinstance(seen.delivery.outcome, Exception):
            return None
        return seen

    def add(self, number: int, content: int, delivery: Delivery) -> None:
        """The event id ``number`` is on its way."""
        if self._half:
            self._young[number] = Seen(content, delivery)
