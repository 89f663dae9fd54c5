"""One suite for every source: the fake that unit tests use, and a Kafka consumer group."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from aiokafka import AIOKafkaProducer

from event_core.kafka.consumer import KafkaSource
from event_core.kafka.topics import ensure_topics
from event_core.settings import KafkaSettings
from event_core.source import MemorySource, Message, Polled, Source
from event_core.topics import TopicPartition, TopicSpec


@dataclass
class Log:
    """A topic of two partitions, a source that reads it, and a way to add records past it."""

    source: Source
    partitions: list[TopicPartition]
    append: Callable[[TopicPartition, list[bytes]], Awaitable[None]]


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.integration)])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    topic = f"source-{uuid.uuid4().hex[:8]}"
    partitions = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    if request.param == "memory":
        memory = MemorySource(partitions)

        async def append_memory(partition: TopicPartition, values: list[bytes]) -> None:
            for value in values:
                memory.append(partition, value)

        yield Log(memory, partitions, append_memory)
        return
    servers = request.getfixturevalue("backend").kafka
    settings = KafkaSettings(kafka_bootstrap_servers=servers)
    await ensure_topics(settings, [TopicSpec(topic, 2, 1)])
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    await producer.start()
    source = await KafkaSource.open(settings, [topic], group=topic, instance=None)

    async def append(partition: TopicPartition, values: list[bytes]) -> None:
        for value in values:
            await producer.send_and_wait(topic, value, partition=partition.partition)

    yield Log(source, partitions, append)
    await source.stop()
    await producer.stop()


async def assigned(log: Log) -> Polled:
    async with asyncio.timeout(40):
        while True:
            polled = await log.source.poll(100, 0.1)
            if polled.assignment == set(log.partitions):
                return polled


async def read(source: Source, count: int) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(40):
        while len(found) < count:
            for messages in (await source.poll(100, 0.2)).messages.values():
                found += messages
    return found


async def test_nothing_is_read_of_a_partition_before_it_was_positioned(log: Log) -> None:
    await log.append(log.partitions[0], [b"0", b"1"])
    await assigned(log)
    for _ in range(5):
        assert not (await log.source.poll(100, 0.1)).messages


async def test_reading_begins_where_it_was_positioned_and_keeps_the_order(log: Log) -> None:
    await log.append(log.partitions[0], [b"0", b"1", b"2", b"3"])
    await assigned(log)
    log.source.seek(log.partitions[0], 1)
    messages = await read(log.source, 3)
    assert [(m.offset, m.value) for m in messages] == [(1, b"1"), (2, b"2"), (3, b"3")]
    assert log.source.end(log.partitions[0]) == 4


async def test_positioning_back_reads_again(log: Log) -> None:
    await log.append(log.partitions[1], [b"0", b"1"])
    await assigned(log)
    log.source.seek(log.partitions[1], 0)
    await read(log.source, 2)
    log.source.seek(log.partitions[1], 0)
    assert [m.value for m in await read(log.source, 2)] == [b"0", b"1"]


async def test_a_poll_for_no_records_brings_none_and_loses_none(log: Log) -> None:
    await assigned(log)
    for partition in log.partitions:
        log.source.seek(partition, 0)
    await log.append(log.partitions[0], [b"0"])
    for _ in range(3):
        assert not (await log.source.poll(0, 0.1)).messages
    assert [m.value for m in await read(log.source, 1)] == [b"0"]


async def test_at_most_the_asked_number_of_records_comes_at_once(log: Log) -> None:
    await log.append(log.partitions[0], [b"x"] * 20)
    await assigned(log)
    log.source.seek(log.partitions[0], 0)
    async with asyncio.timeout(40):
        while not (polled := await log.source.poll(5, 0.2)).messages:
            pass
    assert len(polled.messages[log.partitions[0]]) == 5


async def test_telling_kafka_the_offsets_never_fails(log: Log) -> None:
    await assigned(log)
    await log.source.commit({log.partitions[0]: 0})
    await log.source.commit({TopicPartition("no-such-topic", 7): 3})
