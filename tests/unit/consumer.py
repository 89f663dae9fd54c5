"""The consumer's loop on memory, with everything that can go wrong within a test's reach."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from event_consumer.batch import Batch, Item
from event_consumer.breaker import Breaker
from event_consumer.dead_letter import DeadLetter, dead_letter
from event_consumer.metrics import Metrics
from event_consumer.progress import Progress
from event_consumer.runner import Runner
from event_consumer.store import FenceLost, MemoryStore, Written
from event_consumer.tracing import BatchTracer
from event_core.errors import BrokerUnavailable, DatabaseUnavailable, UndecodableMessage
from event_core.source import FakeMessage, Logs, MemorySource, Message, Polled
from event_core.topics import TopicPartition
from tests.unit import virtual_time

PARTITIONS = [TopicPartition("events", number) for number in range(3)]
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
RELAYED = b"bad, and on the dead letters' topic"
AWAY = DatabaseUnavailable("PostgreSQL is away")


class Row(NamedTuple):
    """A row led by its identity, as every row is; ``offset`` tells which of several copies was stored."""

    event_id: bytes
    offset: int


def decode(messages: Sequence[Message]) -> tuple[list[Item[Row]], list[DeadLetter]]:
    """What is empty or begins with ``bad`` is no event; ``RELAYED`` is a letter of the dead letters' topic."""
    items: list[Item[Row]] = []
    dead: list[DeadLetter] = []
    for message in messages:
        if not message.value or message.value.startswith(b"bad"):
            letter = dead_letter(message, UndecodableMessage("no event", reason="invalid_event"))
            dead.append(letter._replace(on_topic=message.value == RELAYED))
        else:
            items.append(Item(Row(message.value, message.offset), message))
    return items, dead


def clock() -> datetime:
    """The virtual present."""
    return NOW + timedelta(seconds=virtual_time.now())


class Ledger(MemoryStore[Row]):
    """A store that writes down which message each commit covered. It can lose its answer, as a network does, and commit what
    nobody waits for any more, as a server does whose client went away."""

    def __init__(self) -> None:
        super().__init__()
        self.covered: Counter[tuple[TopicPartition, int]] = Counter()
        self.lose_answers = 0
        self.slow = 0.0
        self.slow_only: TopicPartition | None = None
        self.commits_when_abandoned = False
        self.in_flight: Counter[TopicPartition] = Counter()
        self.most_in_flight = 0
        self._abandoned: set[asyncio.Task[None]] = set()

    async def write(self, batch: Batch[Row], expected: Mapping[TopicPartition, int]) -> Written | FenceLost:
        self.in_flight.update(batch.offsets.keys())
        self.most_in_flight = max(self.most_in_flight, *self.in_flight.values())
        try:
            if self.slow and (self.slow_only is None or self.slow_only in batch.offsets):
                await asyncio.sleep(self.slow)
        except asyncio.CancelledError:
            if self.commits_when_abandoned:
                self._abandoned.add(asyncio.create_task(self._commit_later(batch, expected)))
            raise
        finally:
            self.in_flight.subtract(batch.offsets.keys())
        outcome = await self._commit(batch, expected)
        if isinstance(outcome, Written) and self.lose_answers:
            self.lose_answers -= 1
            raise DatabaseUnavailable("the connection broke before the commit's answer")
        return outcome

    async def _commit_later(self, batch: Batch[Row], expected: Mapping[TopicPartition, int]) -> None:
        await asyncio.sleep(0.3)
        with contextlib.suppress(DatabaseUnavailable):
            await self._commit(batch, expected)

    async def _commit(self, batch: Batch[Row], expected: Mapping[TopicPartition, int]) -> Written | FenceLost:
        outcome = await super().write(batch, expected)
        if isinstance(outcome, Written):
            for item in batch.items:
                self.covered[TopicPartition(item.message.topic, item.message.partition), item.message.offset] += 1
            for letter in batch.dead:
                assert letter.partition is not None
                assert letter.offset is not None
                self.covered[TopicPartition(letter.topic, letter.partition), letter.offset] += 1
        return outcome


