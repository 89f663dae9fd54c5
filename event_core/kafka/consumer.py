"""A member of a consumer group, as the platform's ``Source``."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, OffsetOutOfRangeError

from event_core.errors import BrokerUnavailable, ClientBroken
from event_core.kafka import METADATA_MAX_AGE_MS, REQUEST_TIMEOUT_MS
from event_core.kafka.logs import logs_of, native
from event_core.kafka.native import end, ended, hold_assigned, note_commits
from event_core.settings import BrokerSettings
from event_core.source import Logs, Message, Polled
from event_core.telemetry import get_logger
from event_core.topics import TopicPartition

log = get_logger(__name__)

CLOSE_SECONDS = 5.0
"""How long leaving a group may take; then the broker finds out by itself."""
COMMIT_SECONDS = 2.0
COMMITTED_SECONDS = 5.0
REBALANCE_SECONDS = 1.0
"""How long a poll waits beyond its own time while partitions are dealt anew, which takes until every member has joined."""


class KafkaSource(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """A member of a consumer group."""

    def __init__(self, settings: BrokerSettings, topics: Iterable[str], *, group: str, instance: str | None) -> None:
        self._topics = tuple(topics)
        self._generation = 0
        self._held: set[TopicPartition] = set()  # assigned, but not to be read: its offset is not known (yet)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            client_id=settings.kafka_client_id,
            group_id=group,
            group_instance_id=instance,
            enable_auto_commit=False,
            auto_offset_reset="none",  # else an offset that the log does not have is jumped over in silence
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
        cls, settings: BrokerSettings, topics: Iterable[str], *, group: str, instance: str | None
    ) -> KafkaSource:
        """Joins the group. Raises BrokerUnavailable."""
        source = cls(settings, topics, group=group, instance=instance)
        hold_assigned(source._consumer._subscription)
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
        # An exception or a wait here would be swallowed or stall the whole group, so the stored offsets are looked up by the
        # loop, and until then the partitions stand still.
        self._generation += 1
        self._held = {TopicPartition(*partition) for partition in assigned}

    async def poll(self, max_records: int, wait: float, only: Collection[TopicPartition] | None = None) -> Polled:
        if not self._alive:
            raise ClientBroken("the consumer's background work has ended")
        generation, found = self._generation, {}
        try:
            async with asyncio.timeout(wait + REBALANCE_SECONDS):
                if max_records:
                    chosen = [native(partition) for partition in only] if only is not None else ()
                    found = await self._consumer.getmany(*chosen, timeout_ms=int(wait * 1000), max_records=max_records)
                else:
                    with self._consumer._subscription.fetch_context():
                        await asyncio.sleep(wait)
        except TimeoutError:
            pass  # a rebalance
        except OffsetOutOfRangeError as error:
            self._out_of_range(*error.args)
        except (KafkaError, OSError) as error:
            if not self._alive:
                raise ClientBroken(f"the consumer's background work has ended: {error!r}") from error
            raise BrokerUnavailable(f"Kafka does not answer: {error!r}") from error
        messages: dict[TopicPartition, list[Message]] = {
            TopicPartition(*partition): batch
            for partition, batch in found.items()
            if batch and generation == self._generation and TopicPartition(*partition) not in self._held
        }
        # While partitions are dealt anew aiokafka still shows those of before.
        ours = () if self._consumer._subscription.reassignment_in_progress else self._consumer.assignment()
        highwaters = {TopicPartition(*partition): self._consumer.highwater(partition) for partition in ours}
        ends = {partition: highwater for partition, highwater in highwaters.items() if highwater is not None}
        return Polled(messages, frozenset(highwaters), self._generation, ends)

    def _out_of_range(self, offsets: Mapping[Any, int]) -> None:
        """Holds everything until it is positioned anew, unless what was read has been held or sought elsewhere since."""
        state = self._consumer._subscription.subscription.assignment.state_value
        for partition, offset in offsets.items():
            if TopicPartition(*partition) not in self._held and state(partition).position == offset:
                log.warning("an offset is not in its log", partition=str(TopicPartition(*partition)), offset=offset)
                self._generation += 1
                for assigned in self._consumer.assignment():
                    self.seek(TopicPartition(*assigned), None)
                return

    def seek(self, partition: TopicPartition, offset: int | None) -> None:
        assigned = native(partition)
        if assigned not in self._consumer.assignment():
            return  # taken away meanwhile: the next poll tells of the new generation
        if offset is None:
            self._consumer.pause(assigned)
            self._held.add(partition)
            return
        self._consumer.seek(assigned, offset)
        self._consumer.resume(assigned)
        self._held.discard(partition)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        try:
            # Bounded: aiokafka tries again without end while no coordinator answers.
            async with asyncio.timeout(COMMIT_SECONDS):
                await self._consumer.commit({native(partition): offset for partition, offset in offsets.items()})
        except (CommitFailedError, IllegalStateError, KafkaError, OSError, TimeoutError) as error:
            log.debug("the offsets were not told to Kafka", error=repr(error))
            return False
        return True

    async def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        try:
            async with asyncio.timeout(COMMITTED_SECONDS):  # aiokafka tries again without end
                found = await self._consumer._coordinator.fetch_committed_offsets([native(p) for p in partitions])
        except (KafkaError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(f"Kafka does not tell the committed offsets: {error!r}") from error
        return {TopicPartition(*each): told.offset for each, told in found.items() if told.offset >= 0}

    async def logs(self, partitions: Iterable[TopicPartition]) -> Logs:
        return await logs_of(self._consumer, partitions)

    async def ping(self) -> None:
        """Raises BrokerUnavailable where a broker does not answer a metadata request, or the client is broken."""
        if not self._alive:
            raise BrokerUnavailable("the consumer's background work has ended")
        try:
            await self._consumer._client.fetch_all_metadata()  # the public calls may wait without end
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Kafka does not answer: {error!r}") from error
