"""Puts the events pipeline together."""

from __future__ import annotations

import asyncio
import contextlib

from event_consumer.app import Deps, create_app
from event_consumer.batch import Batch
from event_consumer.events.partitions import Maintenance
from event_consumer.events.rows import EventRow, decoder
from event_consumer.events.store import PostgresStore
from event_consumer.freshness import Freshness, noted_by
from event_consumer.gauges import Gauges
from event_consumer.letters.desk import Desk
from event_consumer.letters.relay import Relay
from event_consumer.letters.routes import dead_letter_router
from event_consumer.metrics import Metrics
from event_consumer.pipeline import Pipeline, Reading, Work
from event_consumer.runner import LANES
from event_consumer.settings import ConsumerSettings
from event_core.kafka.topics import platform_topics
from event_core.main import Built
from event_core.postgres import PostgresPing, instants_as_integers, open_pool, opened
from event_core.source import Source
from event_core.telemetry import Tracing


def work(settings: ConsumerSettings) -> Work[EventRow]:
    """Events of both forms, and the dead letters that others put on their topic."""
    return Work(
        topics=[settings.kafka_topic, settings.kafka_product_topic, settings.dlq_topic],
        needed=platform_topics(settings),
        group=settings.kafka_group_id,
        instance=settings.kafka_group_instance_id,
        decode=decoder(settings.dlq_topic),
        batch=Batch(settings.consumer_batch_size, settings.consumer_batch_age_seconds, settings.consumer_batch_bytes),
        breaker_share=settings.consumer_breaker_share,
        destination="postgresql",
        decide="decide with python -m tools.offsets",
    )


def build(settings: ConsumerSettings) -> Built:
    """The service, ready to be served."""
    metrics = Metrics()
    tracing = Tracing.from_settings(settings)
    pipeline = Pipeline(settings, work(settings), metrics)
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
    # A connection of its own, and no wait for the disk: the offsets' locks are held for a moment only, once a second, and what a
    # crash of the server takes from a watermark is noted again.
    lightly = {**bounds, "synchronous_commit": "off"}
    noting = open_pool(settings, size=1, application="event_consumer_freshness", server_settings=lightly)
    store = PostgresStore(writers, settings, settings.kafka_group_id, retries=settings.consumer_max_retries)
    upkeep, relay = Maintenance(others, settings), Relay(others, settings)
    gauges = Gauges(others, settings.kafka_group_id, metrics.registry, upkeep)
    freshness = Freshness(pipeline.progress, noted_by(noting, settings.kafka_group_id))
    built = Built(ports=[settings.consumer_port], ports_setting="CONSUMER_PORT", registry=metrics.registry)

    def joined(source: Source) -> PostgresStore:
        freshness.ask_of(source.logs)
        return store

    async def run(stop: asyncio.Event) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, tracing.shutdown)
            await stack.enter_async_context(opened(writers))
            await stack.enter_async_context(opened(others))
            await stack.enter_async_context(opened(noting))
            try:
                async with asyncio.TaskGroup() as together:  # a fault of one ends them all, and the process with them
                    for beside in (upkeep, relay, gauges, freshness):
                        together.create_task(beside.run(stop))
                    together.create_task(pipeline.run(joined, tracing, stop))
            except ExceptionGroup as faults:
                raise faults.exceptions[0] from None

    built.app = create_app(
        settings.service_name,
        Deps(
            run,
            [pipeline, Reading(pipeline.check), PostgresPing(writers)],
            metrics,
            on_failure=built.fail,
            routers=[dead_letter_router(Desk(others, settings), settings.admin_api_key)],
        ),
    )
    return built
