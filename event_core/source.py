"""Where a consumer reads from: the interface, and the fake that ships beside it. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from event_core.topics import TopicPartition


class Message(Protocol):
    """A record of a topic as consumed."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Iterable[tuple[str, bytes]]: ...


class Polled(NamedTuple):
    """What a poll brought. ``generation`` changes whenever the assignment was made anew."""

    messages: Mapping[TopicPartition, list[Message]]
    assignment: frozenset[TopicPartition]
    generation: int


class Source(Protocol):
    """Where the consumer reads from. After each change of ``generation`` every assigned partition stands still until ``seek``."""

    async def poll(self, max_records: int, wait: float) -> Polled:
        """At most ``max_records`` messages, waiting up to ``wait`` seconds for the first. With 0 nothing is read, but the
        group still sees this member alive.

        Raises:
            BrokerUnavailable: Kafka is away; poll again.
            ClientBroken: polling again does not help.
        """

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Reads ``partition`` from ``offset`` on."""

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Tells Kafka the next offsets, for lag tools only: nothing is read from there. Never raises for a failed commit."""

    def end(self, partition: TopicPartition) -> int | None:
        """The offset after the last record of the log as last heard, or None."""


@dataclass(frozen=True)
class FakeMessage:
    """A message for tests."""

    topic: str
    partition: int
    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp: int = 0
    headers: tuple[tuple[str, bytes], ...] = field(default=())


class MemorySource:
    """A source for tests: logs in memory, and an assignment that the test changes."""

    def __init__(self, partitions: Iterable[TopicPartition]) -> None:
        self.logs: dict[TopicPartition, list[FakeMessage]] = {partition: [] for partition in partitions}
        self.committed: dict[TopicPartition, int] = {}
        self._assignment = frozenset(self.logs)
        self._generation = 0
        self._positions: dict[TopicPartition, int] = {}

    def append(self, partition: TopicPartition, value: bytes | None, *, key: bytes | None = None) -> FakeMessage:
        """Adds a record at the end of ``partition``."""
        log = self.logs[partition]
        log.append(FakeMessage(*partition, len(log), value, key))
        return log[-1]

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Rebalances: everything is taken away, ``partitions`` are given."""
        self._assignment = frozenset(partitions)
        self._generation += 1
        self._positions = {}

    async def poll(self, max_records: int, wait: float) -> Polled:
        await asyncio.sleep(0)
        messages: dict[TopicPartition, list[Message]] = {}
        for partition, position in self._positions.items():
            if found := self.logs[partition][position : position + max_records]:
                messages[partition] = list(found)
                self._positions[partition] = position + len(found)
                max_records -= len(found)
        return Polled(messages, self._assignment, self._generation)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition in self._assignment:
            self._positions[partition] = offset

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self.committed.update(offsets)

    def end(self, partition: TopicPartition) -> int | None:
        return len(self.logs[partition])
