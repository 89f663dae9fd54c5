"""What every pipeline does around the loop: it waits for Kafka, joins its group, runs, and tells how it is."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from event_consumer.batch import Batch, Item
from event_consumer.breaker import Breaker
from event_consumer.dead_letter import DeadLetter
from event_consumer.metrics import Metrics
from event_consumer.progress import Progress
from event_consumer.runner import Runner
from event_consumer.store import Store
from event_consumer.tracing import BatchTracer
from event_core.clock import monotonic, utc_now
from event_core.errors import BrokerUnavailable, DeadLetterFlood, LogGap, PlatformError
from event_core.kafka.consumer import KafkaSource
from event_core.kafka.topics import connected, ensure_topics
from event_core.settings import BrokerSettings
from event_core.source import Message, Source
from event_core.telemetry import Tracing, get_logger
from event_core.topics import TopicSpec

log = get_logger(__name__)

Row = TypeVar("Row")

GARBAGE_THRESHOLD = 400_000
"""Containers that may be made before the collector looks for cycles: more than the batches in hand and being written hold, or it
would look through them again and again, for a tenth of the time."""


@dataclass(frozen=True)
class Work(Generic[Row]):
    """What a pipeline reads, and what becomes of it."""

    topics: Sequence[str]
    """Those that are read."""
    needed: Sequence[TopicSpec]
    """Those that are made where they are missing."""
    group: str
    instance: str | None
    """The member's own name, or None."""
    decode: Callable[[Sequence[Message]], tuple[list[Item[Row]], list[DeadLetter]]]
    batch: Batch[Row]
    """An empty one, with the limits of all."""
    breaker_share: float
    destination: str
    """The store's name in traces."""
    decide: str
    """How an operator decides where to read on once a log is not the one that was read."""


class Pipeline(Generic[Row]):
    """Opens what the loop needs, waits for Kafka where it is away, and runs the loop. Also the health check of Kafka."""

    name = "kafka"

    def __init__(self, settings: BrokerSettings, work: Work[Row], metrics: Metrics) -> None:
        self._settings = settings
        self._work = work
        self._metrics = metrics
        self._source: KafkaSource | None = None
        self._halted: PlatformError | None = None
        self._problem: PlatformError = BrokerUnavailable("the connection to Kafka is being made")
        self.progress = Progress(utc_now)
        metrics.registry.register(self.progress)

    async def ping(self) -> None:
        """Raises where the group has not been joined, or a broker does not answer."""
        if self._source is None:
            raise self._problem
        await self._source.ping()

    def check(self) -> None:
        """Raises PlatformError where nothing is read on, or not everything, until somebody decides."""
        if self._halted is not None:
            raise self._halted
        if gaps := self.progress.gaps:
            partition, gap = next(iter(gaps.items()))
            more = f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else ""
            raise LogGap(f"{partition}{more} is not read on: {gap.explanation}; {self._work.decide}")

    async def run(self, store: Callable[[Source], Store[Row]], tracing: Tracing, stop: asyncio.Event) -> None:
        """Runs until ``stop`` is set. ``store`` makes the store, which may keep its offsets where the messages come from."""
        joining = asyncio.create_task(connected(self._join, self._note))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({joining, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not joining.done():
                joining.cancel()
                await asyncio.wait({joining})
        if joining.cancelled():
            return
        self._source = source = joining.result()
        gc.set_threshold(GARBAGE_THRESHOLD, *gc.get_threshold()[1:])
        try:
            await self._runner(source, store(source), tracing).run(stop)
        except DeadLetterFlood as error:
            self._problem = self._halted = DeadLetterFlood(
                f"nothing more is read: {error.message}. Mend the cause and restart the consumer; where the messages really are"
                " bad, restart it with CONSUMER_BREAKER_SHARE=1, which sets them aside"
            )
            log.error(self._halted.message)
            self._metrics.halted.set(1)
        finally:
            self._source = None
            await source.stop()
        await stop.wait()  # alive, so that its metric and its health tell

    def _runner(self, source: KafkaSource, store: Store[Row], tracing: Tracing) -> Runner[Row]:
        return Runner(
            source,
            self._work.decode,
            store,
            self._work.batch,
            Breaker(self._work.breaker_share),
            metrics=self._metrics,
            progress=self.progress,
            tracer=BatchTracer(tracing.tracer, self._work.destination),
            clock=utc_now,
            monotonic=monotonic,
        )

    async def _join(self) -> KafkaSource:
        work = self._work
        await ensure_topics(self._settings, work.needed)
        return await KafkaSource.open(self._settings, work.topics, group=work.group, instance=work.instance)

    def _note(self, problem: str) -> None:
        self._problem = BrokerUnavailable(problem)


class Reading:
    """Whether the pipeline reads on, as a health check."""

    name = "reading"

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    async def ping(self) -> None:
        """Raises PlatformError where somebody must decide."""
        self._check()
