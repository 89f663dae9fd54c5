"""Where a consumer reads from: the interface, and the fake that ships beside it. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Log(NamedTuple):
    """What a partition's log holds: ``begin`` is the offset of its first record, ``end`` the one after its last."""

    begin: int
    end: int


class Logs(NamedTuple):
    """The logs ``of`` some partitions, and the Kafka cluster they are in."""

    cluster_id: str
    of: Mapping[TopicPartition, Log]


class Polled(NamedTuple):
    """What a poll brought. ``generation`` changes whenever the partitions have to be positioned anew: after a rebalance, and
    when one of them was read at an offset that its log does not have. ``ends`` is where logs ended as last heard, of those
    partitions that were heard of."""

    messages: Mapping[TopicPartition, list[Message]]
    assignment: frozenset[TopicPartition]
    generation: int
    ends: Mapping[TopicPartition, int]


class Source(Protocol):
    """Where the consumer reads from. After each change of ``generation`` every assigned partition stands still until ``seek``."""

    async def poll(self, max_records: int, wait: float, only: Collection[TopicPartition] | None = None) -> Polled:
        """At most ``max_records`` messages, of the partitions ``only`` where they are given, waiting up to ``wait`` seconds for
        the first. With 0 nothing is read, but the group still sees this member alive.

        Raises:
            BrokerUnavailable: Kafka is away; poll again.
            ClientBroken: polling again does not help.
        """

    def seek(self, partition: TopicPartition, offset: int | None) -> None:
        """Reads ``partition`` from ``offset`` on; with None nothing of it, until the next ``seek`` with an offset."""

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Tells Kafka the next offsets; whether it has them now. Never raises for a failed commit."""

    async def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The next offsets that Kafka was told last, of those ``partitions`` that it was ever told.

        Raises:
            BrokerUnavailable: Kafka does not answer.
        """

    async def logs(self, partitions: Iterable[TopicPartition]) -> Logs:
        """What the logs of ``partitions`` hold now, asked of Kafka within some seconds.

        Raises:
            BrokerUnavailable: Kafka does not answer, or does not know one of them.
        """


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
    """A source for tests: logs in memory (``records``), and an assignment that the test changes."""

    def __init__(self, partitions: Iterable[TopicPartition], *, cluster_id: str = "memory") -> None:
        self.records: dict[TopicPartition, list[FakeMessage]] = {partition: [] for partition in partitions}
        self.told: dict[TopicPartition, int] = {}
        self.cluster_id = cluster_id
        self._begins = dict.fromkeys(self.records, 0)
        self._assignment = frozenset(self.records)
        self._generation = 0
        self._positions: dict[TopicPartition, int] = {}

    def append(
        self,
        partition: TopicPartition,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp: int = 0,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> FakeMessage:
        """Adds a record at the end of ``partition``."""
        message = FakeMessage(*partition, self.log(partition).end, value, key, timestamp, headers)
        self.records[partition].append(message)
        return message

    def truncate(self, partition: TopicPartition, begin: int) -> None:
        """Drops the records before the offset ``begin``, as retention does."""
        dropped = begin - self._begins[partition]
        del self.records[partition][:dropped]
        self._begins[partition] = begin

    def recreate(self, partition: TopicPartition) -> None:
        """Makes the log anew, empty, as whoever deletes a topic and makes it again."""
        self.records[partition] = []
        self._begins[partition] = 0

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Rebalances: everything is taken away, ``partitions`` are given."""
        self._assignment = frozenset(partitions)
        self._position_anew()

    def log(self, partition: TopicPartition) -> Log:
        begin = self._begins[partition]
        return Log(begin, begin + len(self.records[partition]))

    async def poll(self, max_records: int, wait: float, only: Collection[TopicPartition] | None = None) -> Polled:
        await asyncio.sleep(0)
        messages: dict[TopicPartition, list[Message]] = {}
        for partition, position in list(self._positions.items()):
            if only is not None and partition not in only:
                continue
            begin, end = self.log(partition)
            if max_records and not begin <= position <= end:
                self._position_anew()
                messages = {}
                break
            if found := self.records[partition][position - begin : position - begin + max_records]:
                messages[partition] = list(found)
                self._positions[partition] = position + len(found)
                max_records -= len(found)
        ends = {partition: self.log(partition).end for partition in self._assignment}
        return Polled(messages, self._assignment, self._generation, ends)

    def seek(self, partition: TopicPartition, offset: int | None) -> None:
        if offset is None:
            self._positions.pop(partition, None)
        elif partition in self._assignment:
            self._positions[partition] = offset

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        self.told.update(offsets)
        return True

    async def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        await asyncio.sleep(0)
        return {partition: self.told[partition] for partition in partitions if partition in self.told}

    async def logs(self, partitions: Iterable[TopicPartition]) -> Logs:
        await asyncio.sleep(0)
        return Logs(self.cluster_id, {partition: self.log(partition) for partition in partitions})

    def _position_anew(self) -> None:
        self._generation += 1
        self._positions = {}
