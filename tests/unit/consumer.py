"""The consumer's loop on memory, with everything that can go wrong within a test's reach."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from event_consumer.batch import Batch, Item
from event_consumer.dead_letter import DeadLetter, dead_letter
from event_consumer.metrics import Metrics
from event_consumer.runner import Runner
from event_consumer.store import FenceLost, MemoryStore, Written
from event_consumer.tracing import BatchTracer
from event_core.errors import BrokerUnavailable, DatabaseUnavailable, UndecodableMessage
from event_core.source import MemorySource, Message, Polled
from event_core.topics import TopicPartition
from tests.unit import virtual_time

PARTITIONS = [TopicPartition("events", number) for number in range(3)]
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
AWAY = DatabaseUnavailable("PostgreSQL is away")


class Row(NamedTuple):
    """A row led by its identity, as every row is; ``offset`` tells which of several copies was stored."""

    event_id: bytes
    offset: int


def to_row(message: Message) -> Row:
    if not message.value or message.value.startswith(b"bad"):
        raise UndecodableMessage("no event", reason="invalid_event")
    return Row(message.value, message.offset)


class Ledger(MemoryStore[Row]):
    """A store that writes down which message each commit covered, and can lose its answer, as a network does."""

    def __init__(self) -> None:
        super().__init__()
        self.covered: Counter[tuple[TopicPartition, int]] = Counter()
        self.lose_answers = 0
        self.slow = 0.0

    async def write(self, batch: Batch[Row], expected: Mapping[TopicPartition, int]) -> Written | FenceLost:
        if self.slow:
            await asyncio.sleep(self.slow)
        outcome = await super().write(batch, expected)
        if isinstance(outcome, Written):
            for item in batch.items:
                self.covered[TopicPartition(item.message.topic, item.message.partition), item.message.offset] += 1
            for letter in batch.dead:
                self.covered[TopicPartition(letter.topic, letter.partition), letter.offset] += 1
            if self.lose_answers:
                self.lose_answers -= 1
                raise DatabaseUnavailable("the connection broke before the commit's answer")
        return outcome


class Log(MemorySource):
    """A source that can be away, and that writes down what was told to Kafka beyond what was stored."""

    def __init__(self, store: Ledger) -> None:
        super().__init__(PARTITIONS)
        self.away = False
        self.polled_while_waiting = 0
        self.told_too_early: list[tuple[TopicPartition, int]] = []
        self.assigned = set(PARTITIONS)
        self._store = store

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self.assigned = set(partitions)
        super().assign(self.assigned)

    async def poll(self, max_records: int, wait: float) -> Polled:
        if self.away:
            raise BrokerUnavailable("Kafka is away")
        if max_records == 0:
            self.polled_while_waiting += 1
        return await super().poll(max_records, wait)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        await super().commit(offsets)
        stored = self._store.stored_offsets
        self.told_too_early += [(p, offset) for p, offset in offsets.items() if offset > stored.get(p, 0)]


class Consumer:
    """A running consumer. Everything it does happens within ``virtual_time.run``."""

    def __init__(self, *, batch_size: int = 10, batch_age: float = 0.2) -> None:
        self.metrics = Metrics()
        self.store = Ledger()
        self.log = Log(self.store)
        self._batch_size = batch_size
        self._batch_age = batch_age
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """A new process: it knows nothing of the last one but what is stored."""
        self._stop = asyncio.Event()
        runner = Runner(
            self.log,
            to_row,
            self.store,
            Batch[Row](self._batch_size, self._batch_age),
            metrics=self.metrics,
            tracer=BatchTracer(None, "memory"),
            clock=lambda: NOW,
            monotonic=virtual_time.now,
        )
        self.log.assign(PARTITIONS)
        self._running = asyncio.create_task(runner.run(self._stop))

    async def stop(self, within: float = 25.0) -> None:
        """SIGTERM. Raises TimeoutError where it takes longer than ``within`` seconds."""
        self._stop.set()
        assert self._running is not None
        async with asyncio.timeout(within):
            await self._running

    async def kill(self) -> None:
        """SIGKILL."""
        assert self._running is not None
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running

    async def until(self, holds: Callable[[], bool], within: float = 60.0) -> None:
        """Returns once ``holds()``; raises TimeoutError after ``within`` seconds, or what the consumer failed with."""
        assert self._running is not None
        async with asyncio.timeout(within):
            while not holds():
                if self._running.done():
                    self._running.result()
                    raise AssertionError("the consumer ended")
                await asyncio.sleep(0.05)

    def drained(self) -> bool:
        """Every message of the log is behind a stored offset."""
        return all(self.store.stored_offsets.get(p) == len(self.log.logs[p]) for p in PARTITIONS)

    async def drain(self) -> None:
        await self.until(self.drained)

    def append(self, partition: int, *values: bytes) -> None:
        for value in values:
            self.log.append(PARTITIONS[partition], value)

    async def rival(self, partitions: Iterable[int], count: int) -> None:
        """Another consumer that believes the partitions are its own stores up to ``count`` messages of each."""
        for partition in (PARTITIONS[number] for number in partitions):
            start = (await MemoryStore.offsets(self.store, [partition]))[partition]
            messages = self.log.logs[partition][start : start + count]
            if not messages:
                continue
            items: list[Item[Row]] = []
            dead: list[DeadLetter] = []
            for message in messages:
                try:
                    items.append(Item(to_row(message), message))
                except UndecodableMessage as error:
                    dead.append(dead_letter(message, error))
            batch: Batch[Row] = Batch(count, 1.0)
            batch.add(partition, items, dead, start + len(messages), 0.0)
            with contextlib.suppress(DatabaseUnavailable):  # its answer may get lost too
                await self.store.write(batch, {partition: start})

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def dead(self) -> list[tuple[int, int]]:
        """(partition, offset) of every dead letter."""
        return sorted((letter.partition, letter.offset) for letter in self.store.dead)

    def assert_everything_is_stored_once(self) -> None:
        """Each message of the log is covered by exactly one commit: good ones as rows, the first of equals wins; bad ones
        as dead letters; and Kafka was never told more than was stored."""
        messages = {(p, m.offset): m for p in PARTITIONS for m in self.log.logs[p]}
        assert self.store.covered == Counter(dict.fromkeys(messages, 1))
        bad = sorted((p.partition, m.offset) for (p, _), m in messages.items() if _is_bad(m))
        assert self.dead() == bad
        assert {letter.value for letter in self.store.dead} == {m.value for m in messages.values() if _is_bad(m)}
        first: dict[bytes | None, int] = {}
        for (_, offset), message in sorted(messages.items()):
            if not _is_bad(message):
                first.setdefault(message.value, offset)
        assert {key: row.offset for key, row in self.store.rows.items()} == first
        assert self.store.stored_offsets == {p: len(self.log.logs[p]) for p in PARTITIONS}
        assert self.log.told_too_early == []


def _is_bad(message: Message) -> bool:
    return not message.value or message.value.startswith(b"bad")
