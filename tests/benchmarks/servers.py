"""Real servers for one run, and what each round has for itself: topics, a consumer group, a database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from psycopg import sql

from event_core.errors import BrokerUnavailable
from event_core.kafka.topics import ensure_topics
from event_core.settings import KafkaSettings
from event_core.topics import TopicSpec
from tests.support.backend import Backend, free_port
from tests.support.process import ROOT
from tools.migrate.__main__ import create_database, upgrade

PARTITIONS = 6
TEMPLATE = "bench_template"
START_SECONDS = 60.0
DURABLE = {
    "KAFKA_ACKS": "all",
    "KAFKA_COMPRESSION_TYPE": "lz4",
    "KAFKA_TOPIC_PARTITIONS": str(PARTITIONS),
    "ENVIRONMENT": "test",
}
"""Said outright, so that a developer's own .env changes no figure."""


@dataclass(frozen=True)
class Round:
    """What belongs to one round only; ``settings`` are environment variables of the services."""

    topic: str
    group: str
    database_url: str
    settings: Mapping[str, str]


class Servers:
    """Kafka and Postgres; ``logs`` is a folder for the services' logs and disk buffers."""

    def __init__(self, backend: Backend, logs: Path) -> None:
        self.backend = backend
        self.logs = logs
        self._wait_for_kafka()
        create_database(f"{backend.postgres}/{TEMPLATE}")
        upgrade(f"{backend.postgres}/{TEMPLATE}")

    def _wait_for_kafka(self) -> None:
        """A container's port is open before the broker behind it answers."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.new_topic()
                return
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    @contextlib.contextmanager
    def new_round(
        self, topic: str | None = None, *, partitions: int = PARTITIONS, template: str = TEMPLATE
    ) -> Generator[Round]:
        """A migrated database, empty or as ``template`` is, and a topic; ``topic`` names one that is there already."""
        unique = uuid.uuid4().hex[:8]
        database, maintenance = f"bench_{unique}", f"{self.backend.postgres}/postgres"
        if topic is None:
            topic = self.new_topic(partitions)
        with psycopg.connect(maintenance, autocommit=True) as connection:
            # Files are copied: by way of the log, as is the default, gigabytes would have to be written twice.
            made = sql.SQL("create database {} template {} strategy file_copy")
            connection.execute(made.format(sql.Identifier(database), sql.Identifier(template)))
            # What an earlier round left to be written must not be written during this one.
            connection.execute("checkpoint")
        url = f"{self.backend.postgres}/{database}"
        settings = {
            **DURABLE,
            "KAFKA_TOPIC_PARTITIONS": str(partitions),
            "KAFKA_BOOTSTRAP_SERVERS": self.backend.kafka,
            "KAFKA_TOPIC": topic,
            "KAFKA_PRODUCT_TOPIC": f"bench-product-{unique}",
            "DLQ_TOPIC": f"bench-dlq-{unique}",
            "KAFKA_GROUP_ID": f"bench-{unique}",
            "DATABASE_URL": url,
            "BUFFER_DIR": str(self.logs / f"buffer-{unique}"),
        }
        try:
            yield Round(topic, f"bench-{unique}", url, settings)
        finally:
            with psycopg.connect(maintenance, autocommit=True) as connection:
                connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(database)))

    def new_topic(self, partitions: int = PARTITIONS) -> str:
        """A topic with a name of its own."""
        topic = f"bench-{uuid.uuid4().hex[:8]}"
        settings = KafkaSettings(kafka_bootstrap_servers=self.backend.kafka)
        asyncio.run(ensure_topics(settings, [TopicSpec(topic, partitions, 1)]))
        return topic

    def records_in(self, topic: str) -> int:
        """How many records were ever written: the sum of the partitions' end offsets."""
        return asyncio.run(self._records_in(topic))

    async def _records_in(self, topic: str) -> int:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.backend.kafka)
        await consumer.start()
        try:
            ends = await consumer.end_offsets([TopicPartition(topic, number) for number in range(PARTITIONS)])
            return sum(ends.values())
        finally:
            await consumer.stop()


class Program:
    """A module of the benchmark's own as a process, as ``Service`` is for the platform's."""

    def __init__(self, module: str, settings: Mapping[str, str], log: Path) -> None:
        self.port = free_port()
        self.log = log
        inherited = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if key in os.environ}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env={**inherited, **settings, "PORT": str(self.port)},
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check(self) -> None:
        """Raises RuntimeError where it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(
                f"it ended with {self._process.returncode}:\n{self.log.read_text(errors='replace')[-3000:]}"
            )

    def wait_ready(self) -> None:
        """Returns once GET /health answers 200."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.check()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.url + "/health", timeout=5).status_code == 200:
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ready within {START_SECONDS:g} s: {self.log}")
            time.sleep(0.1)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after 20 s."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
