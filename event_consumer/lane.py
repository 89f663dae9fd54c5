"""Partitions that are written together: one batch in hand, and at most one that is being written.

A consumer has several lanes, each with a connection of its own: while one waits for the database the others decode, encode and
count. A partition is always in the same lane, so its offsets are moved one after the other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

from event_consumer.batch import Batch
from event_consumer.metrics import Metrics
from event_consumer.store import FenceLost, Store, Written
from event_consumer.tracing import BatchTracer
from event_core.clock import Monotonic
from event_core.errors import Unavailable
from event_core.stopping import sleep
from event_core.telemetry import get_logger
from event_core.topics import TopicPartition

log = get_logger(__name__)

Row = TypeVar("Row")

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 5.0
CANCEL_SECONDS = 1.0


class Settled(NamedTuple, Generic[Row]):
    """What became of a batch. ``outcome`` is None where it was left to the next start; ``seconds`` is how long its write took."""

    batch: Batch[Row]
    outcome: Written | FenceLost | None
    seconds: float


class Lane(Generic[Row]):
    """One lane of a ``Runner``, which alone uses it."""

    def __init__(
        self, store: Store[Row], batch: Batch[Row], *, metrics: Metrics, tracer: BatchTracer, monotonic: Monotonic
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._tracer = tracer
        self._monotonic = monotonic
        self._ahead: dict[TopicPartition, int] = {}  # the offset that the next batch of each partition builds on
        self._in_flight = 0
        self.stop = asyncio.Event()
        self.batch = batch
        self.writing: asyncio.Task[Settled[Row]] | None = None

    @property
    def idle(self) -> bool:
        """Nothing is in hand or being written."""
        return self.writing is None and not len(self.batch)

    @property
    def unwritten(self) -> int:
        """Messages in hand and being written."""
        return len(self.batch) + (self._in_flight if self.writing is not None else 0)

    def position(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Begins anew from the stored ``offsets``; what is in hand is dropped."""
        self.batch = self.batch.empty()
        self._ahead = dict(offsets)

    def write(self) -> None:
        """Begins to write what is in hand; nothing may be being written."""
        batch, self.batch = self.batch, self.batch.empty()
        self._in_flight = len(batch)
        expected = {partition: self._ahead[partition] for partition in batch.offsets}
        self._ahead.update(batch.offsets)
        self.writing = asyncio.create_task(self._write(batch, expected))

    async def settle(self) -> Settled[Row]:
        """Waits for the batch that is being written."""
        assert self.writing is not None
        writing, self.writing = self.writing, None
        return await writing

    async def cancel(self) -> None:
        """Waits no longer for what is being written: if it is committed all the same, the stored offset tells."""
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.add_done_callback(lambda task: task.cancelled() or task.exception())
            writing.cancel()
            await asyncio.wait({writing}, timeout=CANCEL_SECONDS)

    async def _write(self, batch: Batch[Row], expected: Mapping[TopicPartition, int]) -> Settled[Row]:
        """For as long as it takes."""
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            began = self._monotonic()
            try:
                with self._tracer.writing(batch):
                    outcome = await self._store.write(batch, expected)
                return Settled(batch, outcome, self._monotonic() - began)
            except Unavailable as error:
                if self.stop.is_set():
                    log.warning("ended during an outage; the batch will be read again", records=len(batch))
                    return Settled(batch, None, 0.0)
                backoff = await wait_out(error, backoff, self._metrics, self.stop)


async def wait_out(error: Unavailable, backoff: float, metrics: Metrics, stop: asyncio.Event) -> float:
    """Waits ``backoff`` seconds, about, but not beyond a stop; returns the next wait."""
    metrics.wait(error)
    log.warning("the store is away; waiting for it", problem=error.message, seconds=round(backoff, 2))
    await sleep(backoff * random.uniform(0.7, 1.3), stop)  # noqa: S311  # jitter, no secret
    return min(LONGEST_BACKOFF_SECONDS, backoff * 2)
