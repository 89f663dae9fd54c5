"""One suite for every publisher: the fake that unit tests use, and Kafka with and without the disk buffer."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from event_core.codec import Record
from event_core.errors import BrokerUnavailable
from event_core.health import Health, Ping
from event_core.topics import partition_for
from ingestion_service.delivery import Delivery, Stored
from ingestion_service.kafka_publisher import KafkaPublisher
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import MemoryPublisher, Publisher
from ingestion_service.settings import IngestionSettings
from tests.support.backend import Backend
from tests.support.topics import scan

KINDS = ["memory", *(pytest.param(kind, marks=pytest.mark.integration) for kind in ("kafka", "kafka and disk"))]
PARTITIONS = 3


class Subject:
    """A publisher, its topics, and what lies in them."""

    def __init__(self, publisher: Publisher, backend: Backend | None, topic: str, dlq_topic: str) -> None:
        self.publisher = publisher
        self.topic = topic
        self.dlq_topic = dlq_topic
        self._backend = backend

    async def publish(self, records: Iterable[Record], topic: str | None = None) -> list[Delivery]:
        """Returns once all of them are durable."""
        deliveries = self.publisher.publish(topic or self.topic, list(records))
        await self.settle(deliveries)
        return deliveries

    async def settle(self, deliveries: Iterable[Delivery]) -> list[Stored]:
        async with asyncio.timeout(60):
            return [await delivery.wait() for delivery in deliveries]

    async def values(self, topic: str | None = None) -> dict[bytes, list[bytes]]:
        """Key -> what lies in the topic, in its order."""
        found: dict[bytes, list[bytes]] = {}
        if self._backend is None:
            assert isinstance(self.publisher, MemoryPublisher)
            for name, record in self.publisher.sent:
                if name == (topic or self.topic):
                    found.setdefault(record.key, []).append(record.value)
        else:
            scan(
                self._backend.kafka,
                topic or self.topic,
                lambda record: found.setdefault(record.key or b"", []).append(record.value or b""),
            )
        return found


async def kafka_publisher(backend: Backend, **settings: Any) -> KafkaPublisher:
    """One that is connected, and holds nothing back for the disk."""
    unique = uuid.uuid4().hex[:8]
    made = KafkaPublisher(
        IngestionSettings(
            kafka_bootstrap_servers=backend.kafka,
            kafka_topic=f"publisher-{unique}",
            kafka_product_topic=f"publisher-product-{unique}",
            dlq_topic=f"publisher-dlq-{unique}",
            kafka_topic_partitions=PARTITIONS,
            **settings,
        ),
        Metrics(),
    )
    await made.start()
    await connected(made)
    return made


async def connected(publisher: KafkaPublisher) -> None:
    async with asyncio.timeout(30):
        while not publisher.status().kafka_connected or publisher.status().spooling:
            await asyncio.sleep(0.05)


@pytest.fixture(params=KINDS)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "memory":
        fake = MemoryPublisher()
        await fake.start()
        yield Subject(fake, None, "events", "events-dlq")
        await fake.stop()
        return
    backend: Backend = request.getfixturevalue("backend")
    publisher = await kafka_publisher(backend, buffer_dir=None if request.param == "kafka" else tmp_path)
    settings = publisher._settings
    yield Subject(publisher, backend, settings.kafka_topic, settings.dlq_topic)
    await publisher.stop()


def record(number: int = 0, key: str = "u", size: int = 0) -> Record:
    return Record(key.encode(), b"%d" % number + b"x" * size, [("event-id", b"%d" % number)])


async def test_waiting_ends_once_the_record_is_in_the_topic(subject: Subject) -> None:
    [delivery] = await subject.publish([record(7)])
    assert delivery.outcome is Stored.KAFKA
    assert await subject.values() == {b"u": [b"7"]}


async def test_each_record_gets_its_delivery_and_of_each_key_the_order_of_the_calls_holds(subject: Subject) -> None:
    waiting: list[Delivery] = []
    for first in range(0, 5_000, 100):
        records = [record(n, f"user-{n % 37}", n % 300) for n in range(first, first + 100)]
        waiting += subject.publisher.publish(subject.topic, records)
        if first % 1_000 == 0:
            await asyncio.sleep(0)
    assert set(await subject.settle(waiting)) == {Stored.KAFKA}
    assert len(waiting) == 5_000
    found = await subject.values()
    assert {key: [int(value.rstrip(b"x")) for value in values] for key, values in found.items()} == {
        b"user-%d" % user: list(range(user, 5_000, 37)) for user in range(37)
    }


async def test_records_larger_than_a_batch_together_are_acknowledged_too(subject: Subject) -> None:
    await subject.publish(record(n, "u", 262_144) for n in range(8))
    assert len((await subject.values())[b"u"]) == 8


async def test_a_record_nearly_as_large_as_it_says_the_topic_takes_is_taken(subject: Subject) -> None:
    largest = subject.publisher.largest(subject.topic)
    assert largest >= 300_000
    large = os.urandom(largest - 400)  # no codec makes it smaller, and they need some bytes themselves
    await subject.publish([Record(b"u", large, [("event-id", b"1")])])
    assert await subject.values() == {b"u": [large]}


async def test_topics_are_apart(subject: Subject) -> None:
    await subject.publish([record(1)])
    await subject.publish([record(2)], subject.dlq_topic)
    assert await subject.values(subject.dlq_topic) == {b"u": [b"2"]}
    assert await subject.values() == {b"u": [b"1"]}


async def test_nothing_published_is_nothing_to_wait_for(subject: Subject) -> None:
    assert subject.publisher.publish(subject.topic, []) == []


async def test_it_stops_while_records_are_under_way_and_leaves_no_waiter_hanging(subject: Subject) -> None:
    waiting = subject.publisher.publish(subject.topic, [record(n) for n in range(100)])
    async with asyncio.timeout(30):
        await subject.publisher.stop()
        outcomes = await subject.settle(waiting)
    assert set(outcomes) <= {Stored.KAFKA, Stored.DISK}
    assert len((await subject.values())[b"u"]) == outcomes.count(Stored.KAFKA)


async def test_it_says_what_it_is_connected_to(subject: Subject) -> None:
    status = subject.publisher.status()
    assert (status.kafka_connected, status.spooling, status.buffered_events) == (True, False, 0)
    assert status.problem is None


@pytest.mark.integration
async def test_a_delivery_names_the_partition_where_all_of_it_went(backend: Backend) -> None:
    publisher = await kafka_publisher(backend, buffer_dir=None)
    topic = publisher._settings.kafka_topic
    try:
        for key in ("a", "b", "c"):
            [delivery] = publisher.publish(topic, [record(1, key)])
            await delivery.wait()
            assert delivery.partition == partition_for(key.encode(), PARTITIONS)
    finally:
        await publisher.stop()


@pytest.mark.integration
@pytest.mark.parametrize("buffered", [False, True], ids=["alone", "with the disk"])
async def test_a_sender_task_that_dies_is_seen_and_its_producer_is_replaced(
    backend: Backend, tmp_path: Path, buffered: bool
) -> None:
    publisher = await kafka_publisher(backend, buffer_dir=tmp_path if buffered else None)
    topic = publisher._settings.kafka_topic
    pings: list[Ping] = [publisher, publisher.disk] if buffered else [publisher]
    health = Health("ingestion", "1", pings, any_is_enough=True)
    try:
        session = publisher._link.session
        assert session is not None
        assert (await health.report())[0]
        session._producer._sender.sender_task.cancel()  # type: ignore[attr-defined]  # as a bug of the library would end it
        await asyncio.sleep(0.05)
        ready, report = await health.report()
        assert (ready, report["kafka_connected"]) == (buffered, False)
        if buffered:
            assert await publisher.publish(topic, [record(1)])[0].wait() is Stored.DISK
        else:
            with pytest.raises(BrokerUnavailable):
                await publisher.publish(topic, [record(1)])[0].wait()
        await connected(publisher)
        assert publisher._link.session is not session
        assert await publisher.publish(topic, [record(2)])[0].wait() is Stored.KAFKA
        ready, report = await health.report()
        assert (ready, report["kafka_connected"]) == (True, True)
        arrived: list[bytes | None] = []
        scan(backend.kafka, topic, lambda found: arrived.append(found.value))
        assert arrived == ([b"1", b"2"] if buffered else [b"2"])
    finally:
        await publisher.stop()
