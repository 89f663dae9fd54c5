"""Puts the sales pipeline together."""

from __future__ import annotations

import asyncio
import contextlib

from event_consumer import __version__
from event_consumer.app import Deps, create_app
from event_consumer.batch import Batch
from event_consumer.breaker import Breaker
from event_consumer.pipeline import Pipeline, Reading, Work
from event_consumer.sales.api import Desk, sales_routers
from event_consumer.sales.collection import MongoCollection
from event_consumer.sales.letters import LetterTopic
from event_consumer.sales.metrics import Lag, SalesMetrics
from event_consumer.sales.rows import SaleRow, decoder
from event_consumer.sales.settings import SalesSettings
from event_consumer.sales.store import SalesStore
from event_core.clock import monotonic, utc_now
from event_core.health import Health, Ping
from event_core.kafka.topics import letters_topic
from event_core.main import Built
from event_core.telemetry import Tracing
from event_core.topics import TopicSpec


def work(settings: SalesSettings) -> Work[SaleRow]:
    """The sales of one topic."""
    replicas = settings.kafka_replication_factor
    return Work(
        topics=[settings.sales_topic],
        needed=[
            TopicSpec(settings.sales_topic, settings.sales_topic_partitions, replicas),
            letters_topic(settings.dlq_topic, replicas),
        ],
        group=settings.kafka_group_id,
        instance=settings.kafka_group_instance_id,
        decode=decoder(utc_now),
        batch=Batch(settings.batch_size, settings.flush_interval, settings.consumer_batch_bytes),
        breaker_share=settings.consumer_breaker_share,
        destination="mongodb",
        decide=f"end the service and set the offsets of group {settings.kafka_group_id}: event_consumer/sales/README.md, Gaps",
    )


def build(settings: SalesSettings) -> Built:
    """The service, ready to be served."""
    metrics = SalesMetrics(monotonic)
    tracing = Tracing.from_settings(settings)
    pipeline = Pipeline(settings, work(settings), metrics)
    metrics.registry.register(Lag(pipeline.progress))
    collection = MongoCollection(settings, metrics.writes)
    letters = LetterTopic(settings, settings.dlq_topic, utc_now)
    built = Built(ports=[settings.sales_port], ports_setting="SALES_PORT", registry=metrics.registry)
    pings: list[Ping] = [pipeline, Reading(pipeline.check), collection]

    async def run(stop: asyncio.Event) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, tracing.shutdown)
            stack.push_async_callback(collection.close)
            stack.push_async_callback(letters.close)
            await pipeline.run(
                lambda source: SalesStore(
                    collection,
                    letters,
                    source,
                    Breaker(settings.consumer_breaker_share),
                    retries=settings.max_retries,
                ),
                tracing,
                stop,
            )

    desk = Desk(settings, metrics, pipeline.progress, Health(settings.service_name, __version__, pings), collection)
    built.app = create_app(
        settings.service_name,
        Deps(
            run,
            pings,
            metrics,
            on_failure=built.fail,
            routers=sales_routers(desk, settings.admin_api_key, built.stop.set),
            title="Sales ingest service",
            summary="Sales from Kafka into MongoDB, each once.",
        ),
    )
    return built
