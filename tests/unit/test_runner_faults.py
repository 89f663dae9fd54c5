"""The consumer's loop when things go wrong around it: outages, rebalances, rivals, kills."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.consumer import AWAY, PARTITIONS, Consumer
from tests.unit.test_runner import values
from tests.unit.virtual_time import now, run


@pytest.mark.parametrize("when", ["before the start", "with a batch in hand"])
def test_an_outage_of_the_database_is_waited_out_and_sets_nothing_aside(when: str) -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.append(0, *values(25))
        if when == "before the start":
            consumer.store.outage = AWAY
        consumer.start()
        if when != "before the start":
            await consumer.drain()
            consumer.store.outage = AWAY
        consumer.append(1, *values(25, 100))
        await asyncio.sleep(1800)
        assert consumer.dead() == []
        assert consumer.waits() >= 1800 / 10
        consumer.store.outage = None
        healed = now()
        await consumer.drain()
        assert now() - healed < 10
        await consumer.stop()
        consumer.assert_everything_is_stored_once()
        assert consumer.dead() == []

    run(scenario())


@pytest.mark.parametrize("when", ["before the start", "with a batch in hand", "with full batches in hand"])
def test_during_an_outage_the_group_keeps_seeing_the_consumer(when: str) -> None:
    async def scenario() -> None:
        consumer = Consumer()
        if when == "before the start":
            consumer.store.outage = AWAY
        consumer.start()
        if when != "before the start":
            await consumer.drain()
            consumer.store.outage = AWAY
            for partition in range(3):
                consumer.append(partition, *values(5 if when == "with a batch in hand" else 500, 1000 * partition))
        for _ in range(10):
            before = consumer.log.polls
            await asyncio.sleep(30)  # max_poll_interval_ms is 300 s
            assert consumer.log.polls > before
        await consumer.stop()

    run(scenario())


def test_a_stop_during_an_outage_returns_soon_and_the_next_start_loses_nothing() -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.start()
        await consumer.drain()
        consumer.store.outage = AWAY
        consumer.append(0, *values(25), b"bad")
        await asyncio.sleep(100)
        await consumer.stop(within=1)
        assert (consumer.store.rows, consumer.dead()) == ({}, [])
        consumer.store.outage = None
        consumer.start()
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()

    run(scenario())


def test_a_stop_before_the_first_assignment_could_be_taken_up_returns_soon() -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.store.outage = AWAY
        consumer.start()
        await asyncio.sleep(100)
        await consumer.stop(within=1)

    run(scenario())


def test_while_kafka_is_away_it_waits_and_then_goes_on() -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.log.away = True
        consumer.start()
        consumer.append(0, *values(5))
        await asyncio.sleep(100)
        consumer.log.away = False
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()

    run(scenario())


def test_a_rebalance_drops_what_is_in_hand_and_reads_it_again_where_it_is_still_ours() -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_age=5.0)
        consumer.append(0, *values(4))
        consumer.append(1, *values(4, 100))
        consumer.start()
        await asyncio.sleep(1)
        assert consumer.store.rows == {}
        consumer.log.assign([PARTITIONS[0]])
        await consumer.until(lambda: len(consumer.store.rows) == 4)
        await asyncio.sleep(10)
        assert consumer.store.stored_offsets[PARTITIONS[1]] == 0  # no longer ours
        consumer.log.assign(PARTITIONS)
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()

    run(scenario())


def test_a_rebalance_during_an_outage_gives_the_batch_up() -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.start()
        await consumer.drain()
        consumer.store.outage = AWAY
        consumer.append(0, *values(5))
        await asyncio.sleep(20)
        consumer.log.assign([PARTITIONS[1], PARTITIONS[2]])
        await asyncio.sleep(20)
        consumer.store.outage = None
        await asyncio.sleep(20)
        assert consumer.store.rows == {}
        consumer.log.assign(PARTITIONS)
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()

    run(scenario())


def test_a_batch_that_another_consumer_has_stored_already_is_given_up_and_reported() -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.append(0, b"a", b"bad", b"c")
        consumer.append(1, b"d")
        consumer.store.slow = 1.0
        consumer.start()
        await asyncio.sleep(0.8)  # within the write
        consumer.store.slow = 0.0
        await consumer.rival([0], 2)
        await consumer.drain()
        await consumer.stop()
        assert consumer.metric("consumer_fence_lost_total") == 1
        consumer.assert_everything_is_stored_once()
        assert consumer.metric("consumer_events_stored_total") == 2  # the rival stored the other one

    run(scenario())


def test_a_commit_whose_answer_got_lost_is_not_made_twice() -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.store.lose_answers = 1
        consumer.append(0, b"a", b"bad", b"c")
        consumer.start()
        await consumer.drain()
        consumer.append(0, b"d", b"bad2")
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()

    run(scenario())


@pytest.mark.parametrize("commits", [True, False], ids=["committed all the same", "given up by the database too"])
@pytest.mark.parametrize("slow", [0.5, 4.0, 8.0, 60.0])
def test_partitions_taken_away_in_mid_write_and_given_back_are_read_on(slow: float, commits: bool) -> None:
    async def scenario() -> None:
        consumer = Consumer()
        for partition in range(3):
            consumer.append(partition, *values(30, 100 * partition), b"bad")
        consumer.store.slow, consumer.store.commits_when_abandoned = slow, commits
        consumer.start()
        await asyncio.sleep(0.4)
        assert consumer.store.in_flight.total() > 0
        consumer.log.assign([])
        await asyncio.sleep(0.1)
        consumer.log.assign(PARTITIONS)
        consumer.store.slow = 0.0
        given = now()
        await consumer.drain()
        assert now() - given < 20
        await consumer.stop()
        consumer.assert_everything_is_stored_once()

    run(scenario())


def test_two_consumers_that_believe_in_the_same_partitions_store_everything_once_and_neither_stands_still() -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_size=3, batch_age=0.1)
        twin = Consumer(batch_size=5, batch_age=0.15, twin_of=consumer)
        consumer.store.slow = 0.05
        consumer.start()
        twin.start()
        for number in range(40):
            for partition in range(3):
                consumer.append(partition, b"%d/%d" % (partition, number))
                consumer.append(partition, b"bad" if number % 10 == 0 else b"%d/0" % partition)
            await asyncio.sleep(0.1)
        await consumer.drain()
        await twin.until(twin.drained)
        stored = [c.metric("consumer_events_stored_total") for c in (consumer, twin)]
        assert sum(stored) == 120
        assert consumer.metric("consumer_fence_lost_total") + twin.metric("consumer_fence_lost_total") > 0
        consumer.log.assign(PARTITIONS)
        await consumer.stop()
        await twin.stop()
        consumer.assert_everything_is_stored_once()

    run(scenario())


def test_while_it_waits_for_kafka_with_something_in_hand_it_does_not_spin() -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.append(0, b"a", b"b")
        consumer.store.slow = 1.0
        consumer.start()
        await consumer.until(lambda: consumer.store.in_flight.total() == 1)
        await asyncio.sleep(0.85)
        consumer.append(1, b"c")  # of the other lane, too young to be written
        await asyncio.sleep(0.05)
        consumer.log.away = True
        consumer.store.slow = 0.0
        await consumer.rival([0], 1)
        await asyncio.sleep(2)  # the fence is lost, so it has to be positioned anew
        before = consumer.times_asked
        await asyncio.sleep(600)
        assert consumer.times_asked - before < 600 * 20
        consumer.log.away = False
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()

    run(scenario())


def test_a_kill_in_the_middle_of_a_write_loses_and_doubles_nothing() -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_age=0.1)
        consumer.append(0, *values(100), b"bad")
        consumer.store.slow = 0.5
        for _ in range(10):
            consumer.start()
            await asyncio.sleep(1.7)
            await consumer.kill()
        consumer.start()
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()

    run(scenario())
