"""Puts the events pipeline together."""

from __future__ import annotations

import asyncio
import contextlib
import gc

from event_consumer.app import Deps, create_app
from event_consumer.batch import Batch
from event_consumer.breaker import Breaker
from event_consumer.events.partitions import Maintenance
from event_consumer.events.rows import EventRow, decoder
from event_consumer.events.store import PostgresStore
from event_consumer.gauges import Gauges
from event_consumer.letters.desk import Desk
from event_consumer.letters.relay import Relay
from event_consumer.letters.routes import dead_letter_router
from event_consumer.metrics import Metrics
from event_consumer.progress import Progress
from event_consumer.runner import LANES, Runner
from event_consumer.settings import ConsumerSettings
from event_consumer.tracing import BatchTracer
from event_core.clock import monotonic, utc_now
from event_core.errors import BrokerUnavailable, DeadLetterFlood, LogGap, PlatformError
from event_core.kafka.consumer import KafkaSource
from event_core.kafka.topics import connected, ensure_topics, platform_topics
from event_core.main import Built
from event_core.postgres import PostgresPing, instants_as_integers, open_pool, opened
from event_core.telemetry import Tracing, get_logger

log = get_logger(__name__)

GARBAGE_THRESHOLD = 400_000
"""Containers that may be made before the collector looks for cycles: more than the batches in hand and being written hold, or it
would look through them again and again, for a tenth of the time."""


class EventsPipeline:
    """Opens what the loop needs, waits for Kafka where it is away, and runs the loop. Also the health check of Kafka."""

    name = "kafka"

    def __init__(self, settings: ConsumerSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._source: KafkaSource | None = None
        self._halted: PlatformError | None = None
        self._problem: PlatformError = BrokerUnavailable("the connection to Kafka is being made")
        self._progress = Progress(utc_now)
        metrics.registry.register(self._progress)

    async def ping(self) -> None:
        """Raises where the group has not been joined, or a broker does not answer."""
        if self._source is None:
            raise self._problem
        await self._source.ping()

    def check(self) -> None:
        """Raises PlatformError where nothing is read on, or not everything, until somebody decides."""
        if self._halted is not None:
            raise self._halted
        if gaps := self._progress.gaps:
            partition, gap = next(iter(gaps.items()))
            more = f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else ""
            raise LogGap(f"{partition}{more} is not read on: {gap.explanation}; decide with python -m tools.offsets")

    async def run(self, store: PostgresStore, tracing: Tracing, stop: asyncio.Event) -> None:
        """Runs until ``stop`` is set."""
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
            await self._runner(source, store, tracing).run(stop)
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

    def _runner(self, source: KafkaSource, store: PostgresStore, tracing: Tracing) -> Runner[EventRow]:
        settings = self._settings
        return Runner(
            source,
            decoder(settings.dlq_topic),
            store,
            Batch[EventRow](
                settings.consumer_batch_size, settings.consumer_batch_age_seconds, settings.consumer_batch_bytes
            ),
            Breaker(settings.consumer_breaker_share),
            metrics=self._metrics,
            progress=self._progress,
            tracer=BatchTracer(tracing.tracer, "postgresql"),
            clock=utc_now,
            monotonic=monotonic,
        )

    async def _join(self) -> KafkaSource:
        settings = self._settings
        await ensure_topics(settings, platform_topics(settings))
        return await KafkaSource.open(
            settings,
            [settings.kafka_topic, settings.kafka_product_topic, settings.dlq_topic],
            group=settings.kafka_group_id,
            instance=settings.kafka_group_instance_id,
        )

    def _note(self, problem: str) -> None:
        self._problem = BrokerUnavailable(problem)


class Reading:
    """Whether the pipeline reads on, as a health check."""

    name = "reading"

    def __init__(self, pipeline: EventsPipeline) -> None:
        self._pipeline = pipeline

    async def ping(self) -> None:
        """Raises PlatformError where somebody must decide."""
        self._pipeline.check()


def build(settings: ConsumerSettings) -> Built:
    """The service, ready to be served."""
    metrics = Metrics()
    tracing = Tracing.from_settings(settings)
    pipeline = EventsPipeline(settings, metrics)
    milliseconds = int(settings.database_timeout_seconds * 1000)
    bounds = {
        # A process that hangs within its transaction holds its offsets and ids, which others wait for: the server ends it.
        "idle_in_transaction_session_timeout": str(milliseconds),
        # Beyond what we wait ourselves: a row is not set aside (57014) because the server is slow.
        "statement_timeout": str(2 * milliseconds),
        "lock_timeout": str(milliseconds // 2),  # 55P03: wait
    }
    writers = open_pool(
        settings, size=LANES + 1, application="event_consumer", init=instants_as_integers, server_settings=bounds
    )
    others = open_pool(settings, size=6, application="event_consumer_desk")
    store = PostgresStore(writers, settings, settings.kafka_group_id, retries=settings.consumer_max_retries)
    upkeep, relay = Maintenance(others, settings), Relay(others, settings)
    gauges = Gauges(others, settings.kafka_group_id, metrics.registry, upkeep)
    built = Built(ports=[settings.consumer_port], ports_setting="CONSUMER_PORT", registry=metrics.registry)

    async def run(stop: asyncio.Event) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, tracing.shutdown)
            await stack.enter_async_context(opened(writers))
            await stack.enter_async_context(opened(others))
            try:
                async with asyncio.TaskGroup() as together:  # a fault of one ends them all, and the process with them
                    for beside in (upkeep, relay, gauges):
                        together.create_task(beside.run(stop))
                    together.create_task(pipeline.run(store, tracing, stop))
            except ExceptionGroup as faults:
                raise faults.exceptions[0] from None

    built.app = create_app(
        settings.service_name,
        Deps(
            run,
            [pipeline, Reading(pipeline), PostgresPing(writers)],
            metrics,
            on_failure=built.fail,
            routers=[dead_letter_router(Desk(others, settings), settings.admin_api_key)],
        ),
    )
    return built
