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

from event_core.clock import utc_now
from event_core.codec import Record
from event_core.dead_letters import dead_letter_record
from event_core.errors import BrokerUnavailable, Overloaded, PlatformError, RecordsRefused, TooLarge, Unavailable
from event_core.kafka.producer import MAX_BATCH_BYTES, RECORD_OVERHEAD
from event_core.telemetry import get_logger
from event_core.topics import key_hash
from ingestion_service.buffer import Buffer
from ingestion_service.delivery import Delivery, Stored
from ingestion_service.errors import BufferBroken
from ingestion_service.lanes import Group, groups_of
from ingestion_service.link import Connect, Link, Opened, Session, connect_to
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import PublisherStatus
from ingestion_service.settings import IngestionSettings
from ingestion_service.spool.lane import LANES, Lane
from ingestion_service.spool.store import Chunk

log = get_logger(__name__)

RETRY_AFTER_SECONDS = 2
"""Told to clients while nothing can be stored: about as long as a new connection takes once Kafka is back."""
HOLD_RECORDS = 2_000
"""So few records on disk take some milliseconds to send: new ones wait in memory behind them."""
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
        self._pending_bytes = 0
        self._stopping = False
        self._ticks = 0
        self._kafka_writes = 0

    def _set_groups(self, topic: str, partitions: int, limit: int) -> None:
        self._groups[topic] = [Group(topic, number, partitions, limit) for number in range(groups_of(partitions))]

    # --- the Publisher interface

    async def start(self) -> None:
        if self._settings.kafka_acks != "all":
            log.warning("KAFKA_ACKS is not all: acknowledged events can be lost", acks=self._settings.kafka_acks)
        self._buffer = await Buffer.open(self._settings, self._metrics, self._committed)
        self._link.start()
        await self._link.opened(FIRST_SECONDS)

    async def stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        tasks = self._tasks()
        if tasks:
            await asyncio.wait(tasks, timeout=self._deadline)
        orderly = not self._tasks()
        if not orderly and self._link.session is not None:
            self._link.lose(self._link.session, "the service ends")
        await self._link.stop(orderly=orderly)
        if self._buffer is not None:
            await self._buffer.stop()

    def publish(self, topic: str, records: Sequence[Record]) -> list[Delivery]:
        buffer = self._buffer
        if self._link.session is None and buffer is None:
            raise BrokerUnavailable(
                f"the event was not stored: {self._link.problem}. Send it again, with the same event_id if it has one",
                retry_after=RETRY_AFTER_SECONDS,
            )
        size = sum([len(record.value) for record in records])
        if (
            self._pending_bytes + (buffer.pending_bytes if buffer else 0) + size
            > self._settings.ingestion_max_pending_bytes
        ):
            raise Overloaded(
                "too many events wait to be stored: send fewer at a time, or raise INGESTION_MAX_PENDING_BYTES"
            )
        now = time.monotonic()
        groups = self._groups[topic]
        count = len(groups)
        deliveries = []
        for record in records:
            hashed = key_hash(record.key)
            group = groups[hashed % count]
            if group.direct or buffer is None:
                self._pending_bytes += len(record.value)
                deliveries.append(group.take(record, now))
                if group.task is None:
                    self._start(group)
            else:
                deliveries.append(buffer.add(Lane(topic, hashed % LANES, LANES), record))
        return deliveries

    def largest(self, topic: str) -> int:
        return self._groups[topic][0].full_limit - RECORD_OVERHEAD

    async def quarantine(self, record: Record, reason: str, error: str, retry_count: int) -> None:
        if self._buffer is None:
            log.error(
                "an event was refused for good; without BUFFER_DIR it is kept nowhere", reason=reason, problem=error
            )
        else:
            await self._buffer.quarantine(self._settings.dlq_topic, record, reason, error, retry_count)

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
            kafka_writes=self._kafka_writes,
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
            self._buffer.draining = True
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

    def _lost(self, problem: str) -> None:
        """Everything unacknowledged goes to disk in its order, before anything new."""
        self._metrics.connected.set(0)
        self._metrics.abandoned.inc()
        current = asyncio.current_task()
        for task in self._tasks():
            if task is not current:
                task.cancel()  # the others wait for the same producer
        refusal = BrokerUnavailable(
            f"the event may not have been stored: {problem}. Send it again, with the same event_id if it has one",
            retry_after=RETRY_AFTER_SECONDS,
        )
        for group in self._all_groups():
            group.open_breaker()
            self._to_disk(group, refusal)
        if self._buffer is not None:
            self._buffer.draining = False
            self._buffer.note_outage()

    def _to_disk(self, group: Group, refusal: PlatformError) -> None:
        for batch in group.unacknowledged():
            self._pending_bytes -= batch.bytes
            if self._buffer is None:
                batch.delivery.settle(refusal)
                continue
            for record in batch.records:
                lane = Lane(group.topic, key_hash(record.key) % LANES, LANES)
                self._buffer.add(lane, record, batch.delivery)

    def _committed(self, lanes: set[Lane]) -> None:
        """New records are on disk: their groups may have nobody who drains them."""
        for lane in lanes:
            groups = self._groups.get(lane.topic)
            if groups is not None:
                self._start_if_due(groups[lane.number % len(groups)])

    async def _tick(self) -> None:
        self._ticks += 1
        buffer = self._buffer
        if buffer is not None:
            held = any(group.holding for group in self._all_groups())
            if self._ticks % ADOPT_TICKS == 0 and not held and await buffer.adopt():
                self._adopted(buffer.lanes())
            waiting = buffer.lanes()
            buffer.draining = self._link.session is not None and bool(waiting)
            self._committed(waiting)
        self._metrics.observe(self.status(), self._pending_bytes)

    def _adopted(self, waiting: set[Lane]) -> None:
        """Records of a process that is gone come before new ones of their groups; what is queued already goes first."""
        for group in self._all_groups():
            if not waiting.isdisjoint(group.lanes):
                group.direct = False

    # --- sending

    def _start(self, group: Group) -> None:
        session = self._link.session
        if session is not None:
            group.task = asyncio.create_task(self._run(session, group))

    def _start_if_due(self, group: Group) -> None:
        idle = group.task is None and not self._stopping and (group.holding or not group.direct)
        if idle and time.monotonic() >= group.retry_at:
            self._start(group)

    async def _run(self, session: Session, group: Group) -> None:
        try:
            await self._flow(session, group)
        except RecordsRefused as refused:
            if group.refuse(list(refused.records), refused.message) and self._buffer is None and group.in_flight:
                group.in_flight.delivery.settle(TooLarge(refused.message, reason="refused_by_broker"))
            self._link.lose(session, refused.message)
        except TimeoutError:
            group.failed(time.monotonic())
            self._link.lose(session, f"Kafka did not acknowledge within {self._deadline:g} s")
        except BufferBroken as error:  # Kafka is not to blame: the lane is tried again later
            log.error("the buffer cannot be drained", topic=group.topic, problem=error.message)
            group.failed(time.monotonic())
        except Exception as error:  # whatever the client library raises, nobody may be left waiting
            self._link.lose(session, str(error) or repr(error))
        finally:
            if group.task is asyncio.current_task():
                group.task = None

    async def _flow(self, session: Session, group: Group) -> None:
        """Sends what the group has, on disk and queued, until nothing is left."""
        buffer, rewound = self._buffer, False
        while True:
            if group.queue and not group.holding:
                await self._send_queued(session, group)
            elif (group.direct and not group.holding) or (self._stopping and not group.queue):
                return
            else:
                assert buffer is not None
                if not rewound:
                    for lane in group.lanes:
                        await buffer.rewind(lane)
                    rewound = True
                if not await self._drain(session, group, buffer):
                    group.direct, group.holding = True, False

    async def _send_queued(self, session: Session, group: Group) -> None:
        if time.monotonic() - group.queue[0].made > self._deadline:
            # It has waited behind others for as long as a client may: Kafka is slower than the events come.
            group.open_breaker()
            self._to_disk(
                group, Overloaded("the event was not stored: events come faster than Kafka takes them. Send it again")
            )
            group.direct = self._buffer is None
            return
        group.in_flight = batch = group.queue.popleft()
        began = time.perf_counter()
        batch.delivery.partition = await self._send(session, group, batch.records)
        group.in_flight = None
        self._pending_bytes -= batch.bytes
        batch.delivery.settle(Stored.KAFKA)
        self._metrics.batch_records.observe(len(batch.records))
        self._metrics.batch_seconds.observe(time.perf_counter() - began)

    async def _drain(self, session: Session, group: Group, buffer: Buffer) -> bool:
        """Sends some of what is on disk; False where nothing is."""
        for lane in group.lanes:
            chunk = await self._next_chunk(lane, buffer)
            if chunk is not None:
                await self._send(session, group, chunk.records)
                await buffer.forget(chunk)
                group.succeeded()
                left = sum(map(buffer.waiting, group.lanes))
                if not group.direct and left <= HOLD_RECORDS:
                    group.direct = group.holding = True
                return True
        return False

    async def _next_chunk(self, lane: Lane, buffer: Buffer) -> Chunk | None:
        """The oldest records of a lane that are on disk or on their way to it; None where there are none."""
        while buffer.waiting(lane):
            chunk = await buffer.read(lane)
            if chunk is not None:
                return chunk
            if not buffer.queued(lane):
                log.error("the buffer counts events that it cannot read", lane=str(lane))
                return None
            await buffer.committed()
        return None

    async def _send(self, session: Session, group: Group, records: Sequence[Record]) -> int | None:
        """Returns the partition where all went to one."""
        if group.refused:
            records = await self._set_aside(group, records)
        parts = group.by_partition(records) if records else {}
        limit = min(group.limit, MAX_BATCH_BYTES)
        for partition, part in parts.items():
            self._kafka_writes += await session.send(group.topic, partition, part, seconds=self._deadline, limit=limit)
        self._metrics.produced.inc(len(records))
        return next(iter(parts)) if len(parts) == 1 else None

    async def _set_aside(self, group: Group, records: Sequence[Record]) -> list[Record]:
        """``records`` without those that the broker refused: they become dead letters, or go to quarantine where they are
        dead letters that even that topic does not take."""
        kept = []
        for record in records:
            why = group.refused.get(record.value)
            if why is None:
                kept.append(record)
            elif group.topic != self._settings.dlq_topic:
                letter = dead_letter_record(
                    record.value,
                    topic=group.topic,
                    reason="refused_by_broker",
                    error=why,
                    stage="KAFKA_PRODUCE",
                    source=self._settings.service_name,
                    failed_at=utc_now(),
                    retry_count=1,
                    key=record.key,
                    headers=record.headers,
                )
                await self.publish(self._settings.dlq_topic, [letter])[0].wait()
                self._metrics.dead_letters.inc()
            else:
                await self.quarantine(record, "refused_by_broker", why, 1)
        return kept

    def _all_groups(self) -> list[Group]:
        return [group for groups in self._groups.values() for group in groups]

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [group.task for group in self._all_groups() if group.task is not None]
