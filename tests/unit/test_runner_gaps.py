"""A partition whose log is not the one that was read, or lost unread records: it stands still, loudly, until somebody decides."""

from __future__ import annotations

import asyncio

import pytest

from event_consumer.runner import GAP_SECONDS
from tests.unit.consumer import PARTITIONS, Consumer
from tests.unit.test_runner import values
from tests.unit.virtual_time import now, run

P0 = PARTITIONS[0]


async def read_ten() -> Consumer:
    """Ended after ten messages of partition 0 were stored."""
    consumer = Consumer()
    consumer.start()
    await consumer.drain()
    consumer.append(0, *values(10))
    await consumer.drain()
    await consumer.stop()
    return consumer


def break_log(consumer: Consumer, kind: str) -> None:
    if kind == "expired":
        consumer.append(0, *values(10, 10))
        consumer.log.truncate(P0, 15)
    elif kind == "cluster":
        consumer.log.cluster_id = "another"
    else:
        consumer.log.recreate(P0)
        consumer.append(0, *values({"beyond_end": 3, "recreated": 10}[kind], 100))


@pytest.mark.parametrize("kind", ["expired", "beyond_end", "recreated", "cluster"])
def test_a_gap_stops_its_partition_until_somebody_decides_and_no_other(kind: str) -> None:
    async def scenario() -> None:
        consumer = await read_ten()
        break_log(consumer, kind)
        consumer.start()
        await consumer.until(lambda: consumer.gap(0) is not None)
        assert consumer.gap(0) == kind
        consumer.append(0, *values(5, 200))
        if kind != "cluster":  # then every partition is another one
            consumer.append(1, *values(20, 300))
            await consumer.until(lambda: consumer.store.stored_offsets[PARTITIONS[1]] == 20, within=30)
        await asyncio.sleep(600)
        assert consumer.store.stored_offsets[P0] == 10
        assert len(consumer.store.rows) == (10 if kind == "cluster" else 30)
        assert consumer.gap(0) == kind

        end = consumer.log.log(P0).end
        for partition in range(3) if kind == "cluster" else [0]:
            consumer.decide(partition, consumer.log.log(PARTITIONS[partition]).begin)
        decided = now()
        await consumer.until(lambda: consumer.store.stored_offsets[P0] == end)
        assert now() - decided < GAP_SECONDS + 5
        await asyncio.sleep(1)
        assert [consumer.gap(n) for n in range(3)] == [None] * 3
        assert consumer.log.told_too_early == []
        stored = {message.value for message in consumer.log.records[P0]}
        assert stored <= set(consumer.store.rows)
        await consumer.stop()

    run(scenario())


@pytest.mark.parametrize("kind", ["expired", "beyond_end"])
def test_a_gap_that_opens_while_it_reads_is_found(kind: str) -> None:
    async def scenario() -> None:
        consumer = Consumer()
        consumer.append(0, *values(10))
        consumer.start()
        await consumer.drain()
        if kind == "expired":
            consumer.log.away = True
            await asyncio.sleep(5)
            consumer.append(0, *values(10, 10))
            consumer.log.truncate(P0, 15)
            consumer.log.away = False
        else:
            consumer.log.recreate(P0)
        await consumer.until(lambda: consumer.gap(0) == kind)
        consumer.append(1, *values(5, 100))
        await consumer.until(lambda: consumer.store.stored_offsets[PARTITIONS[1]] == 5, within=30)
        assert consumer.store.stored_offsets[P0] == 10
        await consumer.stop()

    run(scenario())


def test_a_log_that_is_whole_is_read_on_and_nothing_of_it_twice() -> None:
    async def scenario() -> None:
        consumer = await read_ten()
        for number in range(3):
            consumer.append(0, *values(4, 100 * number + 100), b"bad")
            consumer.start()
            await consumer.drain()
            await consumer.stop()
        assert consumer.gap(0) is None
        consumer.assert_everything_is_stored_once()

    run(scenario())


@pytest.mark.parametrize("later", [0, 5])
@pytest.mark.parametrize("lost", ["compacted", "expired"])
def test_that_the_record_before_the_offset_is_gone_is_no_gap(lost: str, later: int) -> None:
    async def scenario() -> None:
        consumer = await read_ten()
        if lost == "compacted":
            consumer.log.compacted.add((P0, 9))
        else:
            consumer.log.truncate(P0, 10)
        consumer.append(0, *values(later, 100))
        consumer.start()
        await consumer.drain()
        await asyncio.sleep(1)
        consumer.append(0, *values(5, 200))
        await consumer.drain()
        assert consumer.gap(0) is None
        await consumer.stop()
        consumer.assert_everything_is_stored_once()

    run(scenario())


def test_a_decision_to_go_back_reads_again_and_stores_nothing_twice() -> None:
    async def scenario() -> None:
        consumer = await read_ten()
        break_log(consumer, "recreated")
        consumer.start()
        await consumer.until(lambda: consumer.gap(0) == "recreated")
        consumer.decide(0, 4)
        await consumer.until(lambda: consumer.store.stored_offsets[P0] == 10 and consumer.gap(0) is None)
        assert len(consumer.store.rows) == 10 + 6
        await consumer.stop()

    run(scenario())


def test_a_stop_while_a_partition_stands_still_returns_soon() -> None:
    async def scenario() -> None:
        consumer = await read_ten()
        break_log(consumer, "beyond_end")
        consumer.start()
        await consumer.until(lambda: consumer.gap(0) is not None)
        consumer.append(1, *values(3, 100))
        await asyncio.sleep(0.1)
        await consumer.stop(within=2)
        assert len(consumer.store.rows) == 13

    run(scenario())
