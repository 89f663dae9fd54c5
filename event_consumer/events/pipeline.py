"""Puts the events pipeline together."""

from __future__ import annotations

import asyncio
import contextlib

from event_consumer.app import Deps, create_app
from event_consumer.batch import Batch
from event_consumer.events.rows import EventRow, to_row
from event_consumer.events.store import PostgresStore
from event_consumer.metrics import Metrics
from event_consumer.runner import Runner
from event_consumer.settings import ConsumerSettings
from event_consumer.tracing import BatchTracer
from event_core.clock import monotonic, utc_now
from event_core.errors import BrokerUnavailable
from event_core.kafka.consumer import KafkaSource
from event_core.kafka.topics import connected, ensure_topics, platform_topics
from event_core.main import Built
from event_core.postgres import PostgresPing, open_pool, opened
from event_core.telemetry import Tracing


class EventsPipeline:
    """Opens what the loop needs, waits for Kafka where it is away, and runs the loop. Also the health check of Kafka."""

    name = "kafka"

    def __init__(self, settings: ConsumerSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._source: KafkaSource | None = None
        self._problem = "the connection to Kafka is being made"

    async def ping(self) -> None:
        """Raises BrokerUnavailable where the group has not been joined or a broker does not answer."""
        if self._source is None:
            raise BrokerUnavailable(self._problem)
        await self._source.ping()

    async def run(self, store: PostgresStore, tracing: Tracing, stop: asyncio.Event) -> None:
        """Runs until ``stop`` is set."""
        settings = self._settings
        joining = asyncio.create_task(connected(self._join, self._note))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({joining, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not joining.done():
            joining.cancel()
            await asyncio.wait({joining})
            return
        self._source = source = joining.result()
        runner = Runner(
            source,
            to_row,
            store,
            Batch[EventRow](
                settings.consumer_batch_size, settings.consumer_batch_age_seconds, settings.consumer_batch_bytes
            ),
            metrics=self._metrics,
            tracer=BatchTracer(tracing.tracer, "postgresql"),
            clock=utc_now,
            monotonic=monotonic,
        )
        try:
            await runner.run(stop)
        finally:
            self._source = None
            await source.stop()

    async def _join(self) -> KafkaSource:
        settings = self._settings
        await ensure_topics(settings, platform_topics(settings))
        return await KafkaSource.open(
            settings,
            [settings.kafka_topic, settings.kafka_product_topic],
            group=settings.kafka_group_id,
            instance=settings.kafka_group_instance_id,
        )

    def _note(self, problem: str) -> None:
        self._problem = problem


def build(settings: ConsumerSettings) -> Built:
    """The service, ready to be served."""
    metrics = Metrics()
    tracing = Tracing.from_settings(settings)
    pipeline = EventsPipeline(settings, metrics)
    pool = open_pool(settings, size=4, application="event_consumer")
    store = PostgresStore(pool, settings, settings.kafka_group_id)
    built = Built(ports=[settings.consumer_port], ports_setting="CONSUMER_PORT", registry=metrics.registry)

    async def run(stop: asyncio.Event) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, tracing.shutdown)
            await stack.enter_async_context(opened(pool))
            await pipeline.run(store, tracing, stop)

    built.app = create_app(
        settings.service_name, Deps(run, [pipeline, PostgresPing(pool)], metrics, on_failure=built.fail)
    )
    return built
