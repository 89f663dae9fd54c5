"""The consumer's loop: what is stored, set aside and reported, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from event_consumer.batch import Batch
from event_consumer.runner import LANES
from event_consumer.store import FenceLost, Written
from event_core.errors import DeadLetterFlood
from event_core.topics import TopicPartition
from tests.unit.consumer import AWAY, PARTITIONS, RELAYED, Consumer, Row, clock
from tests.unit.virtual_time import now, run


def values(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def test_messages_there_before_the_start_and_after_it_are_stored_once() -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.append(0, *values(25))
        consumer.append(2, *values(7, 100))
        consumer.start()
        await consumer.drain()
        consumer.append(1, *values(3, 200))
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()
        assert consumer.metric("consumer_events_stored_total") == 35

    run(scenario())


def test_a_full_batch_is_written_at_once_and_a_small_one_once_it_is_old_enough() -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_size=10, batch_age=2.0)
        consumer.append(0, *values(12))
        consumer.start()
        began = now()
        await consumer.until(lambda: len(consumer.store.rows) == 10)
        assert now() - began < 1.0
        await consumer.until(lambda: len(consumer.store.rows) == 12)
        assert 2.0 <= now() - began < 3.0
        assert consumer.metric("consumer_batch_records_count") == 2
        assert consumer.metric("consumer_batch_records_sum") == 12
        await consumer.stop()

    run(scenario())


@pytest.mark.parametrize("position", [0, 4, 9], ids=["first", "middle", "last"])
@pytest.mark.parametrize("value", [b"bad", b"", None], ids=repr)
def test_a_bad_message_is_set_aside_with_its_bytes_and_its_neighbours_are_stored(
    position: int, value: bytes | None
) -> None:
    async def scenario() -> None:
        consumer = Consumer()
        for number in range(10):
            consumer.log.append(PARTITIONS[0], value if number == position else b"%d" % number, key=b"k")
        consumer.start()
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()
        assert len(consumer.store.rows) == 9
        (letter,) = consumer.store.dead
        assert (letter.offset, letter.value, letter.key, letter.reason) == (position, value, b"k", "invalid_event")
        assert consumer.metric("consumer_dead_letters_total", reason="invalid_event") == 1

    run(scenario())


def test_messages_that_are_all_bad_do_not_stop_the_loop() -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.append(0, *[b"bad"] * 35)
        consumer.append(1, b"good")
        consumer.start()
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()

    run(scenario())


def test_an_event_sent_twice_is_stored_once_and_counted_as_a_duplicate() -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.append(0, b"a", b"b", b"a")
        consumer.start()
        await consumer.drain()
        consumer.append(0, b"a", b"c")
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()
        assert consumer.metric("consumer_events_stored_total") == 3
        assert consumer.metric("consumer_events_duplicate_total") == 2

    run(scenario())


def test_a_stop_writes_what_is_in_hand() -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_age=60.0)
        consumer.append(0, *values(5))
        consumer.start()
        await asyncio.sleep(1)
        assert consumer.store.rows == {}
        await consumer.stop(within=1)
        assert len(consumer.store.rows) == 5

    run(scenario())


def test_a_fault_that_waiting_does_not_mend_ends_the_loop_and_commits_nothing() -> None:
    class Broken(RuntimeError):
        pass

    async def scenario() -> None:
        consumer = Consumer()

        async def write(batch: Batch[Row], expected: Mapping[TopicPartition, int]) -> Written | FenceLost:
            raise Broken

        consumer.store.write = write  # type: ignore[method-assign]  # a store that is at fault
        consumer.append(0, *values(5))
        consumer.start()
        with pytest.raises(Broken):
            await consumer.until(lambda: False)
        assert consumer.store.stored_offsets[PARTITIONS[0]] == 0
        assert consumer.log.told == {}

    run(scenario())


def test_a_stop_writes_what_is_being_written_and_what_is_in_hand() -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_size=10, batch_age=60.0)
        consumer.store.slow = 2.0
        consumer.append(0, *values(15))
        consumer.append(1, *values(18, 100))
        consumer.start()
        await consumer.until(lambda: consumer.store.in_flight.total() == 2)
        await asyncio.sleep(1)
        assert consumer.store.rows == {}
        await consumer.stop(within=10)
        assert len(consumer.store.rows) == 33
        consumer.assert_everything_is_stored_once()
        assert consumer.log.told == {PARTITIONS[0]: 15, PARTITIONS[1]: 18}

    run(scenario())


def test_what_kafka_does_not_take_is_told_again() -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.log.takes_no_commits = True
        consumer.append(0, *values(5))
        consumer.start()
        await consumer.until(lambda: len(consumer.store.rows) == 5)
        await asyncio.sleep(5)
        assert consumer.log.told == {}
        consumer.log.takes_no_commits = False
        await asyncio.sleep(2)
        assert consumer.log.told[PARTITIONS[0]] == 5, "although nothing more came"
        await consumer.stop()

    run(scenario())


def test_while_writes_are_slow_no_more_is_read_than_one_batch_in_flight_and_one_in_hand() -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_size=10)
        for partition in range(3):
            consumer.append(partition, *values(1000, 1000 * partition))
        consumer.store.slow = 600.0
        consumer.start()
        await asyncio.sleep(300)
        assert consumer.store.rows == {}
        assert LANES * 10 <= consumer.log.handed_out <= LANES * 2 * 10
        assert consumer.store.in_flight.total() <= 3
        consumer.store.slow = 0.0
        await consumer.until(consumer.drained, within=700)
        assert consumer.store.most_in_flight == 1
        await consumer.stop()
        consumer.assert_everything_is_stored_once()

    run(scenario())


def test_a_slow_write_holds_up_its_own_partitions_only() -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_size=10)
        for partition in range(2):
            consumer.append(partition, *values(200, 1000 * partition))
        consumer.store.slow, consumer.store.slow_only = 600.0, PARTITIONS[0]
        consumer.start()
        await consumer.until(lambda: consumer.store.stored_offsets.get(PARTITIONS[1]) == 200)
        assert consumer.store.stored_offsets[PARTITIONS[0]] == 0
        await consumer.kill()

    run(scenario())


@pytest.mark.parametrize("fault", ["the first write", "a later one"])
def test_a_fault_of_a_write_ends_the_loop_though_another_is_in_hand(fault: str) -> None:
    class Broken(RuntimeError):
        pass

    async def scenario() -> None:
        consumer = Consumer(batch_size=10)
        real, writes = consumer.store.write, 0

        async def write(batch: Batch[Row], expected: Mapping[TopicPartition, int]) -> Written | FenceLost:
            nonlocal writes
            writes += 1
            if fault == "the first write" or writes > 3:
                raise Broken
            return await real(batch, expected)

        consumer.store.write = write  # type: ignore[method-assign]  # a store that is at fault
        consumer.append(0, *values(100))
        consumer.start()
        with pytest.raises(Broken):
            await consumer.until(lambda: False)
        assert consumer.store.stored_offsets[PARTITIONS[0]] == (0 if fault == "the first write" else 30)
        assert consumer.log.told_too_early == []

    run(scenario())


def test_ages_are_reported_of_each_batch() -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_size=4, batch_age=60.0)
        hour_ago = int((clock().timestamp() - 3600) * 1000)
        for value in values(6):
            consumer.log.append(PARTITIONS[0], value, timestamp=hour_ago)
        consumer.start()
        await consumer.until(lambda: bool(consumer.store.rows))
        await asyncio.sleep(3)
        assert consumer.log.told[PARTITIONS[0]] == 4
        await consumer.stop()
        assert consumer.metric("consumer_record_age_seconds_count") == 2
        assert consumer.metric("consumer_record_age_seconds_sum") == pytest.approx(2 * 3600, abs=10)

    run(scenario())


def test_lag_grows_while_nothing_is_stored_and_is_0_when_nothing_waits() -> None:
    async def scenario() -> None:
        consumer = Consumer()

        def append(count: int) -> None:
            for value in values(count, len(consumer.log.records[PARTITIONS[0]])):
                consumer.log.append(PARTITIONS[0], value, timestamp=int(clock().timestamp() * 1000))

        def lag() -> tuple[float, float]:
            return (
                consumer.metric("consumer_lag_records", topic="events", partition="0"),
                consumer.metric("consumer_lag_seconds", topic="events", partition="0"),
            )

        append(5)
        consumer.start()
        await consumer.drain()
        await asyncio.sleep(600)
        assert lag() == (0, 0)
        consumer.store.outage = AWAY
        append(50)
        for minutes in (1, 2, 3):
            await asyncio.sleep(60)
            records, seconds = lag()
            assert records == 50
            assert abs(seconds - 60 * minutes) < 1, "since the first of them came, not since the last one before them"
        consumer.store.outage = None
        await consumer.drain()
        await asyncio.sleep(1)
        assert lag() == (0, 0)
        await consumer.stop()

    run(scenario())


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_where_too_much_is_bad_nothing_in_hand_is_written_and_the_loop_ends(share: float) -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_size=5000, batch_age=5.0, breaker_share=share)
        consumer.append(0, *values(300))
        consumer.append(1, *[b"bad"] * 900)
        consumer.start()
        if share == 1.0:
            await consumer.drain()
            await consumer.stop()
            consumer.assert_everything_is_stored_once()
            return
        with pytest.raises(DeadLetterFlood, match="are bad"):
            await consumer.until(lambda: False)
        assert (consumer.store.rows, consumer.dead()) == ({}, [])
        assert set(consumer.store.stored_offsets.values()) == {0}
        assert consumer.log.told == {}

    run(scenario())


def test_bad_messages_below_the_share_are_set_aside_and_letters_of_their_topic_never_count() -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_size=500, breaker_share=0.5)
        consumer.append(0, *[b"bad" if n % 3 == 0 else b"%d" % n for n in range(3000)])
        consumer.append(1, *[RELAYED] * 3000)
        consumer.start()
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()
        assert consumer.metric("consumer_dead_letters_total", reason="invalid_event") == 1000
        assert consumer.metric("consumer_dead_letters_total", reason="on_topic") == 3000

    run(scenario())


def test_after_a_restart_lag_counts_from_the_last_record_that_was_stored_before() -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.log.append(PARTITIONS[0], b"a", timestamp=int(clock().timestamp() * 1000))
        consumer.start()
        await consumer.drain()
        await consumer.stop()
        consumer.log.append(PARTITIONS[0], b"b", timestamp=int(clock().timestamp() * 1000))
        consumer.log.truncate(PARTITIONS[0], 2)  # unread: the partition stands still
        consumer.log.append(PARTITIONS[0], b"c", timestamp=int(clock().timestamp() * 1000))
        consumer.start()
        await asyncio.sleep(3600)
        assert consumer.gap(0) == "expired"
        assert consumer.metric("consumer_lag_records", topic="events", partition="0") == 2
        assert consumer.metric("consumer_lag_seconds", topic="events", partition="0") >= 3600
        await consumer.stop()

    run(scenario())
