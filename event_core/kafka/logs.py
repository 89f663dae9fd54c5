"""What the logs of topics hold: asked by a member of a group about its partitions, and by whoever only looks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as NativeTopicPartition
from aiokafka.errors import KafkaError

from event_core.errors import BrokerUnavailable
from event_core.kafka import REQUEST_TIMEOUT_MS
from event_core.kafka.native import cluster_id
from event_core.settings import BrokerSettings
from event_core.source import Log, Logs, Message
from event_core.topics import TopicPartition

LOGS_SECONDS = 5.0
READ_SECONDS = 5.0


def native(partition: TopicPartition) -> Any:
    return NativeTopicPartition(partition.topic, partition.partition)


async def logs_of(consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> Logs:
    """What the logs of ``partitions`` hold now.

    Raises:
        BrokerUnavailable: Kafka does not answer within some seconds, or does not know one of them.
    """
    natives = [native(partition) for partition in partitions]
    try:
        async with asyncio.timeout(LOGS_SECONDS):
            cluster = await cluster_id(consumer._client)
            # In this order, so that no record can come in between and make a log end before it begins.
            begins = await consumer.beginning_offsets(natives)
            ends = await consumer.end_offsets(natives)
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"Kafka does not tell where the logs begin and end: {error!r}") from error
    found = {TopicPartition(*each): Log(begins[each], ends[each]) for each in natives}
    for partition, (begin, end) in found.items():
        if begin > end:
            raise BrokerUnavailable(f"the log of {partition} was made anew while it was looked at")
    return Logs(cluster, found)


class LogReader:
    """Looks at logs without being a member of any group."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, settings: BrokerSettings) -> AsyncGenerator[LogReader]:
        """Raises BrokerUnavailable where Kafka does not answer."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            client_id=settings.kafka_client_id,
            auto_offset_reset="none",
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_MS / 1000):
                    await consumer.start()
            except (KafkaError, OSError, TimeoutError) as error:
                raise BrokerUnavailable(
                    f"Kafka at {settings.kafka_bootstrap_servers} does not answer ({error!r}): start it, or correct "
                    "KAFKA_BOOTSTRAP_SERVERS"
                ) from error
            yield cls(consumer)
        finally:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(LOGS_SECONDS):
                    await consumer.stop()

    async def logs(self, topics: Iterable[str]) -> Logs:
        """The logs of every partition of ``topics``, as far as these are there. Raises BrokerUnavailable."""
        try:
            metadata = await self._consumer._client.fetch_all_metadata()
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Kafka does not answer: {error!r}") from error
        return await logs_of(
            self._consumer,
            [
                TopicPartition(topic, partition)
                for topic in topics
                for partition in metadata.partitions_for_topic(topic) or ()
            ],
        )

    async def first_records(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, Message]:
        """The first record of each partition at or after the offset, which its log must have; absent where none comes within
        some seconds. Raises BrokerUnavailable."""
        wanted = {native(partition): offset for partition, offset in offsets.items()}
        found: dict[TopicPartition, Message] = {}
        if not wanted:
            return found
        self._consumer.assign(list(wanted))
        for each, offset in wanted.items():
            self._consumer.seek(each, offset)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_SECONDS):
                    while len(found) < len(wanted):
                        for each, messages in (await self._consumer.getmany(timeout_ms=200)).items():
                            found.setdefault(TopicPartition(*each), messages[0])
                            self._consumer.pause(each)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Kafka does not let records be read: {error!r}") from error
        return found
