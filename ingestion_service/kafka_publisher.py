"""From records to a durable copy: in Kafka, or on disk while Kafka is away.

Per partition one batch is in flight; what comes meanwhile makes the next one (as Nagle's algorithm does for packets), so the
broker's latency sets the batch size and nothing has to be tuned. One future per message would cost ten times as much.

The breaker is per partition (precisely, per *group*: see lanes.py). Closed: records go straight to Kafka. It opens when a batch
fails or is overdue: the producer is abandoned (an idempotent one could not go on), everything unacknowledged goes to disk in its
order, and so does all that comes after it. A new producer then drains each group from its oldest record on: that is the half-open
state. Once nearly nothing is left, new records wait in memory behind the rest, and the breaker is closed again when that is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from uuid import NAMESPACE_OID, uuid5

from event_core.clock import utc_now
from event_core.codec import Record
from event_core.dead_letters import STAGE_PRODUCE, dead_letter_record
from event_core.errors import BrokerUnavailable, Overloaded, PlatformError, TooLarge, Unavailable
from event_core.kafka.producer import RECORD_OVERHEAD
from event_core.telemetry import get_logger
from event_core.topics import key_hash
from ingestion_service.buffer import Buffer
from ingestion_service.delivery import Delivery
from ingestion_service.lanes import Batch, Group, groups_of
from ingestion_service.link import Connect, Link, Opened, connect_to
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import PublisherStatus
from ingestion_service.sending import Sender
from ingestion_service.settings import IngestionSettings
from ingestion_service.spool.lane import LANES, Lane

log = get_logger(__name__)

RETRY_AFTER_SECONDS = 2
"""Told to clients while nothing can be stored: about as long as a new connection takes once Kafka is back."""
OVERDUE_SECONDS = 1.0
"""A batch in flight for so long makes us ask whether Kafka is still there: a dead broker need not be waited for."""
ADOPT_TICKS = 10
FIRST_SECONDS = 1.0
"""How long the start waits for Kafka, so that in ordinary times the first events do not go to disk."""
DEFAULT_LIMIT = 1 << 20
"""Kafka's own default of max.message.bytes, where it does not tell."""


class DiskPing:
    """The disk buffer as a dependency: with it the service can do its work while Kafka is away."""

    name = "buffer"

    def __init__(self, publisher: KafkaPublisher) -> None:
        self._publisher = publisher

    async def ping(self) -> None:
        await self._publisher.ping_disk()


