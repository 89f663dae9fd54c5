"""One suite for every source: the fake that unit tests use, and a Kafka consumer group."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import pytest
from aiokafka import AIOKafkaProducer

from event_core.errors import BrokerUnavailable
from event_core.kafka.consumer import KafkaSource
from event_core.kafka.topics import ensure_topics
from event_core.settings import KafkaSettings
from event_core.source import Log, MemorySource, Message, Polled, Source
from event_core.topics import TopicPartition, TopicSpec
from tests.support import admin
from tests.support.backend import Backend
from tests.support.proxy import Proxy


@dataclass
class Topic:
    """Two partitions, a source that reads them, and ways to change them past it."""

    source: Source
    partitions: list[TopicPartition]
    append: Callable[[TopicPartition, list[bytes]], Awaitable[None]]
    truncate: Callable[[TopicPartition, int], Awaitable[None]]
    remake: Callable[[], Awaitable[None]]


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.integration)])
async def topic(request: pytest.FixtureRequest) -> AsyncIterator[Topic]:
    name = f"source-{uuid.uuid4().hex[:8]}"
    partitions = [TopicPartition(name, 0), TopicPartition(name, 1)]
    if request.param == "memory":
        yield _in_memory(partitions)
        return
    servers = request.getfixturevalue("backend").kafka
    settings = KafkaSettings(kafka_bootstrap_servers=servers)
    await ensure_topics(settings, [TopicSpec(name, 2, 1)])
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", metadata_max_age_ms=500)
    await producer.start()
    source = await KafkaSource.open(settings, [name], group=name, instance=None)

    async def append(partition: TopicPartition, values: list[bytes]) -> None:
        for value in values:
            await producer.send_and_wait(name, value, partition=partition.partition)

    async def truncate(partition: TopicPartition, begin: int) -> None:
        await asyncio.to_thread(admin.truncate, servers, name, partition.partition, begin)

    async def remake() -> None:
        await asyncio.to_thread(admin.remake_topic, servers, name, len(partitions))

    yield Topic(source, partitions, append, truncate, remake)
    await source.stop()
    await producer.stop()


def _in_memory(partitions: list[TopicPartition]) -> Topic:
    source = MemorySource(partitions)

    async def append(partition: TopicPartition, values: list[bytes]) -> None:
        for value in values:
            source.append(partition, value)

    async def truncate(partition: TopicPartition, begin: int) -> None:
        source.truncate(partition, begin)

    async def remake() -> None:
        for partition in partitions:
            source.recreate(partition)

    return Topic(source, partitions, append, truncate, remake)


async def assigned(topic: Topic) -> Polled:
    async with asyncio.timeout(40):
        while True:
            polled = await topic.source.poll(100, 0.1)
            if polled.assignment == set(topic.partitions):
                return polled


async def read(source: Source, count: int) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(40):
        while len(found) < count:
            for messages in (await source.poll(100, 0.2)).messages.values():
                found += messages
    return found


async def test_nothing_is_read_of_a_partition_before_it_was_positioned(topic: Topic) -> None:
    await topic.append(topic.partitions[0], [b"0", b"1"])
    await assigned(topic)
    for _ in range(5):
        assert not (await topic.source.poll(100, 0.1)).messages


async def test_reading_begins_where_it_was_positioned_and_keeps_the_order(topic: Topic) -> None:
    await topic.append(topic.partitions[0], [b"0", b"1", b"2", b"3"])
    await assigned(topic)
    topic.source.seek(topic.partitions[0], 1)
    messages = await read(topic.source, 3)
    assert [(m.offset, m.value) for m in messages] == [(1, b"1"), (2, b"2"), (3, b"3")]


async def test_positioning_back_reads_again(topic: Topic) -> None:
    await topic.append(topic.partitions[1], [b"0", b"1"])
    await assigned(topic)
    topic.source.seek(topic.partitions[1], 0)
    await read(topic.source, 2)
    topic.source.seek(topic.partitions[1], 0)
    assert [m.value for m in await read(topic.source, 2)] == [b"0", b"1"]


async def test_a_poll_for_no_records_brings_none_and_loses_none(topic: Topic) -> None:
    await assigned(topic)
    for partition in topic.partitions:
        topic.source.seek(partition, 0)
    await topic.append(topic.partitions[0], [b"0"])
    for _ in range(3):
        assert not (await topic.source.poll(0, 0.1)).messages
    assert [m.value for m in await read(topic.source, 1)] == [b"0"]


async def test_at_most_the_asked_number_of_records_comes_at_once(topic: Topic) -> None:
    await topic.append(topic.partitions[0], [b"x"] * 20)
    await assigned(topic)
    topic.source.seek(topic.partitions[0], 0)
    async with asyncio.timeout(40):
        while not (polled := await topic.source.poll(5, 0.2)).messages:
            pass
    assert len(polled.messages[topic.partitions[0]]) == 5


async def test_telling_kafka_the_offsets_never_fails(topic: Topic) -> None:
    await assigned(topic)
    await topic.source.commit({topic.partitions[0]: 0})
    await topic.source.commit({TopicPartition("no-such-topic", 7): 3})


async def test_the_ends_of_logs_are_told_as_they_are_read(topic: Topic) -> None:
    first, second = topic.partitions
    await topic.append(first, [b"0", b"1", b"2"])
    await assigned(topic)
    topic.source.seek(first, 0)
    topic.source.seek(second, 0)
    async with asyncio.timeout(40):
        while (await topic.source.poll(100, 0.2)).ends != {first: 3, second: 0}:
            pass


async def test_a_partition_that_is_held_is_not_read_until_it_is_positioned_again(topic: Topic) -> None:
    first, second = topic.partitions
    await topic.append(first, [b"0", b"1"])
    await assigned(topic)
    topic.source.seek(first, 0)
    topic.source.seek(second, 0)
    await read(topic.source, 2)
    topic.source.seek(first, None)
    await topic.append(first, [b"2"])
    await topic.append(second, [b"other"])
    assert [m.value for m in await read(topic.source, 1)] == [b"other"]
    for _ in range(3):
        assert not (await topic.source.poll(100, 0.1)).messages
    topic.source.seek(first, 1)
    assert [m.value for m in await read(topic.source, 2)] == [b"1", b"2"]


async def test_logs_tell_what_can_be_read(topic: Topic) -> None:
    first, second = topic.partitions
    empty = await topic.source.logs(topic.partitions)
    assert empty.cluster_id
    assert empty.of == {first: Log(0, 0), second: Log(0, 0)}
    await topic.append(first, [b"x"] * 5)
    await topic.append(second, [b"x"] * 2)
    assert (await topic.source.logs([first])).of == {first: Log(0, 5)}
    await topic.truncate(first, 3)
    await topic.truncate(second, 2)
    assert (await topic.source.logs(topic.partitions)).of == {first: Log(3, 5), second: Log(2, 2)}
    await topic.remake()
    await topic.append(first, [b"x"])
    again = await topic.source.logs(topic.partitions)
    assert again == (empty.cluster_id, {first: Log(0, 1), second: Log(0, 0)})
    assert (await topic.source.logs([])).of == {}


async def positioned_anew(source: Source, generation: int) -> int:
    """The generation after ``generation``, before which nothing was read."""
    async with asyncio.timeout(40):
        while (polled := await source.poll(100, 0.2)).generation == generation:
            assert not polled.messages
    assert not polled.messages
    return polled.generation


@pytest.mark.parametrize("offset", [1, 9], ids=["before-its-beginning", "beyond-its-end"])
async def test_an_offset_that_the_log_does_not_have_asks_for_new_positions_and_jumps_nowhere(
    topic: Topic, offset: int
) -> None:
    first, second = topic.partitions
    await topic.append(first, [b"0", b"1", b"2", b"3", b"4"])
    await topic.truncate(first, 3)
    generation = (await assigned(topic)).generation
    topic.source.seek(first, offset)
    generation = await positioned_anew(topic.source, generation)
    await topic.append(second, [b"other"])
    for _ in range(3):  # everything stands still
        polled = await topic.source.poll(100, 0.1)
        assert (polled.generation, polled.messages) == (generation, {})
    topic.source.seek(second, 0)
    topic.source.seek(first, 3)
    assert sorted(m.value or b"" for m in await read(topic.source, 3)) == [b"3", b"4", b"other"]
    assert (await topic.source.poll(1, 0)).generation == generation


async def test_records_that_go_while_a_partition_is_held_are_noticed_when_it_is_read_on(topic: Topic) -> None:
    first, second = topic.partitions
    await topic.append(first, [b"0", b"1", b"2"])
    generation = (await assigned(topic)).generation
    topic.source.seek(first, 0)
    topic.source.seek(second, 0)
    await read(topic.source, 3)
    topic.source.seek(first, None)
    await topic.truncate(first, 3)
    topic.source.seek(first, 1)
    assert await positioned_anew(topic.source, generation) != generation


async def test_a_log_made_anew_and_shorter_is_noticed(topic: Topic) -> None:
    first, second = topic.partitions
    await topic.append(first, [b"0", b"1", b"2"])
    generation = (await assigned(topic)).generation
    topic.source.seek(first, 0)
    topic.source.seek(second, 0)
    await read(topic.source, 3)
    await topic.remake()
    async with asyncio.timeout(60):
        while (await topic.source.poll(100, 0.2)).generation == generation:
            pass
    await topic.append(first, [b"new"])
    async with asyncio.timeout(60):  # Kafka takes the partitions away and gives them back meanwhile
        while True:
            polled = await topic.source.poll(100, 0.2)
            if polled.generation != generation:
                generation = polled.generation
                for partition in polled.assignment:
                    topic.source.seek(partition, 0)
            if first in polled.messages:
                break
    assert [m.value for m in polled.messages[first]] == [b"new"]


# --- Kafka's own: what can go wrong with a broker


@pytest.fixture
async def proxied(backend: Backend) -> AsyncIterator[tuple[KafkaSource, Proxy, TopicPartition]]:
    """A source that reads a topic of one partition and one record through a proxy."""
    name = f"source-{uuid.uuid4().hex[:8]}"
    await ensure_topics(KafkaSettings(kafka_bootstrap_servers=backend.kafka), [TopicSpec(name, 1, 1)])
    async with AIOKafkaProducer(bootstrap_servers=backend.kafka, acks="all") as producer:
        await producer.send_and_wait(name, b"0", partition=0)
    with backend.kafka_behind() as proxy:
        settings = KafkaSettings(kafka_bootstrap_servers=proxy.address)
        source = await KafkaSource.open(settings, [name], group=name, instance=None)
        try:
            async with asyncio.timeout(40):
                while not (await source.poll(100, 0.1)).assignment:
                    pass
            yield source, proxy, TopicPartition(name, 0)
        finally:
            proxy.heal()
            await source.stop()


@pytest.mark.integration
@pytest.mark.parametrize("how", ["freeze", "refuse"])
async def test_nothing_hangs_while_kafka_is_away(
    proxied: tuple[KafkaSource, Proxy, TopicPartition], how: Literal["freeze", "refuse"]
) -> None:
    source, proxy, partition = proxied
    source.seek(partition, 0)
    await read(source, 1)
    await asyncio.to_thread(getattr(proxy, how))
    async with asyncio.timeout(20):
        with pytest.raises(BrokerUnavailable):
            await source.logs([partition])
        for most in (100, 0):
            with contextlib.suppress(BrokerUnavailable):
                assert not (await source.poll(most, 0.2)).messages
    await asyncio.to_thread(proxy.heal)
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(BrokerUnavailable):
                assert (await source.logs([partition])).of == {partition: Log(0, 1)}
                break
            await asyncio.sleep(0.2)


@pytest.mark.integration
async def test_a_partition_without_committed_offset_waits_for_its_position_without_a_word(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"source-{uuid.uuid4().hex[:8]}"
    settings = KafkaSettings(kafka_bootstrap_servers=backend.kafka)
    await ensure_topics(settings, [TopicSpec(name, 2, 1)])
    with caplog.at_level(logging.WARNING):
        source = await KafkaSource.open(settings, [name], group=name, instance=None)
        try:
            generations = set()
            async with asyncio.timeout(40):
                while len((await source.poll(100, 0.1)).assignment) < 2:
                    pass
                for _ in range(10):
                    generations.add((await source.poll(100, 0.1)).generation)
        finally:
            await source.stop()
    assert len(generations) == 1
    # A broker that serves its first group has no coordinator yet, and the client says so.
    assert not [each for each in caplog.records if each.name != "aiokafka.consumer.group_coordinator"]


@pytest.mark.integration
async def test_logs_of_a_topic_that_is_not_there_are_unavailable(backend: Backend) -> None:
    name = f"source-{uuid.uuid4().hex[:8]}"
    settings = KafkaSettings(kafka_bootstrap_servers=backend.kafka)
    await ensure_topics(settings, [TopicSpec(name, 1, 1)])
    source = await KafkaSource.open(settings, [name], group=name, instance=None)
    try:
        async with asyncio.timeout(20):
            with pytest.raises(BrokerUnavailable):
                await source.logs([TopicPartition(name, 0), TopicPartition(name, 7)])
    finally:
        await source.stop()


@pytest.mark.integration
async def test_a_second_member_takes_its_share_and_gives_it_back(backend: Backend) -> None:
    """Meanwhile every poll returns, and nothing is read that was not positioned under the new assignment."""
    name = f"source-{uuid.uuid4().hex[:8]}"
    settings = KafkaSettings(kafka_bootstrap_servers=backend.kafka)
    partitions = {TopicPartition(name, number) for number in range(4)}
    await ensure_topics(settings, [TopicSpec(name, 4, 1)])
    async with AIOKafkaProducer(bootstrap_servers=backend.kafka, acks="all") as producer:
        for partition in partitions:
            await producer.send_and_wait(name, b"0", partition=partition.partition)
    first = await KafkaSource.open(settings, [name], group=name, instance=None)
    second: KafkaSource | None = None

    async def polled(source: KafkaSource, wanted: int) -> Polled:
        """The first poll that tells of ``wanted`` partitions; before it, no messages."""
        async with asyncio.timeout(40):
            while True:
                async with asyncio.timeout(10):
                    found = await source.poll(100, 0.1)
                if len(found.assignment) == wanted:
                    return found
                assert not found.messages

    try:
        alone = await polled(first, 4)
        for partition in partitions:
            first.seek(partition, 0)
        await read(first, 4)
        second = await KafkaSource.open(settings, [name], group=name, instance=None)
        ours, theirs = await asyncio.gather(polled(first, 2), polled(second, 2))
        assert ours.generation > alone.generation
        assert ours.assignment | theirs.assignment == partitions
        for source, share in ((first, ours), (second, theirs)):
            assert not (await source.poll(100, 0.5)).messages
            for partition in share.assignment:
                source.seek(partition, 0)
            await read(source, 2)
        for partition in theirs.assignment:
            first.seek(partition, 0)  # not its own: nothing comes of it
        assert not (await first.poll(100, 0.5)).messages
        await second.stop()
        again = await polled(first, 4)
        assert again.generation > ours.generation
        assert not again.messages
    finally:
        await first.stop()
        if second is not None:
            await second.stop()
