"""What is read but not written yet, and when it is time to write it. Pure: time is passed in."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from event_consumer.dead_letter import DeadLetter
from event_core.source import Message
from event_core.topics import TopicPartition

Row = TypeVar("Row")


class Item(NamedTuple, Generic[Row]):
    """A message with the row made of it: the message is what becomes a dead letter where the store refuses the row."""

    row: Row
    message: Message


class Batch(Generic[Row]):
    """Rows, dead letters and the offsets after them: written together or not at all."""

    def __init__(self, max_records: int, max_age: float, max_bytes: int = 1 << 24) -> None:
        """``max_age`` in seconds, counted from the first message; ``max_bytes`` of message values."""
        self._max_records = max_records
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._bytes = 0
        self.items: list[Item[Row]] = []
        self.dead: list[DeadLetter] = []
        self.offsets: dict[TopicPartition, int] = {}
        self.oldest_ms: int | None = None
        self._began = 0.0

    def __len__(self) -> int:
        return len(self.items) + len(self.dead)

    @property
    def room(self) -> int:
        """How many more messages it takes before it must be written; 0 once its bytes are too many."""
        return max(0, self._max_records - len(self)) if self._bytes < self._max_bytes else 0

    def add(
        self, partition: TopicPartition, items: list[Item[Row]], dead: list[DeadLetter], next_offset: int, now: float
    ) -> None:
        """Messages of one partition, in its order; ``next_offset`` is the one after the last of them; ``now`` in seconds."""
        if not len(self):
            self._began = now
        self.items += items
        self.dead += dead
        self.offsets[partition] = next_offset
        self._bytes += sum(len(item.message.value or b"") for item in items) + sum(len(d.value or b"") for d in dead)
        first = min((item.message.timestamp for item in items), default=None)
        if first is not None and first >= 0:
            self.oldest_ms = first if self.oldest_ms is None else min(self.oldest_ms, first)

    def is_ready(self, now: float) -> bool:
        """Full, or its first message has waited long enough."""
        return bool(len(self)) and (not self.room or now - self._began >= self._max_age)

    def wait(self, now: float, longest: float) -> float:
        """Seconds until it is ready by age, at most ``longest``; ``longest`` while it is empty."""
        if not len(self):
            return longest
        return min(longest, max(0.0, self._max_age - (now - self._began)))

    def empty(self) -> Batch[Row]:
        """A new batch with the same limits."""
        return Batch(self._max_records, self._max_age, self._max_bytes)
