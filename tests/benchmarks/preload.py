"""Fills a topic with events as the ingestion service would write them, past the service: it would take much longer."""

from __future__ import annotations

import asyncio

from event_core.clock import utc_now
from event_core.codec import Record, encode
from event_core.kafka.producer import ProducerSession
from event_core.settings import KafkaSettings
from event_core.topics import partition_for
from ingestion_service.accept import accept
from ingestion_service.limits import Limits
from tests.benchmarks.bodies import bodies
from tests.benchmarks.servers import PARTITIONS, Servers

RECORDS_PER_BATCH = 100
"""Of one producer batch, about what live traffic of some thousand events per second makes."""
BATCHES_IN_FLIGHT = 60
EXTRA_BYTES = 40
"""Metadata beyond that of the ingestion benchmark's bodies: makes values of about 350 bytes."""


def preload(servers: Servers, rows: int) -> tuple[str, float]:
    """(a new topic with ``rows`` different events, mean bytes per value). Ids are made by the platform (UUIDv7)."""
    topic = servers.new_topic()
    return topic, asyncio.run(_fill(servers.backend.kafka, topic, rows))


async def _fill(bootstrap: str, topic: str, rows: int) -> float:
    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap)
    session = await ProducerSession.open(settings, acks="all", compression="lz4")
    templates = bodies(20_000, extra=EXTRA_BYTES)
    batches: dict[int, list[Record]] = {}
    sending: set[asyncio.Task[int]] = set()
    written, limits = 0, Limits()

    async def send(partition: int) -> None:
        nonlocal sending
        sending.add(asyncio.create_task(session.send(topic, partition, batches.pop(partition), seconds=60)))
        if len(sending) >= BATCHES_IN_FLIGHT:
            done, sending = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    try:
        for number in range(rows):
            record = encode(accept(templates[number % len(templates)], utc_now(), limits).event)
            written += len(record.value)
            partition = partition_for(record.key, PARTITIONS)
            batch = batches.setdefault(partition, [])
            batch.append(record)
            if len(batch) >= RECORDS_PER_BATCH:
                await send(partition)
        for partition in list(batches):
            await send(partition)
        await asyncio.gather(*sending)
    finally:
        await session.close()
    return written / rows
