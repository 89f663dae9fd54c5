"""Every metric of the ingestion service, declared once. Labels come from closed sets, never from what a client sends."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One instance per process and registry, so that tests do not share counters."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = Counter(
            "ingestion_requests_total", "Requests to POST /events by HTTP status.", ["status"], registry=registry
        )
        self.seconds = Histogram(
            "ingestion_request_seconds",
            "From a request's first byte to its reply, by HTTP status.",
            ["status"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.accepted = Counter(
            "ingestion_events_accepted_total", "Events acknowledged to a client: durable in Kafka.", registry=registry
        )
        self.rejected = Counter(
            "ingestion_events_rejected_total", "Events refused with a 4xx, by reason.", ["reason"], registry=registry
        )
        self.unavailable = Counter(
            "ingestion_events_unavailable_total", "Events answered with 503, by reason.", ["reason"], registry=registry
        )
        self.batch_records = Histogram(
            "ingestion_kafka_batch_records",
            "Events per acknowledged batch.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "ingestion_kafka_batch_seconds",
            "From sending a batch to Kafka's acknowledgement.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.pending_bytes = Gauge(
            "ingestion_kafka_pending_bytes", "Bytes that wait for Kafka's acknowledgement.", registry=registry
        )
        self.connected = Gauge(
            "ingestion_kafka_connected", "1 while a producer is connected, else 0.", registry=registry
        )
        self.reconnects = Counter(
            "ingestion_kafka_producers_abandoned_total",
            "Producers thrown away after a failed or overdue batch.",
            registry=registry,
        )
