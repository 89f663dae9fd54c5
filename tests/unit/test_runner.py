"""The consumer's loop: what is stored, set aside and reported, and when."""

from __future__ import annotations

import asyncio

import pytest

from event_consumer.batch import Batch
from event_consumer.store import FenceLost, Written
from event_core.topics import TopicPartition
from tests.unit.consumer import NOW, PARTITIONS, Consumer, Row
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

        async def write(batch: Batch[Row], expected: dict[TopicPartition, int]) -> Written | FenceLost:
            raise Broken

        consumer.store.write = write  # type: ignore[assignment, method-assign]  # a store that is at fault
        consumer.append(0, *values(5))
        consumer.start()
        with pytest.raises(Broken):
            await consumer.until(lambda: False)
        assert consumer.store.stored_offsets[PARTITIONS[0]] == 0
        assert consumer.log.committed == {}

    run(scenario())


def test_lag_and_age_are_reported_after_each_batch() -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_size=4, batch_age=60.0)
        consumer.append(0, *values(6))
        consumer.start()
        await consumer.until(lambda: bool(consumer.store.rows))
        await asyncio.sleep(1)
        assert consumer.metric("consumer_lag_records", topic="events", partition="0") == 2
        assert consumer.log.committed[PARTITIONS[0]] == 4
        await consumer.stop()
        assert consumer.metric("consumer_lag_records", topic="events", partition="0") == 0
        assert consumer.metric("consumer_event_age_seconds_sum") == pytest.approx(2 * NOW.timestamp())

    run(scenario())
