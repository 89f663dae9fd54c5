"""What every pipeline counts, declared once. Counted per batch, never per event."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from event_consumer.batch import Batch
from event_consumer.store import Written
from event_consumer.verdict import CLASSES, sqlstate_class
from event_core.errors import DatabaseUnavailable, Unavailable
from event_core.telemetry import get_logger

log = get_logger(__name__)


class Metrics:
    """One instance per process and registry, so that tests do not share counters."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.stored = Counter("consumer_events_stored_total", "Events stored as new rows.", registry=registry)
        self.duplicates = Counter(
            "consumer_events_duplicate_total", "Events whose event_id was stored already.", registry=registry
        )
        self.dead_letters = Counter(
            "consumer_dead_letters_total", "Messages set aside, by reason.", ["reason"], registry=registry
        )
        self.batch_records = Histogram(
            "consumer_batch_records",
            "Messages per written batch.",
            buckets=(1, 5, 10, 50, 100, 500, 1000, 2000, 5000, 10000),
            registry=registry,
        )
        self.write_seconds = Histogram(
            "consumer_write_seconds",
            "From a batch's write to its commit.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        self.age_seconds = Histogram(
            "consumer_event_age_seconds",
            "Age of a batch's oldest new event at its commit, from when the ingestion service had it.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600),
            registry=registry,
        )
        self.record_age_seconds = Histogram(
            "consumer_record_age_seconds",
            "Age of a batch's oldest record at its commit, from its time in Kafka.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600),
            registry=registry,
        )
        self.waits = Counter(
            "consumer_database_waits_total",
            "Times that the store was waited for, by the class of the SQLSTATE; none: the connection failed, or it is not SQL.",
            ["sqlstate_class"],
            registry=registry,
        )
        for name in CLASSES:
            self.waits.labels(name)
        self.fences = Counter(
            "consumer_fence_lost_total",
            "Batches dropped because another consumer had moved the offset.",
            registry=registry,
        )
        self.halted = Gauge(
            "consumer_halted",
            "1 while nothing is read because so many messages are bad that the fault must be ours.",
            registry=registry,
        )

    def wait(self, error: Unavailable) -> None:
        """Counts that the store is waited for because of ``error``."""
        self.waits.labels(sqlstate_class(error.sqlstate if isinstance(error, DatabaseUnavailable) else None)).inc()

    def settle(self, batch: Batch[Any], written: Written, seconds: float, now: datetime) -> None:
        """Counts a batch whose write took ``seconds``, as of ``now``."""
        self.stored.inc(written.stored)
        self.duplicates.inc(written.duplicates)
        for letter in written.dead:
            # What comes from the dead letters' topic has its reason from whoever wrote it there: no closed set.
            self.dead_letters.labels("on_topic" if letter.on_topic else letter.reason).inc()
            (log.debug if letter.on_topic else log.warning)(
                "a message was set aside",
                topic=letter.topic,
                partition=letter.partition,
                offset=letter.offset,
                reason=letter.reason,
                problem=letter.error,
            )
        self.batch_records.observe(len(batch))
        self.write_seconds.observe(seconds)
        if written.oldest is not None:
            self.age_seconds.observe(max(0.0, (now - written.oldest).total_seconds()))
        if batch.oldest_ms is not None:
            self.record_age_seconds.observe(max(0.0, now.timestamp() - batch.oldest_ms / 1000))
