"""A member of a consumer group, as the platform's ``Source``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import TopicPartition as NativeTopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from event_core.errors import BrokerUnavailable, ClientBroken
from event_core.kafka import METADATA_MAX_AGE_MS, REQUEST_TIMEOUT_MS
from event_core.kafka.native import end, ended, note_commits
from event_core.settings import KafkaSettings
from event_core.source import Polled
from event_core.telemetry import get_logger
from event_core.topics import TopicPartition

log = get_logger(__name__)

CLOSE_SECONDS = 5.0
"""How long leaving a group may take; then the broker finds out by itself."""
COMMIT_SECONDS = 2.0


class KafkaSource(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """A member of a consumer group."""

    def __init__(self, settings: KafkaSettings, topics: Iterable[str], *, group: str, instance: str | None) -> None:
        self._topics = tuple(topics)
        self._generation = 0
        self._waiting: set[TopicPartition] = set()  # assigned, but its stored offset is not known yet
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            client_id=settings.kafka_client_id,
            group_id=group,
            group_instance_id=instance,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # the default, "latest", skips what came before the first start
            session_timeout_ms=10_000,
            heartbeat_interval_ms=2_000,
            rebalance_timeout_ms=30_000,
            max_poll_interval_ms=300_000,
            max_partition_fetch_bytes=1 << 20,
            fetch_max_bytes=8 << 20,
            fetch_max_wait_ms=250,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )

    @classmethod
    async def open(
        cls, settings: KafkaSettings, topics: Iterable[str], *, group: str, instance: str | None
    ) -> KafkaSource:
        """Joins the group. Raises BrokerUnavailable."""
        source = cls(settings, topics, group=group, instance=instance)
        try:
            source._consumer.subscribe(source._topics, listener=source)
            await source._consumer.start()
            note_commits(source._consumer._coordinator)
        except (KafkaError, OSError) as error:
            await source.stop()
            raise BrokerUnavailable(
                f"Kafka at {settings.kafka_bootstrap_servers} does not answer: {error!r}"
            ) from error
        except BaseException:
            await source.stop()
            raise
        return source

    async def stop(self) -> None:
        """Leaves the group, so that others take over at once."""
        consumer = self._consumer
        # A task of its own: it raises whatever one of its tasks had failed with, even where that was a cancellation, and gives
        # up there; while no broker answers it gets nowhere at all.
        stopping = asyncio.create_task(consumer.stop())
        try:
            await asyncio.wait({stopping}, timeout=CLOSE_SECONDS)
        finally:
            coordinator, fetcher = consumer._coordinator, consumer._fetcher
            tasks: list[asyncio.Task[Any] | None] = [stopping]
            if coordinator is not None:
                tasks += (coordinator._coordination_task, coordinator._heartbeat_task, coordinator._commit_refresh_task)
            if fetcher is not None:
                tasks += (fetcher._fetch_task, *fetcher._pending_tasks)
            await end(consumer._client, tasks)

    @property
    def _alive(self) -> bool:
        consumer = self._consumer  # from a task's death on every poll would fail, or bring nothing
        return not ended(
            consumer._coordinator._coordination_task, consumer._fetcher._fetch_task, consumer._client._sync_task
        )

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self._generation += 1

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        # Called before the first fetch. An exception or a wait here would be swallowed or stall the whole group, so the
        # stored offsets are looked up by the loop, and until then the partitions stand still.
        self._generation += 1
        self._waiting = {TopicPartition(*partition) for partition in assigned}
        self._consumer.pause(*assigned)

    async def poll(self, max_records: int, wait: float) -> Polled:
        if not self._alive:
            raise ClientBroken("the consumer's background work has ended")
        held = self._consumer.assignment() - self._consumer.paused() if max_records == 0 else frozenset()
        self._consumer.pause(*held)
        try:
            generation = self._generation
            found = await self._consumer.getmany(timeout_ms=int(wait * 1000), max_records=max_records or None)
        except (KafkaError, OSError) as error:
            if not self._alive:
                raise ClientBroken(f"the consumer's background work has ended: {error!r}") from error
            raise BrokerUnavailable(f"Kafka does not answer: {error!r}") from error
        finally:
            # What was taken away meanwhile must not be touched: aiokafka answers that with an assertion's failure.
            if generation == self._generation:
                self._consumer.resume(*(held & self._consumer.assignment()))
        messages = {
            TopicPartition(*partition): batch
            for partition, batch in found.items()
            if batch and generation == self._generation and TopicPartition(*partition) not in self._waiting
        }
        assignment = frozenset(TopicPartition(*partition) for partition in self._consumer.assignment())
        return Polled(messages, assignment, self._generation)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        native = _native(partition)
        if native not in self._consumer.assignment():
            return  # taken away meanwhile: the next poll tells of the new generation
        self._consumer.seek(native, offset)
        self._consumer.resume(native)
        self._waiting.discard(partition)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        try:
            # Bounded: aiokafka tries again without end while no coordinator answers, and nothing depends on the outcome.
            async with asyncio.timeout(COMMIT_SECONDS):
                await self._consumer.commit({_native(partition): offset for partition, offset in offsets.items()})
        except (CommitFailedError, IllegalStateError, KafkaError, OSError, TimeoutError) as error:
            log.debug("the offsets were not told to Kafka", error=repr(error))

    def end(self, partition: TopicPartition) -> int | None:
        native = _native(partition)
        end: int | None = self._consumer.highwater(native) if native in self._consumer.assignment() else None
        return end

    async def ping(self) -> None:
        """Raises BrokerUnavailable where a broker does not answer a metadata request, or the client is broken."""
        if not self._alive:
            raise BrokerUnavailable("the consumer's background work has ended")
        try:
            await self._consumer._client.fetch_all_metadata()  # the public calls may wait without end
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Kafka does not answer: {error!r}") from error


def _native(partition: TopicPartition) -> Any:
    return NativeTopicPartition(partition.topic, partition.partition)
