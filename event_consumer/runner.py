"""The loop: poll, decode, batch, write, advance.

The stored offset is the truth. After each rebalance every partition is positioned anew from it, and what was read but not
written is dropped: it will be read again. A write moves the offset by compare-and-set, so two consumers that both believe
they own a partition cannot both store its events. While a lane's batch is written the next is read; an outage of the database
is waited out with both in hand, and with the lane's partitions standing still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Generic, TypeVar

from event_consumer.batch import Batch, Item
from event_consumer.breaker import Breaker
from event_consumer.dead_letter import DeadLetter
from event_consumer.gaps import Gap, GapKind, Position, can_verify, check, mark, not_the_same
from event_consumer.lane import FIRST_BACKOFF_SECONDS, Lane, Settled, wait_out
from event_consumer.metrics import Metrics
from event_consumer.progress import Progress
from event_consumer.store import FenceLost, Store, Written
from event_consumer.tracing import BatchTracer
from event_core.clock import Clock, Monotonic
from event_core.errors import BrokerUnavailable, DeadLetterFlood, Unavailable
from event_core.source import Logs, Message, Polled, Source
from event_core.stopping import sleep
from event_core.telemetry import get_logger
from event_core.topics import TopicPartition

log = get_logger(__name__)

Row = TypeVar("Row")

LANES = 2
"""As many as keep two cores busy: one decodes and counts while the other waits for the database."""
POLL_SECONDS = 0.25
"""Longest wait of one poll: also how soon a stop is noticed."""
BRIEFLY_SECONDS = 0.01
"""Longest wait of one poll while a lane is full: it is read again as soon as it has room."""
POLL_RECORDS = 500
"""Most messages of one poll: of the largest events (256 KiB) the client's own limits bring less."""
REVOKE_SECONDS = 5.0
"""How long a new assignment waits for batches that are being written under the old one."""
TELL_SECONDS = 1.0
"""How often Kafka is told the offsets."""
GAP_SECONDS = 10.0
"""How often a partition that is not read on is looked at again."""
NOT_POSITIONED = -1
ANY = asyncio.FIRST_COMPLETED


