"""A sales pipeline that belongs to one test: a topic, a consumer group and a collection of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pymongo
from aiokafka import AIOKafkaConsumer, TopicPartition
from pymongo.collection import Collection

from event_core.kafka.topics import ensure_topics, letters_topic
from event_core.settings import BrokerSettings, load
from event_core.topics import TopicSpec
from tests.support.process import Service
from tests.support.topics import Record, produce, scan
from tests.support.wait import until

DATABASE = "sales_db"


class Server(Protocol):
    """A MongoDB for tests."""

    @property
    def url(self) -> str: ...


@dataclass
class Sales:
    """Its processes, and what they left where."""

    settings: Mapping[str, str]
    folder: Path
    services: list[Service] = field(default_factory=list)

    @property
    def topic(self) -> str:
        return self.settings["SALES_TOPIC"]

    @property
    def dlq_topic(self) -> str:
        return f"{self.topic}-dlq"

    @property
    def servers(self) -> str:
        return self.settings["KAFKA_BOOTSTRAP_SERVERS"]

    def service(self, **extra: str) -> Service:
        """One that is not started yet."""
        log = self.folder / f"sales-{len(self.services)}.log"
        made = Service("event_consumer sales", {**self.settings, **extra}, log)
        self.services.append(made)
        return made

    def start(self, **extra: str) -> Service:
        return self.service(**extra).start()

    def make_topics(self) -> None:
        """As a service makes them at its start."""
        settings = load(BrokerSettings, kafka_bootstrap_servers=self.servers)
        asyncio.run(ensure_topics(settings, [TopicSpec(self.topic, 3, 1), letters_topic(self.dlq_topic, 1)]))

    def put(self, values: Iterable[bytes | None], partition: int = 0) -> None:
        """Records with these values, straight into the topic."""
        asyncio.run(produce(self.servers, self.topic, [(b"key", value) for value in values], partition))

    def documents(self) -> dict[str, dict[str, Any]]:
        """Everything stored, by ``_id``."""
        with self._collection() as collection:
            return {document["_id"]: document for document in collection.find()}

    def count(self) -> int:
        """How many documents are stored."""
        with self._collection() as collection:
            return collection.count_documents({})

    @contextmanager
    def _collection(self) -> Iterator[Collection[dict[str, Any]]]:
        with pymongo.MongoClient[dict[str, Any]](self.settings["MONGODB_URL"], socketTimeoutMS=20_000) as client:
            yield client.get_database(DATABASE)[self.settings["MONGODB_COLLECTION"]]

    def letters(self, least: int = 0) -> dict[str, Record]:
        """The dead letters, by their id, once there are ``least``; each may be there more than once."""
        found: dict[str, Record] = {}

        def enough() -> bool:
            scan(self.servers, self.dlq_topic, lambda one: found.update({one.headers["dead-letter-id"].decode(): one}))
            return len(found) >= least

        until(f"{least} dead letters", enough)
        return found

    def reasons(self, least: int = 0) -> Counter[str]:
        """Why sales were set aside."""
        letters = self.letters(least).values()
        return Counter(letter.headers["__connect.errors.exception.class.name"].decode() for letter in letters)

    def committed(self) -> dict[int, int]:
        """The group's offsets by partition, of those that it has read of."""
        return asyncio.run(self._committed())

    async def _committed(self) -> dict[int, int]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.servers, group_id=self.settings["SALES_GROUP_ID"], enable_auto_commit=False
        )
        await consumer.start()
        try:
            found = {number: await consumer.committed(TopicPartition(self.topic, number)) for number in range(3)}
            return {number: offset for number, offset in found.items() if offset}
        finally:
            await consumer.stop()

    def end(self) -> None:
        """Stops what still runs; whatever ended by a failure of its own fails the test."""
        for service in self.services:
            if service.running():
                service.stop()
            if service.log.exists():
                log = service.log.read_text(errors="replace")
                for sign in ("ends after a failure", "failed unexpectedly", "Traceback"):
                    assert sign not in log, f"{service.name}:\n{service.tail()}"


def open_sales(kafka: str, mongo: Server, folder: Path) -> Sales:
    """Small limits, so that batches are many and quick."""
    unique = uuid.uuid4().hex[:8]
    return Sales(
        {
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "SALES_TOPIC": f"sales-{unique}",
            "SALES_GROUP_ID": f"sales-{unique}",
            "KAFKA_GROUP_INSTANCE_ID": f"sales-{unique}",
            "SALES_METRICS_PORT": "0",
            "MONGODB_URL": mongo.url,
            "MONGODB_COLLECTION": f"sales_{unique}",
            "FLUSH_INTERVAL": "0.2",
            "ENVIRONMENT": "test",
        },
        folder,
    )
