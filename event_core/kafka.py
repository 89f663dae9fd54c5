"""Kafka: topics, the producer's connection, the consumer's source. The only importer of aiokafka.

What aiokafka 0.14 needs to be handled with care is written where it is handled: a producer whose batch failed for good is
thrown away, never stopped; topics' errors are read, not raised; nobody consumes before its stored offset is known.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import stamina
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener
from aiokafka import TopicPartition as NativeTopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from event_core.codec import Record
from event_core.errors import BrokerUnavailable, ClientBroken
from event_core.settings import KafkaSettings
from event_core.source import Polled
from event_core.telemetry import get_logger
from event_core.topics import TopicPartition, TopicSpec

log = get_logger(__name__)

T = TypeVar("T")

REQUEST_TIMEOUT_MS = 10_000
METADATA_MAX_AGE_MS = 30_000
"""How soon new partitions are noticed."""
CLOSE_SECONDS = 5.0
"""How long leaving a group may take; then the broker finds out by itself."""
COMMIT_SECONDS = 2.0
MAX_BATCH_BYTES = 512 * 1024
"""Largest batch before compression: below the broker's default message.max.bytes (1 MiB), so that no batch is refused whole."""
TOPIC_EXISTS = 36
"""Kafka's error code TOPIC_ALREADY_EXISTS."""

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]


def platform_topics(settings: KafkaSettings) -> tuple[TopicSpec, ...]:
    """The topics of the platform as the settings want them."""
    return (
        TopicSpec(settings.kafka_topic, settings.kafka_topic_partitions, settings.kafka_replication_factor),
        TopicSpec(settings.dlq_topic, 1, settings.kafka_replication_factor),
    )


async def connected(connect: Callable[[], Awaitable[T]], on_problem: Callable[[str], None]) -> T:
    """What ``connect`` returns, once it no longer raises BrokerUnavailable; ``on_problem`` is told of each that it raised."""
    async for attempt in stamina.retry_context(
        on=BrokerUnavailable, attempts=None, timeout=None, wait_initial=0.2, wait_max=2.0, wait_jitter=0.2
    ):
        with attempt:
            try:
                return await connect()
            except BrokerUnavailable as error:
                if attempt.num == 1:
                    log.warning("Kafka is away; trying again until it is back", problem=error.message)
                on_problem(error.message)
                raise
    raise AssertionError("unreachable: there is no limit to the attempts")


async def ensure_topics(settings: KafkaSettings, specs: Iterable[TopicSpec]) -> None:
    """Makes the topics that are missing; logs where one differs from what the platform wants, and leaves it.

    Raises:
        BrokerUnavailable: Kafka does not answer, or refuses to make a topic.
    """
    wanted = {spec.name: spec for spec in specs}
    admin = AIOKafkaAdminClient(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        client_id=settings.kafka_client_id,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    try:
        await admin.start()
        missing = wanted.keys() - set(await admin.list_topics())
        if missing:  # asked only then: a service without the right to make topics can work with those that are there
            response = await admin.create_topics(
                [NewTopic(name, wanted[name].partitions, wanted[name].replication_factor) for name in sorted(missing)]
            )
            # The admin client does not raise for a single topic: its errors are in the reply.
            for name, code, *message in response.topic_errors:
                if code == 0:
                    log.info("topic made", topic=name, partitions=wanted[name].partitions)
                elif code != TOPIC_EXISTS:
                    raise BrokerUnavailable(f"Kafka would not make the topic {name}: error {code} {message}")
        for found in await admin.describe_topics(list(wanted)):
            spec = wanted[found["topic"]]
            partitions = found["partitions"]
            replicas = min((len(partition["replicas"]) for partition in partitions), default=0)
            if partitions and (len(partitions), replicas) != (spec.partitions, spec.replication_factor):
                log.warning(
                    "a topic differs from the settings; it is left as it is",
                    topic=spec.name,
                    partitions=len(partitions),
                    wanted_partitions=spec.partitions,
                    replicas=replicas,
                    wanted_replicas=spec.replication_factor,
                )
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"Kafka at {settings.kafka_bootstrap_servers} does not answer: {error!r}") from error
    finally:
        with contextlib.suppress(KafkaError, OSError):
            await admin.close()


class RecordBatch:
    """Records for one partition, encoded and compressed as they come. Knows its size in records and bytes."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.records = 0
        self.bytes = 0

    def append(self, record: Record) -> bool:
        """False where the batch is full; the first record always fits."""
        appended = self.builder.append(key=record.key, value=record.value, headers=record.headers, timestamp=None)
        if appended is None:
            return False
        self.records += 1
        self.bytes += len(record.value)
        return True


class ProducerSession:
    """One connected producer. After any error ``abandon`` it and open another: an idempotent producer whose batch failed
    for good has a gap in its sequence numbers and would refuse every later batch of that partition."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    @classmethod
    async def open(cls, settings: KafkaSettings, *, acks: str, compression: Compression) -> ProducerSession:
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
        """False once the sender task has died: every later send would fail."""
        sender = self._producer._sender.sender_task  # aiokafka tells it in no other way
        return sender is not None and not sender.done()

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

    def new_batch(self) -> RecordBatch:
        return RecordBatch(self._producer.create_batch())

    async def send(self, batch: RecordBatch, topic: str, partition: int) -> None:
        """Returns once the broker acknowledged the whole batch.

        Raises:
            BrokerUnavailable: it did not; whether the records are in the log is not known.
        """
        try:
            await (await self._producer.send_batch(batch.builder, topic, partition=partition))
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
        sender = producer._sender.sender_task  # as above: there is no public way to end it
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            await asyncio.wait_for(producer.client.close(), 2)
        if sender is not None:
            sender.cancel()
            await asyncio.wait({sender}, timeout=2)
            if sender.done() and not sender.cancelled():
                sender.exception()  # seen, so that asyncio does not report it at collection
        producer._closed = True  # else its destructor reports a leak


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
        except (KafkaError, OSError) as error:
            await source.stop()
            raise BrokerUnavailable(
                f"Kafka at {settings.kafka_bootstrap_servers} does not answer: {error!r}"
            ) from error
        return source

    async def stop(self) -> None:
        """Leaves the group, so that others take over at once."""
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._consumer.stop()

    @property
    def _alive(self) -> bool:
        # aiokafka tells in no other way that its tasks have died; from then on every poll would fail.
        tasks = (self._consumer._coordinator._coordination_task, self._consumer._fetcher._fetch_task)
        return not any(task is not None and task.done() for task in tasks)

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self._generation += 1

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        # Called before the first fetch. An exception or a wait here would be swallowed or stall the whole group, so the
        # stored offsets are looked up by the loop, and until then the partitions stand still.
        self._generation += 1
        self._waiting = {TopicPartition(*partition) for partition in assigned}
        self._consumer.pause(*assigned)

    async def poll(self, max_records: int, wait: float) -> Polled:
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