class KafkaPublisher:
    """Publishes to every topic of the platform."""

    name = "kafka"

    def __init__(
        self,
        settings: IngestionSettings,
        metrics: Metrics,
        on_failure: Callable[[BaseException], None] | None = None,
        *,
        connect: Connect | None = None,
    ) -> None:
        """``on_failure`` is told where no connection can ever be made, as with an address that is none."""
        self._settings = settings
        self._metrics = metrics
        self._deadline = settings.kafka_publish_timeout_seconds
        self._buffer: Buffer | None = None
        make = connect or connect_to(settings)
        self._link = Link(
            lambda: make({lane.topic for lane in self._buffer.lanes()} if self._buffer else set()),
            on_open=self._opened,
            on_lost=self._lost,
            on_tick=self._tick,
            on_failure=on_failure,
        )
        partitions = settings.kafka_topic_partitions
        self._groups: dict[str, list[Group]] = {}
        self._set_groups(settings.kafka_topic, partitions, DEFAULT_LIMIT)
        self._set_groups(settings.kafka_product_topic, partitions, DEFAULT_LIMIT)
        self._set_groups(settings.dlq_topic, 1, DEFAULT_LIMIT)
        self._ticks = 0
        self._sender = Sender(
            self._link,
            metrics,
            dlq_topic=settings.dlq_topic,
            deadline=self._deadline,
            to_disk=self._queue_to_disk,
            set_aside=self._set_aside,
        )

    def _set_groups(self, topic: str, partitions: int, limit: int) -> None:
        self._groups[topic] = [Group(topic, number, partitions, limit) for number in range(groups_of(partitions))]

    # --- the Publisher interface

    async def start(self) -> None:
        if self._settings.kafka_acks != "all":
            log.warning("KAFKA_ACKS is not all: acknowledged events can be lost", acks=self._settings.kafka_acks)
        self._sender.buffer = self._buffer = await Buffer.open(self._settings, self._metrics, self._committed)
        self._link.start()
        await self._link.opened(FIRST_SECONDS)

    async def stop(self) -> None:
        if self._sender.stopping:
            return
        self._sender.stopping = True
        tasks = self._tasks()
        if tasks:
            await asyncio.wait(tasks, timeout=self._deadline)
        orderly = not self._tasks()
        if not orderly and self._link.session is not None:
            self._link.lose(self._link.session, "the service ends")
        try:
            await self._link.stop(orderly=orderly)
        finally:
            if self._buffer is not None:
                await self._buffer.stop()

    def publish(self, topic: str, records: Sequence[Record]) -> list[Delivery]:
        buffer = self._buffer
        if self._link.session is None and buffer is None:
            raise BrokerUnavailable(
                "the event was not stored: Kafka is away and the disk buffer is off. Send it again, with the same event_id "
                "if it has one",
                retry_after=RETRY_AFTER_SECONDS,
            )
        groups = self._groups[topic]
        count = len(groups)
        size = sum([len(record.value) for record in records])
        pending = self._sender.pending_bytes + (buffer.pending_bytes if buffer else 0)
        if pending + size > self._settings.ingestion_max_pending_bytes:
            raise Overloaded(
                "too many events wait to be stored: send fewer at a time, or raise INGESTION_MAX_PENDING_BYTES"
            )
        self._sender.fresh = True
        now = time.monotonic()
        deliveries = []
        for record in records:
            hashed = key_hash(record.key)
            group = groups[hashed % count]
            if buffer is None and group.is_guilty(record):
                refusal = TooLarge(
                    f"topic {topic} does not take this event: send less of it", reason="refused_by_broker"
                )
                deliveries.append(Delivery.settled(refusal))
            elif group.direct or buffer is None:
                self._sender.pending_bytes += len(record.value)
                deliveries.append(group.take(record, now))
                if group.task is None:
                    self._start(group)
            else:
                deliveries.append(buffer.add(Lane(topic, hashed % LANES, LANES), record))
        return deliveries

    def largest(self, topic: str) -> int:
        return self._groups[topic][0].full_limit - RECORD_OVERHEAD

    async def quarantine(self, record: Record, reason: str, error: str, retry_count: int) -> bool:
        if self._buffer is None:
            return False
        try:
            await self._buffer.quarantine(self._settings.dlq_topic, record, reason, error, retry_count, lesser=True)
        except Unavailable as problem:
            log.warning("an event could not be quarantined", problem=problem.message, reason=reason)
            return False
        return True

    async def ping(self) -> None:
        """Raises BrokerUnavailable where Kafka does not answer."""
        session = self._link.session
        if session is None:
            raise BrokerUnavailable(self._link.problem)
        await session.ping()

    @property
    def disk(self) -> DiskPing:
        """The health check of the buffer."""
        return DiskPing(self)

    async def ping_disk(self) -> None:
        """Raises Unavailable where the buffer takes nothing."""
        if self._buffer is None:
            raise Unavailable("the buffer is not open")
        await self._buffer.ping()

    def status(self) -> PublisherStatus:
        session, buffer = self._link.session, self._buffer
        return PublisherStatus(
            kafka_connected=session is not None,
            spooling=buffer is not None and not all(group.direct for group in self._all_groups()),
            buffered_events=buffer.store.records if buffer else 0,
            buffered_batches=buffer.store.files if buffer else 0,
            buffer_bytes=buffer.store.size_bytes if buffer else 0,
            buffer_max_bytes=buffer.store.max_bytes if buffer else 0,
            kafka_writes=self._sender.kafka_writes,
            problem=None if session is not None else self._link.problem,
            damaged_files=buffer.store.damaged.files if buffer else 0,
            damaged_records=buffer.store.damaged.records if buffer else 0,
        )

    # --- the breaker

    def _opened(self, opened: Opened) -> None:
        """A new session: each group drains what is on disk, or is closed at once where nothing is."""
        self._metrics.connected.set(1)
        waiting: set[Lane] = set()
        if self._buffer is not None:
            waiting = self._buffer.lanes()
        for topic, partitions in opened.partitions.items():
            limit = opened.limits.get(topic, DEFAULT_LIMIT)
            groups = self._groups.get(topic)
            if groups is None or groups[0].partitions != partitions or groups[0].full_limit != limit:
                self._set_groups(
                    topic, partitions, limit
                )  # the old ones are empty: nothing is queued without a session
            for group in self._groups[topic]:
                if waiting.isdisjoint(group.lanes):
                    group.direct = True
                else:
                    self._start_if_due(group)

    def _lost(self) -> None:
        """Everything unacknowledged goes to disk in its order, before anything new."""
        self._metrics.connected.set(0)
        self._metrics.abandoned.inc()
        current = asyncio.current_task()
        for task in self._tasks():
            if task is not current:
                task.cancel()  # the others wait for the same producer
        refusal = BrokerUnavailable(
            "the event may not have been stored: Kafka went away meanwhile. Send it again, with the same event_id if it has "
            "one",
            retry_after=RETRY_AFTER_SECONDS,
        )
        for group in self._all_groups():
            group.open_breaker()
            self._to_disk(group, group.unacknowledged(), refusal)
        if self._buffer is not None:
            self._buffer.note_outage()

    def _queue_to_disk(self, group: Group, refusal: PlatformError) -> None:
        """Opens the group's breaker for what is queued; what is in flight may still be acknowledged."""
        group.open_breaker()
        self._to_disk(group, group.queued(), refusal)

    def _to_disk(self, group: Group, batches: Sequence[Batch], refusal: PlatformError) -> None:
        for batch in batches:
            self._sender.pending_bytes -= batch.bytes
            if self._buffer is None:
                self._metrics.unheard.inc(batch.delivery.acknowledged, "part")
                batch.delivery.settle(refusal)
                continue
            for record in batch.records:
                lane = Lane(group.topic, key_hash(record.key) % LANES, LANES)
                self._buffer.add(lane, record, batch.delivery)

    def _committed(self, lanes: set[Lane]) -> None:
        """New records are on disk: their groups may have nobody who drains them."""
        for lane in lanes:
            groups = self._groups.get(lane.topic)
            if groups is not None and self._buffer is not None and self._buffer.waiting(lane):
                self._start_if_due(groups[lane.number % len(groups)])

    def _overdue(self) -> bool:
        """Whether some batch is in flight for longer than usual."""
        since = time.monotonic() - OVERDUE_SECONDS
        return any(group.task and group.sent_at and group.sent_at < since for group in self._all_groups())

    async def _tick(self) -> None:
        self._ticks += 1
        if self._overdue():
            await self._link.probe()
        buffer = self._buffer
        if buffer is not None:
            if self._ticks % ADOPT_TICKS == 0 and await buffer.adopt():
                self._adopted(buffer.lanes())
            self._committed(buffer.lanes())
        self._metrics.observe(self.status(), self._sender.pending_bytes)

    def _adopted(self, waiting: set[Lane]) -> None:
        """Records of a process that is gone come before new ones of their groups, also before those that are queued."""
        for group in self._all_groups():
            if not waiting.isdisjoint(group.lanes):
                self._queue_to_disk(group, BrokerUnavailable("unreachable: there is a buffer"))

    # --- sending

    def _start(self, group: Group) -> None:
        session = self._link.session
        if session is None:
            return
        task = group.task = asyncio.create_task(self._sender.run(session, group))
        task.add_done_callback(group.ended)  # one that is cancelled before its first step never comes to its own end

    def _start_if_due(self, group: Group) -> None:
        if group.task is None and not self._sender.stopping and time.monotonic() >= group.retry_at:
            group.direct = False
            self._start(group)

    async def _set_aside(self, topic: str, record: Record, why: str) -> None:
        """A record that Kafka refuses becomes a dead letter; a dead letter that even its topic refuses goes to quarantine.

        Raises:
            Unavailable: neither takes it now.
        """
        log.warning(
            "Kafka refuses an event for good; it is set aside", topic=topic, bytes=len(record.value), problem=why
        )
        if topic != self._settings.dlq_topic:
            letter = dead_letter_record(
                record.value,
                topic=topic,
                reason="refused_by_broker",
                error=why,
                stage=STAGE_PRODUCE,
                source=self._settings.service_name,
                failed_at=utc_now(),
                retry_count=1,
                key=record.key,
                headers=record.headers,
                # The same record again, after a crash between here and its chunk's end, is the same letter.
                dead_letter_id=uuid5(NAMESPACE_OID, f"{topic}:{sha256(record.value).hexdigest()}"),
            )
            await self.publish(self._settings.dlq_topic, [letter])[0].wait()
            self._metrics.dead_letters.inc()
        elif self._buffer is not None:
            await self._buffer.quarantine(topic, record, "refused_by_broker", why, 1)

    def _all_groups(self) -> list[Group]:
        return [group for groups in self._groups.values() for group in groups]

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [group.task for group in self._all_groups() if group.task is not None]
