"""Whatever happens in whatever order: every event is stored once, every bad message is set aside once, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.consumer import AWAY, PARTITIONS, Consumer
from tests.unit.virtual_time import run

Operation = tuple[Any, ...]

NUMBER = st.integers(0, len(PARTITIONS) - 1)
SOME = st.sets(NUMBER)
SECONDS = st.sampled_from([0.0, 0.02, 0.1, 0.3, 1.0, 5.0, 30.0])
# Equal values are one event sent again; like a user's events, they go to one partition.
VALUES = st.lists(
    st.sampled_from([b"bad", b"bad2", b"", None, *(b"%d" % n for n in range(12))]), min_size=1, max_size=12
)

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), NUMBER, VALUES),
        st.tuples(st.just("append and wait"), NUMBER, VALUES, SECONDS),
        st.tuples(st.just("wait"), SECONDS),
        st.tuples(st.just("rebalance"), SOME),
        st.tuples(st.just("take away in mid-write"), st.sampled_from([0.3, 4.0, 8.0, 60.0]), st.booleans()),
        st.tuples(st.just("truncate"), NUMBER, st.integers(0, 20)),
        st.tuples(st.just("two rivals"), SECONDS, st.booleans()),
        st.tuples(st.just("outage"), SECONDS),
        st.tuples(st.just("begin outage")),
        st.tuples(st.just("end outage")),
        st.tuples(st.just("slow"), st.sampled_from([0.0, 0.01, 0.3, 2.0])),
        st.tuples(st.just("lose answers"), st.integers(1, 3)),
        st.tuples(st.just("kafka away"), SECONDS),
        st.tuples(st.just("rival"), SOME, st.integers(1, 5)),
        st.tuples(st.just("stop")),
        st.tuples(st.just("kill")),
    ),
    min_size=5,
    max_size=40,
)


async def append(consumer: Consumer, partition: int, values: list[bytes | None]) -> None:
    for value in values:
        named = value if not value or value.startswith(b"bad") else b"%d/%b" % (partition, value)
        consumer.log.append(PARTITIONS[partition], named)


async def append_and_wait(consumer: Consumer, partition: int, values: list[bytes | None], seconds: float) -> None:
    await append(consumer, partition, values)
    await asyncio.sleep(seconds)


async def wait(consumer: Consumer, seconds: float) -> None:
    await asyncio.sleep(seconds)


async def rebalance(consumer: Consumer, partitions: set[int]) -> None:
    consumer.log.assign(PARTITIONS[number] for number in partitions)


async def take_away_in_mid_write(consumer: Consumer, seconds: float, commits: bool) -> None:
    before, consumer.store.slow = consumer.store.slow, seconds
    consumer.store.commits_when_abandoned = commits
    await append(consumer, 0, [b"0", b"1", b"bad", b"2"])
    await append(consumer, 1, [b"0", b"3"])
    await asyncio.sleep(0.3)
    consumer.log.assign([])
    await asyncio.sleep(0.1)
    consumer.log.assign(PARTITIONS)
    consumer.store.slow = before


async def truncate(consumer: Consumer, partition: int, count: int) -> None:
    """Retention that takes only what is stored."""
    p = PARTITIONS[partition]
    log, stored = consumer.log.log(p), consumer.store.stored_offsets.get(p, 0)
    consumer.log.truncate(p, min(log.begin + count, stored))


async def two_rivals(consumer: Consumer, seconds: float, killed: bool) -> None:
    twin = Consumer(batch_size=3, batch_age=0.1, twin_of=consumer)
    twin.log.everything = consumer.log.everything
    twin.start()
    await append(consumer, 2, [b"0", b"1", b"bad", b"2", b"3"])
    await asyncio.sleep(seconds)
    await (twin.kill() if killed else twin.stop())


async def outage(consumer: Consumer, seconds: float) -> None:
    consumer.store.outage = AWAY
    await asyncio.sleep(seconds)
    consumer.store.outage = None


async def begin_outage(consumer: Consumer) -> None:
    consumer.store.outage = AWAY


async def end_outage(consumer: Consumer) -> None:
    consumer.store.outage = None


async def slow(consumer: Consumer, seconds: float) -> None:
    consumer.store.slow = seconds


async def lose_answers(consumer: Consumer, count: int) -> None:
    consumer.store.lose_answers = count


async def kafka_away(consumer: Consumer, seconds: float) -> None:
    consumer.log.away = True
    await asyncio.sleep(seconds)
    consumer.log.away = False


async def rival(consumer: Consumer, partitions: set[int], count: int) -> None:
    if consumer.store.outage is None:
        await consumer.rival(partitions, count)


async def stop(consumer: Consumer) -> None:
    await consumer.stop()
    consumer.start()


async def kill(consumer: Consumer) -> None:
    await consumer.kill()
    consumer.start()


STEPS: dict[str, Callable[..., Awaitable[None]]] = {
    "append": append,
    "append and wait": append_and_wait,
    "wait": wait,
    "rebalance": rebalance,
    "take away in mid-write": take_away_in_mid_write,
    "truncate": truncate,
    "two rivals": two_rivals,
    "outage": outage,
    "begin outage": begin_outage,
    "end outage": end_outage,
    "slow": slow,
    "lose answers": lose_answers,
    "kafka away": kafka_away,
    "rival": rival,
    "stop": stop,
    "kill": kill,
}


@settings(max_examples=300)
@given(OPERATIONS, st.sampled_from([1, 3, 10]), st.sampled_from([0.0, 0.2, 1.0]))
def test_everything_is_stored_exactly_once(operations: list[Operation], size: int, age: float) -> None:
    async def scenario() -> None:
        consumer = Consumer(batch_size=size, batch_age=age)
        consumer.start()
        await consumer.drain()
        for name, *arguments in operations:
            await STEPS[name](consumer, *arguments)
        consumer.store.outage = None
        consumer.store.slow = 0.0
        # Only where something was taken away: a rebalance makes the consumer read again, which would hide what it skipped.
        if consumer.log.assigned != set(PARTITIONS):
            consumer.log.assign(PARTITIONS)
        await consumer.drain()
        await consumer.stop()
        consumer.assert_everything_is_stored_once()
        assert consumer.store.most_in_flight <= 1 or any("rival" in name for name, *_ in operations)
        assert [consumer.gap(number) for number in range(3)] == [None] * 3
        # What a rival stored, or a commit whose answer was lost, is not counted; nothing is counted twice.
        assert consumer.metric("consumer_dead_letters_total", reason="invalid_event") <= len(consumer.store.dead)
        assert consumer.metric("consumer_events_stored_total") <= len(consumer.store.rows)

    run(scenario())