class Runner(Generic[Row]):
    """One pipeline: from ``source`` through ``decode`` into ``store``."""

    def __init__(
        self,
        source: Source,
        decode: Callable[[Sequence[Message]], tuple[list[Item[Row]], list[DeadLetter]]],
        store: Store[Row],
        batch: Batch[Row],
        breaker: Breaker,
        *,
        metrics: Metrics,
        progress: Progress,
        tracer: BatchTracer,
        clock: Clock,
        monotonic: Monotonic,
    ) -> None:
        """``batch`` is an empty one with the limits of all."""
        self._source = source
        self._decode = decode
        self._store = store
        self._breaker = breaker
        self._metrics = metrics
        self._progress = progress
        self._clock = clock
        self._monotonic = monotonic
        self._lanes = [
            Lane(store, batch.empty(), metrics=metrics, tracer=tracer, monotonic=monotonic) for _ in range(LANES)
        ]
        self._stop = asyncio.Event()
        self._generation = NOT_POSITIONED
        self._backoff = FIRST_BACKOFF_SECONDS  # of finding out where to read on
        self._verify: dict[TopicPartition, Position] = {}  # its next message must be the last one that was stored
        self._positions: dict[TopicPartition, Position] = {}  # as of the assignment
        self._logs = Logs("", {})
        self._lane_of: dict[TopicPartition, Lane[Row]] = {}
        self._reading: asyncio.Task[Polled | None] | None = None
        self._untold: dict[TopicPartition, int] = {}
        self._told_at = self._gaps_seen_at = monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until ``stop`` is set, then writes what is in hand; in an outage that is left to the next start.

        Raises:
            DeadLetterFlood: so much is bad that the fault must be ours; nothing of it was committed.
            Exception: a fault that waiting does not mend; nothing was committed.
        """
        self._stop = stop
        for lane in self._lanes:
            lane.stop = stop
        try:
            while not stop.is_set():
                await self._step()
            for lane in self._lanes:
                while self._generation != NOT_POSITIONED and not lane.idle:
                    if lane.writing is None:
                        lane.write()
                    self._settle(await lane.settle())
            await self._tell()
        finally:
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.wait({self._reading})
            await asyncio.gather(*(lane.cancel() for lane in self._lanes))

    async def _step(self) -> None:
        now = self._monotonic()
        for lane in self._lanes:
            if lane.writing is not None and lane.writing.done():
                self._settle(await lane.settle())
            if lane.writing is None and lane.batch.is_ready(now) and self._generation != NOT_POSITIONED:
                lane.write()
        if self._untold and now - self._told_at >= TELL_SECONDS:
            await self._tell()
        if self._progress.gaps and now - self._gaps_seen_at >= GAP_SECONDS:
            await self._look_at_gaps()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        # What is ready but may not be written yet, as it is not known where to read on, ends no wait.
        idle = [lane for lane in self._lanes if lane.writing is None and self._generation != NOT_POSITIONED]
        waits = [lane.batch.wait(now, POLL_SECONDS) for lane in idle]
        await asyncio.wait({self._reading, *self._writes()}, timeout=min(waits, default=POLL_SECONDS), return_when=ANY)
        if self._reading.done():
            reading, self._reading = self._reading, None
            await self._note(reading.result())

    async def _note(self, polled: Polled | None) -> None:
        if polled is None:
            return
        self._progress.hear(polled.ends)
        if polled.generation != self._generation:
            await self._position(polled)
            return
        for partition, messages in polled.messages.items():
            self._take(partition, messages)

    def _writes(self) -> set[asyncio.Task[Settled[Row]]]:
        return {lane.writing for lane in self._lanes if lane.writing is not None}

    async def _read(self) -> Polled | None:
        """The next messages of lanes that have room; none while it is not known where to begin."""
        if self._generation == NOT_POSITIONED:
            return await self._poll(0, 0)
        full = {partition for partition, lane in self._lane_of.items() if not lane.batch.room}
        if not full:
            return await self._poll(min(lane.batch.room for lane in self._lanes), POLL_SECONDS)
        rest = self._lane_of.keys() - full
        if rest:
            return await self._poll(min(self._lane_of[p].batch.room for p in rest), BRIEFLY_SECONDS, rest)
        if writes := self._writes():  # backpressure: the partitions stand still until a batch is written
            await asyncio.wait(writes, timeout=POLL_SECONDS, return_when=ANY)
        return await self._poll(0, 0)

    async def _poll(self, room: int, wait: float, only: Collection[TopicPartition] | None = None) -> Polled | None:
        """None while Kafka is away."""
        try:
            return await self._source.poll(min(room, POLL_RECORDS), wait, only)
        except BrokerUnavailable as error:
            await self._kafka_is_away(error)
            return None

    async def _kafka_is_away(self, error: BrokerUnavailable) -> None:
        log.warning("Kafka is away; waiting for it", problem=error.message)
        await sleep(1.0, self._stop)

    # --- an assignment

    async def _position(self, polled: Polled) -> None:
        """Takes up an assignment: drops what is in hand and seeks every partition to its stored offset."""
        await self._abandon()
        self._generation = NOT_POSITIONED
        self._gaps_seen_at = self._monotonic()
        try:
            logs = await self._source.logs(polled.assignment)
            positions = await self._store.positions(logs)
        except BrokerUnavailable as error:
            await self._kafka_is_away(error)
            return
        except Unavailable as error:
            self._backoff = await wait_out(error, self._backoff, self._metrics, self._stop)
            return
        self._backoff = FIRST_BACKOFF_SECONDS
        offsets = {partition: position.next_offset for partition, position in positions.items()}
        self._positions, self._logs = positions, logs
        self._lane_of = {}
        for _, group in groupby(sorted(positions), key=attrgetter("topic")):  # each topic is dealt to all lanes
            self._lane_of |= {partition: self._lanes[rank % LANES] for rank, partition in enumerate(group)}
        for lane in self._lanes:
            lane.position({p: offset for p, offset in offsets.items() if self._lane_of[p] is lane})
        self._progress.take(offsets, {partition: found.end for partition, found in logs.of.items()})
        self._verify, self._untold = {}, {}
        for partition, position in sorted(positions.items()):
            if position.last_record_at is not None:
                read_up_to = int(position.last_record_at.timestamp() * 1000)
                self._progress.store(partition, position.next_offset, read_up_to)
            gap = check(position, logs.of[partition], logs.cluster_id)
            if gap is not None:
                self._hold(partition, gap)
            elif can_verify(position, logs.of[partition]):
                self._verify[partition] = position
                self._source.seek(partition, position.next_offset - 1)
            else:
                self._progress.unstuck(partition)
                self._source.seek(partition, position.next_offset)
        self._generation = polled.generation
        log.info("partitions taken", partitions={str(p): offset for p, offset in sorted(offsets.items())})

    async def _abandon(self) -> None:
        """Waits for what is being written, but not for long: if it is committed later, the stored offset tells."""
        if writes := self._writes():
            await asyncio.wait(writes, timeout=REVOKE_SECONDS)
        for lane in self._lanes:
            if lane.writing is not None and lane.writing.done():
                self._settle(await lane.settle())
            self._breaker.discard(lane.unwritten)
            await lane.cancel()
            lane.position({})

    async def _look_at_gaps(self) -> None:
        """Where somebody has decided about a partition that stands still, or its log has changed, all are positioned anew."""
        self._gaps_seen_at = self._monotonic()
        stuck = {partition: self._positions[partition] for partition in self._progress.gaps}
        try:
            logs = await self._source.logs(stuck)
            found = await self._store.positions(logs)
        except Unavailable:
            return  # the next look tells
        self._progress.hear({partition: log.end for partition, log in logs.of.items()})
        for partition, position in found.items():
            kind = self._progress.gaps[partition].kind
            now = check(position, logs.of[partition], logs.cluster_id)
            # That a log was made anew its bounds do not tell: it stands until the offset is another.
            same = kind is GapKind.RECREATED if now is None else now.kind is kind
            if position != stuck[partition] or not same:
                self._generation = NOT_POSITIONED

    def _hold(self, partition: TopicPartition, gap: Gap) -> None:
        known = gap.kind is GapKind.EXPIRED  # of another log nothing was read
        unread_from = self._positions[partition].next_offset if known else self._logs.of[partition].begin
        self._progress.stuck(partition, gap, unread_from)
        self._source.seek(partition, None)
        log.error("a partition is not read on", partition=str(partition), gap=gap.kind.value, why=gap.explanation)

    def _verified(self, partition: TopicPartition, messages: Sequence[Message]) -> Sequence[Message]:
        """``messages`` without the one that was stored before, where it is the same; none where it is not."""
        position = self._verify.pop(partition)
        if messages[0].offset == position.next_offset - 1:
            if mark(messages[0]) != position.last_mark:
                self._hold(partition, not_the_same(position))
                return ()
            messages = messages[1:]
        self._progress.unstuck(partition)
        return messages

    def _take(self, partition: TopicPartition, messages: Sequence[Message]) -> None:
        if partition in self._verify:
            messages = self._verified(partition, messages)
        if not messages:
            return
        items, dead = self._decode(messages)
        bad = sum([not letter.on_topic for letter in dead]) if dead else 0
        if self._breaker.trips(len(messages), bad):
            why = dead[-1].error if dead else "unknown"
            raise DeadLetterFlood(f"{self._breaker.bad} of the last messages are bad, the last one because: {why}")
        self._progress.read(partition, messages[0].offset, messages[0].timestamp)
        self._lane_of[partition].batch.add(partition, messages, items, dead, self._monotonic())

    # --- what was written

    def _settle(self, settled: Settled[Row]) -> None:
        batch, outcome, seconds = settled
        if isinstance(outcome, Written):
            for partition, offset in batch.offsets.items():
                self._untold[partition] = offset
                self._progress.store(partition, offset, batch.last[partition].timestamp)
            self._metrics.settle(batch, outcome, seconds, self._clock())
            return
        if isinstance(outcome, FenceLost):
            self._metrics.fences.inc()
            log.warning("another consumer was faster; reading again", partitions=[str(p) for p in outcome.partitions])
        self._breaker.discard(len(batch))
        self._generation = NOT_POSITIONED  # what is in hand builds on what was not written

    async def _tell(self) -> None:
        if self._untold and await self._source.commit(self._untold):
            self._untold = {}
        self._told_at = self._monotonic()