class Log(MemorySource):
    """A source that can be away, and that writes down what was told to Kafka beyond what was stored. ``like``: another
    consumer's, whose logs it reads too."""

    def __init__(self, store: Ledger, like: Log | None = None) -> None:
        super().__init__(PARTITIONS)
        self.away = False
        self.takes_no_commits = False
        self.polls = 0
        self.compacted: set[tuple[TopicPartition, int]] = set()
        self.handed_out = 0
        self.told_too_early: list[tuple[TopicPartition, int]] = []
        self.assigned = set(PARTITIONS)
        self.everything: dict[TopicPartition, list[FakeMessage]] = {partition: [] for partition in PARTITIONS}
        self._store = store
        if like is not None:
            self.records, self._begins, self.told_too_early = like.records, like._begins, like.told_too_early

    def append(
        self,
        partition: TopicPartition,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp: int = 0,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> FakeMessage:
        message = super().append(partition, value, key=key, timestamp=timestamp, headers=headers)
        self.everything[partition].append(message)
        return message

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self.assigned = set(partitions)
        super().assign(self.assigned)

    async def poll(self, max_records: int, wait: float, only: Collection[TopicPartition] | None = None) -> Polled:
        if self.away:
            raise BrokerUnavailable("Kafka is away")
        self.polls += 1
        polled = await super().poll(max_records, wait, only)
        kept = {p: [m for m in found if (p, m.offset) not in self.compacted] for p, found in polled.messages.items()}
        polled = polled._replace(messages={p: found for p, found in kept.items() if found})
        self.handed_out += sum(map(len, polled.messages.values()))
        return polled

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        if self.takes_no_commits:
            return False
        await super().commit(offsets)
        stored = self._store.stored_offsets
        self.told_too_early += [(p, offset) for p, offset in offsets.items() if offset > stored.get(p, 0)]
        return True


class Consumer:
    """A running consumer. Everything it does happens within ``virtual_time.run``. ``twin_of``: a second process beside it,
    which believes that the same partitions are its own."""

    def __init__(
        self,
        *,
        batch_size: int = 10,
        batch_age: float = 0.2,
        breaker_share: float = 1.0,
        twin_of: Consumer | None = None,
    ) -> None:
        self.metrics = Metrics()
        self.progress = Progress(clock)
        self.metrics.registry.register(self.progress)
        self.store: Ledger = twin_of.store if twin_of else Ledger()
        self.log: Log = Log(self.store, twin_of.log if twin_of else None)
        self._batch_size = batch_size
        self._batch_age = batch_age
        self._breaker_share = breaker_share
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self.times_asked = 0
        """How often the loop looked at the clock: how often it went round, about."""

    def _monotonic(self) -> float:
        self.times_asked += 1
        return virtual_time.now()

    def start(self) -> None:
        """A new process: it knows nothing of the last one but what is stored."""
        self._stop = asyncio.Event()
        self.metrics.registry.unregister(self.progress)
        self.progress = Progress(clock)
        self.metrics.registry.register(self.progress)
        runner = Runner(
            self.log,
            decode,
            self.store,
            Batch[Row](self._batch_size, self._batch_age),
            Breaker(self._breaker_share),
            metrics=self.metrics,
            progress=self.progress,
            tracer=BatchTracer(None, "memory"),
            clock=clock,
            monotonic=self._monotonic,
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
        return all(self.store.stored_offsets.get(p) == self.log.log(p).end for p in PARTITIONS)

    async def drain(self) -> None:
        await self.until(self.drained)

    def append(self, partition: int, *values: bytes) -> None:
        for value in values:
            self.log.append(PARTITIONS[partition], value)

    async def rival(self, partitions: Iterable[int], count: int) -> None:
        """Another consumer that believes the partitions are its own stores up to ``count`` messages of each."""
        for partition in (PARTITIONS[number] for number in partitions):
            log = self.log.log(partition)
            positions = await self.store.positions(Logs(self.log.cluster_id, {partition: log}))
            start = positions[partition].next_offset
            messages = self.log.records[partition][start - log.begin : start - log.begin + count]
            if not messages:
                continue
            batch: Batch[Row] = Batch(count, 1.0)
            batch.add(partition, messages, *decode(messages), 0.0)
            with contextlib.suppress(DatabaseUnavailable):  # its answer may get lost too
                await self.store.write(batch, {partition: start})

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def waits(self) -> float:
        """How often the database was waited for."""
        return sum(
            sample.value
            for family in self.metrics.waits.collect()
            for sample in family.samples
            if sample.name == "consumer_database_waits_total"
        )

    def decide(self, partition: int, offset: int) -> None:
        """The operator says where to read on (``python -m tools.offsets``)."""
        position = self.store.stored[PARTITIONS[partition]]
        self.store.stored[PARTITIONS[partition]] = position._replace(
            next_offset=offset, last_mark=None, cluster_id=None, last_record_at=None
        )

    def gap(self, partition: int) -> str | None:
        """The kind of the gap for which the partition is not read on, by the metric."""
        labels = {"topic": "events", "partition": str(partition)}
        kinds = ["cluster", "beyond_end", "expired", "recreated"]
        found = [kind for kind in kinds if self.metric("consumer_gap", **labels, kind=kind)]
        return found[0] if found else None

    def dead(self) -> list[tuple[int | None, int | None]]:
        """(partition, offset) of every dead letter."""
        return sorted((letter.partition, letter.offset) for letter in self.store.dead)

    def assert_everything_is_stored_once(self) -> None:
        """Each message ever written is covered by exactly one commit: good ones as rows, the first of equals wins; bad ones
        as dead letters; and Kafka was never told more than was stored."""
        messages = {(p, m.offset): m for p in PARTITIONS for m in self.log.everything[p]}
        assert self.store.covered == Counter(dict.fromkeys(messages, 1))
        bad = sorted((p.partition, m.offset) for (p, _), m in messages.items() if _is_bad(m))
        assert self.dead() == bad
        assert {letter.value for letter in self.store.dead} == {m.value for m in messages.values() if _is_bad(m)}
        first: dict[bytes | None, int] = {}
        for (_, offset), message in sorted(messages.items()):
            if not _is_bad(message):
                first.setdefault(message.value, offset)
        assert {key: row.offset for key, row in self.store.rows.items()} == first
        assert self.store.stored_offsets == {p: self.log.log(p).end for p in PARTITIONS}
        assert self.log.told_too_early == []


def _is_bad(message: Message) -> bool:
    return not message.value or message.value.startswith(b"bad")
