"""One suite for every publisher: the fake that unit tests use, and Kafka."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from event_core.codec import Record
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import KafkaPublisher, MemoryPublisher, Publisher
from ingestion_service.settings import IngestionSettings


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.integration)])
async def publisher(request: pytest.FixtureRequest) -> AsyncIterator[Publisher]:
    made: Publisher
    if request.param == "memory":
        made = MemoryPublisher()
    else:
        unique = uuid.uuid4().hex[:8]
        settings = IngestionSettings(
            kafka_bootstrap_servers=request.getfixturevalue("backend").kafka,
            kafka_topic=f"publisher-{unique}",
            dlq_topic=f"publisher-dlq-{unique}",
        )
        made = KafkaPublisher(settings, Metrics())
    await made.start()
    async with asyncio.timeout(30):
        while True:
            try:
                await made.ping()
                break
            except Exception:
                await asyncio.sleep(0.05)
    yield made
    await made.stop()


def record(key: str = "u", value: bytes = b"{}") -> Record:
    return Record(key.encode(), value, [("event-id", b"1")])


async def test_publishing_ends_once_the_record_is_durable(publisher: Publisher) -> None:
    async with asyncio.timeout(20):
        await publisher.publish(record())


async def test_many_records_of_many_keys_at_once_are_all_acknowledged(publisher: Publisher) -> None:
    async with asyncio.timeout(60):
        waiting = [publisher.publish(record(f"user-{n % 50}", b"x" * (n % 300))) for n in range(5_000)]
        for one in waiting:
            await one


async def test_records_larger_than_a_batch_are_acknowledged_too(publisher: Publisher) -> None:
    async with asyncio.timeout(60):
        for waiting in [publisher.publish(record("u", b"x" * 262_144)) for _ in range(8)]:
            await waiting


async def test_it_stops_while_a_record_is_under_way_and_leaves_no_waiter_hanging(publisher: Publisher) -> None:
    waiting = publisher.publish(record())
    async with asyncio.timeout(30):
        await publisher.stop()
        await waiting
