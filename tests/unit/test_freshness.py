"""Up to when everything is stored: what may be claimed of a partition, and what may not."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from event_consumer.freshness import CaughtUp, Freshness
from event_consumer.gaps import Gap, GapKind
from event_consumer.progress import Progress
from event_core.errors import BrokerUnavailable
from event_core.source import Log, Logs
from event_core.topics import TopicPartition
from tests.unit.consumer import PARTITIONS, Consumer, clock
from tests.unit.test_runner import values
from tests.unit.test_runner_gaps import break_log, read_ten
from tests.unit.virtual_time import now, run

P0, P1, P2 = PARTITIONS


class Watched:
    """A running consumer and the watermarks it notes, none of which may promise more than is stored."""

    def __init__(self, consumer: Consumer | None = None) -> None:
        self.consumer = consumer or Consumer()
        self.watermarks: dict[TopicPartition, datetime] = {}
        self.locked: set[TopicPartition] = set()
        self.notes_fail: Exception | None = None
        self.kafka_is_away = False
        self.answer_seconds = 0.0
        self._came: defaultdict[TopicPartition, list[datetime]] = defaultdict(list)

    def append(self, partition: TopicPartition, *given: bytes) -> None:
        for value in given:
            self.consumer.log.append(partition, value)
            self._came[partition].append(clock())

    async def note(self, found: Sequence[CaughtUp]) -> Collection[TopicPartition]:
        if self.notes_fail is not None:
            raise self.notes_fail
        stored = self.consumer.store.stored_offsets
        kept = [
            each for each in found if each.partition not in self.locked and stored[each.partition] == each.next_offset
        ]
        for partition, _, at in kept:
            there = sum(came <= at for came in self._came[partition])
            assert stored[partition] >= there, f"{partition}: {there} records at {at}, stored are {stored[partition]}"
            assert at >= self.watermarks.get(partition, at)
            self.watermarks[partition] = at
        return [each.partition for each in kept]

    async def logs(self, partitions: Iterable[TopicPartition]) -> Logs:
        if self.kafka_is_away:
            raise BrokerUnavailable("Kafka is away")
        await asyncio.sleep(self.answer_seconds / 2)
        logs = await self.consumer.log.logs(partitions)
        await asyncio.sleep(self.answer_seconds / 2)
        return logs

    def ages(self) -> list[float]:
        """Of each partition, the seconds since the time up to which all is stored; infinite where that is not known."""
        return [
            (clock() - self.watermarks[each]).total_seconds() if each in self.watermarks else float("inf")
            for each in PARTITIONS
        ]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.consumer.start()
        freshness = Freshness(self.consumer.progress, self.note, clock=clock, now=now)
        freshness.ask_of(self.logs)
        stop = asyncio.Event()
        task = asyncio.create_task(freshness.run(stop))
        try:
            yield
            assert not task.done()
        finally:
            stop.set()
            async with asyncio.timeout(2):
                await task
            await self.consumer.stop()


def test_while_nothing_comes_every_partition_is_as_fresh_as_the_last_look_also_one_that_never_had_a_record() -> None:
    async def scenario() -> None:
        watched = Watched()
        watched.append(P0, *values(30))
        async with watched.running():
            await asyncio.sleep(5)
            for _ in range(50):
                await asyncio.sleep(0.3)
                assert max(watched.ages()) < 1.5

    run(scenario())


def test_what_waits_to_be_stored_holds_its_partition_and_no_other() -> None:
    async def scenario() -> None:
        watched = Watched()
        async with watched.running():
            await asyncio.sleep(5)
            watched.consumer.store.slow = 60.0
            came = clock()
            watched.append(P0, b"waits")
            await asyncio.sleep(50)
            assert came - timedelta(seconds=2) < watched.watermarks[P0] < came
            assert max(watched.ages()[1:]) < 1.5
            await asyncio.sleep(20)
            assert max(watched.ages()) < 1.5

    run(scenario())


@pytest.mark.parametrize("gap", [0.01, 0.1, 0.7])
def test_a_flow_that_never_ends_holds_nothing_up(gap: float) -> None:
    """Some record always waits, but never the one that waited a while ago."""

    async def scenario() -> None:
        watched = Watched(Consumer(batch_size=1_000))
        watched.consumer.store.slow = 0.3
        oldest = 0.0
        async with watched.running():
            for number in range(int(30 / gap)):
                watched.append(P0, b"bad %d" % number)
                await asyncio.sleep(gap)
                if number * gap > 5:
                    oldest = max(oldest, *watched.ages())
        assert oldest < 4

    run(scenario())


def test_an_answer_that_was_long_under_way_makes_nothing_younger_than_the_question() -> None:
    async def scenario() -> None:
        watched = Watched()
        watched.answer_seconds = 4.0
        async with watched.running():
            await asyncio.sleep(5)
            for number in range(200):
                watched.append(P0, b"%d" % number)
                await asyncio.sleep(0.1)
                assert min(watched.ages()) >= 4
            await asyncio.sleep(9)
            assert max(watched.ages()) < 10

    run(scenario())


def test_while_kafka_is_away_nothing_gets_fresher_and_that_is_said_once() -> None:
    async def scenario() -> None:
        watched = Watched()
        async with watched.running():
            await asyncio.sleep(5)
            watched.kafka_is_away = True
            since = clock()
            with capture_logs() as logged:
                await asyncio.sleep(60)
            assert max(watched.watermarks.values()) <= since
            assert [entry["log_level"] for entry in logged] == ["warning"]
            watched.kafka_is_away = False
            await asyncio.sleep(3)
            assert max(watched.ages()) < 1.5

    run(scenario())


def test_while_postgres_is_away_the_loop_goes_on_and_that_is_said_once() -> None:
    async def scenario() -> None:
        watched = Watched()
        async with watched.running():
            await asyncio.sleep(5)
            watched.notes_fail = ConnectionRefusedError("PostgreSQL is away")
            with capture_logs() as logged:
                await asyncio.sleep(60)
            assert [entry["log_level"] for entry in logged] == ["warning"]
            watched.notes_fail = None
            await asyncio.sleep(3)
            assert max(watched.ages()) < 1.5

    run(scenario())


def test_a_partition_whose_row_is_being_written_is_noted_when_it_is_free() -> None:
    async def scenario() -> None:
        watched = Watched()
        async with watched.running():
            await asyncio.sleep(5)
            watched.locked = {P1}
            await asyncio.sleep(10)
            assert watched.ages()[1] > 9
            assert max(watched.ages()[0], watched.ages()[2]) < 1.5
            watched.locked = set()
            await asyncio.sleep(3)
            assert max(watched.ages()) < 1.5

    run(scenario())


@pytest.mark.parametrize("kind", ["expired", "beyond_end", "recreated", "cluster"])
def test_of_a_log_that_is_not_read_on_nothing_is_claimed_until_somebody_decides(kind: str) -> None:
    async def scenario() -> None:
        consumer = await read_ten()
        break_log(consumer, kind)
        watched = Watched(consumer)
        async with watched.running():
            await asyncio.sleep(30)
            assert consumer.gap(0) == kind
            stuck = [number for number in range(3) if consumer.gap(number)]
            assert [each.partition for each in PARTITIONS if each not in watched.watermarks] == stuck
            for number in stuck:
                consumer.decide(number, consumer.log.log(PARTITIONS[number]).begin)
            await asyncio.sleep(30)
            assert max(watched.ages()) < 1.5

    run(scenario())


def test_a_log_that_was_made_anew_under_a_running_consumer_is_not_taken_for_the_old_one() -> None:
    async def scenario() -> None:
        watched = Watched()
        watched.consumer.append(0, *values(10))
        async with watched.running():
            await asyncio.sleep(5)
            since = clock()
            break_log(watched.consumer, "beyond_end")
            await asyncio.sleep(30)
            assert watched.watermarks[P0] <= since

    run(scenario())


def test_a_broker_that_never_answers_does_not_hold_up_the_end() -> None:
    async def scenario() -> None:
        watched = Watched()
        async with watched.running():
            await asyncio.sleep(5)
            watched.answer_seconds = 3600
            await asyncio.sleep(5)  # ``running`` bounds the end

    run(scenario())


def test_only_a_log_that_is_known_to_be_the_one_that_was_read_counts() -> None:
    """Where it ends says nothing while its last record is yet to be compared, and where it is too short."""

    async def scenario() -> None:
        progress, ends, told = Progress(clock), {P0: 10}, list[CaughtUp]()

        async def note(found: Sequence[CaughtUp]) -> Collection[TopicPartition]:
            told.extend(found)
            return [each.partition for each in found]

        async def logs(partitions: Iterable[TopicPartition]) -> Logs:
            return Logs("memory", {partition: Log(0, ends[partition]) for partition in partitions})

        freshness = Freshness(progress, note, clock=clock, now=now)
        freshness.ask_of(logs)

        async def noted() -> list[CaughtUp]:
            told.clear()
            await freshness.look()
            return told

        progress.take({P0: 10}, {P0: 10})
        assert await noted() == [], "its last record has not been compared yet"
        progress.unstuck(P0)
        assert await noted() == [CaughtUp(P0, 10, clock())]
        ends[P0] = 3
        assert await noted() == [], "a log made anew, before the loop finds out"
        ends[P0] = 0
        progress.stuck(P0, Gap(GapKind.BEYOND_END, "why"), 0)
        assert await noted() == [], "all of it is read, as it is empty, but it is not read on"
        progress.take({}, {})
        assert await noted() == [], "it is another's now"

    run(scenario())
