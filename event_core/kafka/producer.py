"""One connected producer: batches with one acknowledgement each, and a way to leave it that never waits for its broker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
)

from event_core.codec import Record
from event_core.errors import BrokerUnavailable, RecordsRefused
from event_core.kafka import METADATA_MAX_AGE_MS, REQUEST_TIMEOUT_MS, Compression
from event_core.kafka.native import end, ended
from event_core.settings import BrokerSettings

MAX_BATCH_BYTES = 512 * 1024
"""Largest batch before compression: below the broker's default message.max.bytes (1 MiB), so that no batch is refused whole."""
RECORD_OVERHEAD = 96
"""Bytes of a record, and of the batch around it, beside key, value and headers, at most; a header costs up to 10 more:
https://kafka.apache.org/documentation/#recordbatch"""

_REFUSALS = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidTimestampError, PolicyViolationError)


def record_size(record: Record) -> int:
    """Most bytes that ``record`` takes within a batch, uncompressed."""
    headers = sum(len(name) + len(value) + 10 for name, value in record.headers)
    return RECORD_OVERHEAD + len(record.key) + len(record.value) + headers


class ProducerSession:
    """One connected producer. After any error ``abandon`` it and open another: an idempotent producer whose batch failed
    for good has a gap in its sequence numbers and would refuse every later batch of that partition."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    @classmethod
    async def open(cls, settings: BrokerSettings, *, acks: str, compression: Compression) -> ProducerSession:
        """Raises BrokerUnavailable where no broker answers."""
        durable = acks == "all"
        producer = AIOKafkaProducer(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            client_id=settings.kafka_client_id,
            acks="all" if durable else int(acks),
            enable_idempotence=durable,
            compression_type=None if compression == "none" else compression,
            max_batch_size=MAX_BATCH_BYTES,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )
        session = cls(producer)
        try:
            await producer.start()
        except (KafkaError, OSError) as error:
            await session.abandon()
            raise BrokerUnavailable(
                f"Kafka at {settings.kafka_bootstrap_servers} does not answer: {error!r}"
            ) from error
        except BaseException:
            await session.abandon()
            raise
        return session

    @property
    def alive(self) -> bool:
        """False once a background task has died: every later send would fail, or go to a broker of long ago."""
        sender = self._producer._sender.sender_task
        return sender is not None and not ended(sender, self._producer.client._sync_task)

    async def partitions(self, topic: str) -> int:
        """How many partitions ``topic`` has. Raises BrokerUnavailable where it is unknown."""
        try:
            found = await self._producer.partitions_for(topic)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"the partitions of topic {topic} are unknown: {error!r}") from error
        if not found:
            raise BrokerUnavailable(f"topic {topic} has no partitions yet")
        return len(found)

    def known_partitions(self, topic: str) -> int:
        """How many partitions ``topic`` has as last heard, without asking."""
        return len(self._producer.client.cluster.partitions_for_topic(topic) or ())

    async def send(
        self,
        topic: str,
        partition: int,
        records: Sequence[Record],
        *,
        seconds: float,
        limit: int = MAX_BATCH_BYTES,
    ) -> int:
        """Sends ``records`` in their order, in batches of at most ``limit`` bytes before compression (or of one record), one
        after the other. Returns how many batches it took, once the broker has acknowledged all of them.

        Raises:
            RecordsRefused: the broker will never take the first batch that was not acknowledged, as it is.
            BrokerUnavailable: it did not acknowledge; whether the records are in the log is not known.
            TimeoutError: likewise, for ``seconds``.
        """
        batches = 0
        lowered = limit < MAX_BATCH_BYTES  # else aiokafka's own measure is enough, and cheaper
        builder, first = self._producer.create_batch(), 0
        for number, record in enumerate(records):
            appended = None
            if not lowered or number == first or builder.size() + record_size(record) <= limit:
                appended = builder.append(key=record.key, value=record.value, headers=record.headers, timestamp=None)
            if appended is None:
                await self._send(builder, topic, partition, records[first:number], seconds)
                batches += 1
                builder, first = self._producer.create_batch(), number
                builder.append(key=record.key, value=record.value, headers=record.headers, timestamp=None)
        await self._send(builder, topic, partition, records[first:], seconds)
        return batches + 1

    async def _send(self, builder: Any, topic: str, partition: int, records: Sequence[Record], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):  # send_batch itself waits too, behind another batch of the partition
                await (await self._producer.send_batch(builder, topic, partition=partition))
        except TimeoutError:  # an OSError, since Python 3.11
            raise
        except _REFUSALS as error:
            raise RecordsRefused(
                f"Kafka refused {len(records)} record(s) for topic {topic}: {error}", records
            ) from error
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Kafka did not take a batch: {error!r}") from error

    async def ping(self) -> None:
        """Raises BrokerUnavailable where a broker does not answer a metadata request."""
        if not self.alive:
            raise BrokerUnavailable("the producer's sender task has ended")
        try:
            await self._producer.client.fetch_all_metadata()
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Kafka does not answer: {error!r}") from error

    async def close(self) -> None:
        """Sends what is queued, then closes. Unbounded: call it only with nothing in flight."""
        await self._producer.stop()

    async def abandon(self) -> None:
        """Leaves the producer without waiting for its broker. ``stop()`` would wait without end and could still deliver
        records hours later; closing the sockets first makes sure that nothing more leaves."""
        producer = self._producer
        await end(producer.client, [producer._sender.sender_task])
        producer._closed = True  # else its destructor reports a leak
