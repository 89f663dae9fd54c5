"""Sends what a group has, on disk and queued, and says what a failure means: wait, set a record aside, or leave the producer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from event_core.codec import Record
from event_core.errors import BrokerUnavailable, Overloaded, PlatformError, RecordsRefused, TooLarge, Unavailable
from event_core.kafka.producer import MAX_BATCH_BYTES
from event_core.telemetry import get_logger
from ingestion_service.buffer import Buffer
from ingestion_service.delivery import Stored
from ingestion_service.errors import BufferBroken
from ingestion_service.lanes import Group
from ingestion_service.link import Link, Session
from ingestion_service.metrics import Metrics
from ingestion_service.spool.lane import Lane
from ingestion_service.spool.store import Chunk

log = get_logger(__name__)

HOLD_RECORDS = 200
"""So few records on disk take some milliseconds to send: new ones wait in memory behind them."""
DRAIN_BYTES = 256 * 1024
"""What a group reads from disk at once."""


class Sender:
    """One per publisher; ``run`` is a group's task for as long as the group has something to send."""

    def __init__(
        self,
        link: Link,
        metrics: Metrics,
        *,
        dlq_topic: str,
        deadline: float,
        to_disk: Callable[[Group, PlatformError], None],
        set_aside: Callable[[str, Record, str], Awaitable[None]],
    ) -> None:
        """``deadline`` in seconds. ``to_disk`` moves what a group has queued to disk, or refuses it where there is none;
        ``set_aside`` keeps a record of a topic that Kafka refuses for good, and raises Unavailable where it cannot."""
        self._link = link
        self._metrics = metrics
        self._dlq = dlq_topic
        self._deadline = deadline
        self._to_disk = to_disk
        self._set_aside = set_aside
        self._turn = asyncio.Lock()
        self.buffer: Buffer | None = None
        self.stopping = False
        self.fresh = False
        """Set whenever something is published."""
        self.pending_bytes = 0
        """Of what is queued or in flight."""
        self.kafka_writes = 0

    async def run(self, session: Session, group: Group) -> None:
        """Sends until nothing is left or the session is lost. Raises nothing."""
        try:
            await self._flow(session, group)
        except RecordsRefused as refused:
            self._refused(group, refused)
            self._link.lose(session, refused.message)
        except TimeoutError:
            group.failed(time.monotonic())
            self._link.lose(session, f"Kafka did not acknowledge within {self._deadline:g} s")
        except BrokerUnavailable as error:
            group.failed(time.monotonic())
            self._link.lose(session, error.message)
        except Unavailable as error:  # the disk's fault or ours: Kafka is not to blame, the group is tried again later
            log.error("the buffer cannot be drained", topic=group.topic, problem=error.message)
            group.failed(time.monotonic())
            self._to_disk(group, error)
        except Exception as error:  # whatever else is raised, nobody may be left waiting
            log.error("sending failed unexpectedly", topic=group.topic, exc_info=error)
            group.failed(time.monotonic())
            self._link.lose(session, repr(error))
        finally:
            # At once: what is published before the task's callbacks run must start another one.
            group.ended(asyncio.current_task())

    async def _flow(self, session: Session, group: Group) -> None:
        buffer, rewound = self.buffer, False
        while True:
            if group.queue and not group.holding:
                await self._send_queued(session, group)
            elif (group.direct and not group.holding) or (self.stopping and not group.queue):
                return
            else:
                assert buffer is not None
                if not rewound:
                    for lane in group.lanes:
                        await buffer.rewind(lane)
                    rewound = True
                await self._drain(session, group, buffer)
                # Asked at once and without a wait between: a record that came meanwhile must not be left behind.
                if not any(map(buffer.waiting, group.lanes)):
                    group.direct, group.holding = True, False

    async def _send_queued(self, session: Session, group: Group) -> None:
        if time.monotonic() - group.queue[0].made > self._deadline:
            # It has waited behind others for as long as a client may: Kafka is slower than the events come.
            self._to_disk(
                group, Overloaded("the event was not stored: events come faster than Kafka takes them. Send it again")
            )
            group.direct = self.buffer is None
            return
        group.in_flight = batch = group.queue.popleft()
        began, records = time.perf_counter(), len(batch.records)
        batch.delivery.partition = await self._send(session, group, batch.records)
        group.in_flight = None
        self.pending_bytes -= batch.bytes
        batch.delivery.settle(Stored.KAFKA)
        self._metrics.batch_records.observe(records)
        self._metrics.batch_seconds.observe(time.perf_counter() - began)

    async def _drain(self, session: Session, group: Group, buffer: Buffer) -> None:
        """Sends some of what is on disk. The fullest lane first: one that gets a few new records all the time must not keep the
        other one waiting."""
        lane = max(group.lanes, key=buffer.waiting)
        size = min(DRAIN_BYTES, group.limit)
        if group.holding:
            chunk = await self._next_chunk(lane, buffer, size)
        else:
            chunk = await self._paced_chunk(lane, buffer, size)
        if chunk is None:
            return
        try:
            await self._send(session, group, chunk.records)
        except RecordsRefused as refused:
            if len(chunk.records) > 1:
                raise  # halved, and read again
            try:
                await self._set_aside(group.topic, chunk.records[0], refused.message)
                await buffer.forget(chunk)
            except Unavailable as error:
                log.error("a refused event cannot be set aside; it stays on disk", problem=error.message)
                group.failed(time.monotonic())
            raise
        await buffer.forget(chunk)
        group.succeeded()
        if not group.direct and sum(map(buffer.waiting, group.lanes)) <= HOLD_RECORDS:
            group.direct = group.holding = True

    async def _paced_chunk(self, lane: Lane, buffer: Buffer, size: int) -> Chunk | None:
        """The next chunk, in turn with the other groups. While new events come it rests as long as it worked: reading shares the
        interpreter with the requests, which go first. Only its own work counts: waiting for its turn is rest enough."""
        async with self._turn:
            before = buffer.read_seconds
            chunk = await self._next_chunk(lane, buffer, size)
            if self.fresh:
                self.fresh = False
                await asyncio.sleep(buffer.read_seconds - before)
            return chunk

    async def _next_chunk(self, lane: Lane, buffer: Buffer, size: int) -> Chunk | None:
        """The oldest records of a lane that are on disk or on their way to it; None where there are none."""
        missed = False
        while buffer.waiting(lane):
            chunk = await buffer.read(lane, size)
            if chunk is not None:
                return chunk
            if buffer.queued(lane):
                await buffer.committed()
            elif missed:
                raise BufferBroken(f"events are counted on disk that cannot be read: {lane}")
            else:
                missed = True  # a commit may have ended between the read and the question
        return None

    async def _send(self, session: Session, group: Group, records: Sequence[Record]) -> int | None:
        """Returns the partition where all went to one."""
        parts = group.by_partition(records)
        limit = min(group.limit, MAX_BATCH_BYTES)
        group.sent_at = began = time.monotonic()
        for partition, part in parts.items():
            seconds = max(0.1, began + self._deadline - time.monotonic())  # one deadline for them all
            self.kafka_writes += await session.send(group.topic, partition, part, seconds=seconds, limit=limit)
            self._metrics.produced.inc(len(part))
            if group.in_flight is not None and group.topic != self._dlq:
                self._metrics.direct.inc(len(part))
                group.in_flight.delivery.acknowledged += len(part)
            if len(parts) > 1 and group.in_flight is not None:
                # What is acknowledged must not be sent again where a later part fails.
                done = set(map(id, part))
                group.in_flight.records = [record for record in group.in_flight.records if id(record) not in done]
        group.sent_at = None
        return next(iter(parts)) if len(parts) == 1 else None

    def _refused(self, group: Group, refused: RecordsRefused) -> None:
        """Smaller batches from now on. Without a disk the clients are told: a single guilty one for good."""
        group.halve(refused.records)
        batch = group.in_flight
        if self.buffer is None and batch is not None and len(refused.records) == 1:
            group.note_guilty(refused.records[0])
            if len(batch.records) == 1:
                batch.delivery.settle(TooLarge(refused.message, reason="refused_by_broker"))
