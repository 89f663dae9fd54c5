"""Reading a topic with a client of the test's own, apart from the platform's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

if TYPE_CHECKING:
    from tests.conftest import Platform

SCAN_SECONDS = 600.0


class Record(NamedTuple):
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]

    def json(self) -> Any:
        return orjson.loads(self.value or b"")


def read_topic(platform: Platform, least: int, seconds: float = 30.0, topic: str | None = None) -> list[Record]:
    """Everything in ``topic``, by default the platform's first, once there are ``least`` records."""
    servers = platform.settings["KAFKA_BOOTSTRAP_SERVERS"]
    return asyncio.run(_read(servers, topic or platform.topic, least, seconds))


async def _read(servers: str, topic: str, least: int, seconds: float) -> list[Record]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    found: list[Record] = []
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            batches = await consumer.getmany(timeout_ms=500)
            for messages in batches.values():
                found += [Record(m.partition, m.offset, m.key, m.value, dict(m.headers)) for m in messages]
            if not batches and len(found) >= least:
                return found
        raise AssertionError(f"{len(found)} records in {topic} after {seconds:g} s, expected {least}")
    finally:
        await consumer.stop()


def scan(servers: str, topic: str, visit: Callable[[Record], object]) -> None:
    """Calls ``visit`` with every record that is in ``topic`` now, in each partition's order. May be called within an event
    loop."""
    with ThreadPoolExecutor(1) as pool:  # the caller's thread may already run a loop
        pool.submit(lambda: asyncio.run(_scan(servers, topic, visit))).result()


async def _scan(servers: str, topic: str, visit: Callable[[Record], object]) -> None:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest", fetch_max_wait_ms=100)
    try:
        await consumer.start()
        ends = await consumer.end_offsets(list(consumer.assignment()))
        async with asyncio.timeout(SCAN_SECONDS):
            while ends:
                for messages in (await consumer.getmany(timeout_ms=200, max_records=10_000)).values():
                    for m in messages:
                        visit(Record(m.partition, m.offset, m.key, m.value, dict(m.headers)))
                for partition in [each for each, end in ends.items() if await consumer.position(each) >= end]:
                    del ends[partition]
    finally:
        await consumer.stop()


def write_topic(
    platform: Platform,
    values: Iterable[tuple[bytes | None, bytes | None]],
    partition: int = 0,
    headers: Sequence[tuple[str, bytes | None]] = (),
    topic: str | None = None,
) -> None:
    """Puts (key, value) records straight into ``topic``, by default the platform's first, past the ingestion service."""
    servers = platform.settings["KAFKA_BOOTSTRAP_SERVERS"]
    asyncio.run(produce(servers, topic or platform.topic, list(values), partition, headers))


async def produce(
    servers: str,
    topic: str,
    values: Sequence[tuple[bytes | None, bytes | None]],
    partition: int,
    headers: Sequence[tuple[str, bytes | None]] = (),
) -> None:
    """Puts (key, value) records into ``topic``."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", compression_type="lz4")
    await producer.start()
    try:
        await asyncio.gather(
            *[await producer.send(topic, value, key=key, partition=partition, headers=headers) for key, value in values]
        )
    finally:
        await producer.stop()
