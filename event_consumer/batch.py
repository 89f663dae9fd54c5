"""What is read but not written yet, and when it is time to write it. Pure: time is passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
        self.began = 0.0
        """When its first message was added, in the seconds that ``add`` is told."""
        self.items: list[Item[Row]] = []
        self.dead: list[DeadLetter] = []
        self.dead_from: list[TopicPartition] = []
        """Where each of ``dead`` was read: one that came from the dead letters' topic names another origin."""
        self.offsets: dict[TopicPartition, int] = {}
        """The offset after the last message of each partition."""
        self.last: dict[TopicPartition, Message] = {}
        self.messages: Counter[TopicPartition] = Counter()
        """How many messages of each partition it holds."""
        self.oldest_ms: int | None = None
        """Record time of the oldest message, milliseconds since 1970."""
        self.overdue = 0
        """How often the store did not finish in time with it (a cancelled statement)."""

    def __len__(self) -> int:
        return len(self.items) + len(self.dead)

    @property
    def room(self) -> int:
        """How many more messages it takes before it must be written; 0 once its bytes are too many."""
        return max(0, self._max_records - len(self)) if self._bytes < self._max_bytes else 0

    def add(
        self,
        partition: TopicPartition,
        messages: Sequence[Message],
        items: list[Item[Row]],
        dead: list[DeadLetter],
        now: float,
    ) -> None:
        """``messages`` (at least one) of one partition in its order, and what was made of them; ``now`` in seconds."""
        if not len(self):
            self.began = now
        self.items += items
        self.dead += dead
        self.dead_from += [partition] * len(dead)
        self.last[partition] = last = messages[-1]
        self.offsets[partition] = last.offset + 1
        self.messages[partition] += len(messages)
        self._bytes += sum([len(message.value) for message in messages if message.value is not None])
        first = messages[0].timestamp
        if first >= 0:
            self.oldest_ms = first if self.oldest_ms is None else min(self.oldest_ms, first)

    def is_ready(self, now: float) -> bool:
        """Full, or its first message has waited long enough."""
        return bool(len(self)) and (not self.room or now - self.began >= self._max_age)

    def wait(self, now: float, longest: float) -> float:
        """Seconds until it is ready by age, at most ``longest``; ``longest`` while it is empty."""
        if not len(self):
            return longest
        return min(longest, max(0.0, self._max_age - (now - self.began)))

    def empty(self) -> Batch[Row]:
        """A new batch with the same limits."""
        return Batch(self._max_records, self._max_age, self._max_bytes)
