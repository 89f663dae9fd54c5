"""Every metric of the event consumer, declared once. Counted per batch, never per event."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from event_consumer.verdict import CLASSES


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
            "Times that PostgreSQL was waited for, by the class of the SQLSTATE; none: the connection failed.",
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
