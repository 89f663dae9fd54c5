"""The loop: poll, decode, batch, write, advance.

The stored offset is the truth. After each rebalance every partition is positioned anew from it, and what was read but not
written is dropped: it will be read again. A write moves the offset by compare-and-set, so two consumers that both believe
they own a partition cannot both store its events. An outage of the database is waited out with the batch in hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Generic, TypeVar

from event_consumer.batch import Batch, Item
from event_consumer.dead_letter import DeadLetter, dead_letter
from event_consumer.metrics import Metrics
from event_consumer.store import FenceLost, Store, Written
from event_consumer.tracing import BatchTracer
from event_core.clock import Clock, Monotonic
from event_core.errors import BrokerUnavailable, DatabaseUnavailable, UndecodableMessage
from event_core.source import Message, Polled, Source
from event_core.telemetry import get_logger
from event_core.topics import TopicPartition

log = get_logger(__name__)

Row = TypeVar("Row")

POLL_SECONDS = 0.25
"""Longest wait of one poll: also how soon a stop is noticed."""
POLL_RECORDS = 100
"""Most messages of one poll: of the largest events (256 KiB) it brings 25 MiB, however well they were compressed."""
LONGEST_BACKOFF_SECONDS = 5.0


class Runner(Generic[Row]):
    """One pipeline: from ``source`` through ``to_row`` into ``store``."""

    def __init__(
        self,
        source: Source,
        to_row: Callable[[Message], Row],
        store: Store[Row],
        batch: Batch[Row],
        *,
        metrics: Metrics,
        tracer: BatchTracer,
        clock: Clock,
        monotonic: Monotonic,
    ) -> None:
        self._source = source
        self._to_row = to_row
        self._store = store
        self._batch = batch
        self._metrics = metrics
        self._tracer = tracer
        self._clock = clock
        self._monotonic = monotonic
        self._generation = -1
        self._positions: dict[TopicPartition, int] = {}  # the stored offset of every partition that is ours

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until ``stop`` is set, then writes what is in hand; in an outage that is left to the next start.

        Raises:
            Exception: a fault that waiting does not mend; nothing was committed.
        """
        while not stop.is_set():
            await self._step(stop)
        if len(self._batch):
            await self._flush(stop)

    async def _step(self, stop: asyncio.Event) -> None:
        room = min(self._batch.room, POLL_RECORDS)
        polled = await self._poll(room, self._batch.wait(self._monotonic(), POLL_SECONDS))
        if polled is None:
            return
        if polled.generation != self._generation:
            await self._position(polled, stop)
            return
        for partition, messages in polled.messages.items():
            self._take(partition, messages)
        if self._batch.is_ready(self._monotonic()):
            await self._flush(stop)

    async def _poll(self, max_records: int, wait: float) -> Polled | None:
        """None while Kafka is away."""
        try:
            return await self._source.poll(max_records, wait)
        except BrokerUnavailable as error:
            log.warning("Kafka is away; waiting for it", problem=error.message)
            await asyncio.sleep(1)
            return None

    async def _position(self, polled: Polled, stop: asyncio.Event) -> None:
        """Takes up an assignment: drops what is in hand and seeks every partition to its stored offset."""
        self._batch = self._batch.empty()
        self._positions = {}
        backoff = 0.1
        while not stop.is_set():
            try:
                self._positions = await self._store.offsets(polled.assignment)
                break
            except DatabaseUnavailable as error:
                backoff = await self._wait_out(error, backoff, stop)
                await self._poll(0, 0)  # else the group would take this member for dead after some minutes
        for partition, offset in self._positions.items():
            self._source.seek(partition, offset)
        self._generation = polled.generation
        log.info("partitions taken", partitions={str(p): offset for p, offset in sorted(self._positions.items())})

    def _take(self, partition: TopicPartition, messages: list[Message]) -> None:
        items: list[Item[Row]] = []
        dead: list[DeadLetter] = []
        to_row = self._to_row
        for message in messages:
            try:
                items.append(Item(to_row(message), message))
            except UndecodableMessage as error:
                dead.append(dead_letter(message, error))
        self._batch.add(partition, items, dead, messages[-1].offset + 1, self._monotonic())

    async def _flush(self, stop: asyncio.Event) -> None:
        """Writes the batch, for as long as it takes; gives it up, unwritten, where it is no longer ours."""
        batch, generation = self._batch, self._generation
        expected = {partition: self._positions[partition] for partition in batch.offsets}
        backoff = 0.1
        while True:
            began = self._monotonic()
            try:
                with self._tracer.writing(batch):
                    outcome = await self._store.write(batch, expected)
                break
            except DatabaseUnavailable as error:
                if stop.is_set():
                    log.warning("ended during an outage; the batch will be read again", records=len(batch))
                    self._batch = batch.empty()
                    return
                backoff = await self._wait_out(error, backoff, stop)
                polled = await self._poll(0, 0)
                if polled is not None and polled.generation != generation:
                    self._batch = batch.empty()
                    return  # the next step takes up the new assignment
        self._batch = batch.empty()
        if isinstance(outcome, FenceLost):
            self._metrics.fences.inc()
            log.warning("another consumer was faster; reading again", partitions=[str(p) for p in outcome.partitions])
            self._generation = -1  # position everything anew
            return
        self._positions.update(batch.offsets)
        await self._source.commit(batch.offsets)
        self._count(batch, outcome, self._monotonic() - began)

    async def _wait_out(self, error: DatabaseUnavailable, backoff: float, stop: asyncio.Event) -> float:
        """Waits, with the group still seeing this member alive; returns the next wait."""
        self._metrics.waits.inc()
        log.warning("PostgreSQL is away; waiting for it", problem=error.message, seconds=round(backoff, 2))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(backoff * random.uniform(0.7, 1.3)):  # noqa: S311  # jitter, no secret
                await stop.wait()
        return min(LONGEST_BACKOFF_SECONDS, backoff * 2)

    def _count(self, batch: Batch[Row], written: Written, seconds: float) -> None:
        metrics = self._metrics
        metrics.stored.inc(written.stored)
        metrics.duplicates.inc(written.duplicates)
        for letter in written.dead:
            metrics.dead_letters.labels(letter.reason).inc()
            log.warning(
                "a message was set aside",
                topic=letter.topic,
                partition=letter.partition,
                offset=letter.offset,
                reason=letter.reason,
                problem=letter.error,
            )
        metrics.batch_records.observe(len(batch))
        metrics.write_seconds.observe(seconds)
        if batch.oldest_ms is not None:
            metrics.age_seconds.observe(max(0.0, self._clock().timestamp() - batch.oldest_ms / 1000))
        for partition, offset in batch.offsets.items():
            end = self._source.end(partition)
            if end is not None:
                metrics.lag.labels(partition.topic, str(partition.partition)).set(max(0, end - offset))
