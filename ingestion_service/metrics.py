"""Every metric of the ingestion service, declared once. Labels come from closed sets, never from what a client sends."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from ingestion_service.publisher import PublisherStatus
from ingestion_service.tally import Distribution, Level, Tallies, Tally
from ingestion_service.throughput import Throughput

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZE_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class Metrics:
    """One instance per process and registry, so that tests do not share counters."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.throughput = Throughput()
        self.requests = Tally("ingestion_requests_total", "Requests that carry events, by HTTP status.", "status")
        self.seconds = Distribution(
            "ingestion_request_seconds",
            "From a request's first byte to its reply, by HTTP status.",
            LATENCY_BUCKETS,
            "status",
        )
        self.accepted = Tally(
            "ingestion_events_accepted_total", "Events acknowledged to a client, by where they were durable.", "stored"
        )
        self.duplicates = Tally(
            "ingestion_events_duplicate_total", "Events acknowledged because they were stored before."
        )
        self.rejected = Tally("ingestion_events_rejected_total", "Events refused with a 4xx, by reason.", "reason")
        self.unavailable = Tally("ingestion_events_unavailable_total", "Events answered with 503, by reason.", "reason")
        self.corrected = Tally("ingestion_events_clock_corrected_total", "Events whose time sent_at corrected.")
        self.produced = Tally("ingestion_kafka_records_total", "Records that Kafka acknowledged, from disk or not.")
        self.batch_records = Distribution(
            "ingestion_kafka_batch_records", "Events per acknowledged batch.", SIZE_BUCKETS
        )
        self.batch_seconds = Distribution(
            "ingestion_kafka_batch_seconds", "From sending a batch to Kafka's acknowledgement.", LATENCY_BUCKETS
        )
        self.spooled = Tally("ingestion_spool_records_total", "Records made durable on disk.")
        self.direct = Tally(
            "ingestion_kafka_direct_total", "Events that Kafka acknowledged and that were not on disk; no dead letters."
        )
        self.spooled_events = Tally("ingestion_spool_events_total", "Events made durable on disk; no dead letters.")
        self.unheard = Tally(
            "ingestion_events_unheard_total",
            "Events made durable whose client did not hear of it: gone before its reply, or part of a batch that failed.",
            "why",
        )
        self.drained = Tally("ingestion_spool_drained_total", "Records on disk that Kafka has acknowledged since.")
        self.commit_records = Distribution("ingestion_spool_commit_records", "Records per group commit.", SIZE_BUCKETS)
        self.commit_seconds = Distribution(
            "ingestion_spool_commit_seconds", "How long a group commit takes.", LATENCY_BUCKETS
        )
        registry.register(
            Tallies(
                (
                    self.requests,
                    self.seconds,
                    self.accepted,
                    self.duplicates,
                    self.rejected,
                    self.unavailable,
                    self.corrected,
                    self.produced,
                    self.batch_records,
                    self.batch_seconds,
                    self.spooled,
                    self.direct,
                    self.spooled_events,
                    self.unheard,
                    Level(
                        "ingestion_unaccounted_records",
                        "Must be 0: events acknowledged, less those that Kafka acknowledged and those made durable on disk. "
                        "Below 0 for a moment while replies are on their way; never above.",
                        lambda: self.unaccounted,
                    ),
                    self.drained,
                    self.commit_records,
                    self.commit_seconds,
                )
            )
        )
        self.dead_letters = Counter(
            "ingestion_dead_letters_total", "Events sent to the dead letters' topic.", registry=registry
        )
        self.quarantined = Counter("ingestion_quarantined_total", "Events kept in quarantine.", registry=registry)
        self.abandoned = Counter(
            "ingestion_kafka_producers_abandoned_total",
            "Producers thrown away after a failed or overdue batch.",
            registry=registry,
        )
        self.connected = Gauge(
            "ingestion_kafka_connected", "1 while a producer is connected, else 0.", registry=registry
        )
        self.pending_bytes = Gauge(
            "ingestion_pending_bytes", "Bytes that wait for Kafka's or the disk's acknowledgement.", registry=registry
        )
        self.spooling = Gauge(
            "ingestion_spooling", "1 while some new events go to disk first, else 0.", registry=registry
        )
        self.buffered = Gauge(
            "ingestion_spool_waiting_records", "Records on disk that wait for Kafka.", registry=registry
        )
        self.buffer_bytes = Gauge("ingestion_spool_bytes", "Disk space of the buffer.", registry=registry)
        self.buffer_limit = Gauge("ingestion_spool_max_bytes", "MAX_BUFFER_SIZE_MB in bytes.", registry=registry)
        self.damaged_files = Gauge(
            "ingestion_spool_damaged_files", "Damaged files of the buffer that were set aside.", registry=registry
        )
        self.damaged_records = Gauge(
            "ingestion_spool_damaged_records", "Records known to be lost in damaged files.", registry=registry
        )

    @property
    def unaccounted(self) -> float:
        """What the door counted when it answered, less what the broker's and the disk's acknowledgements counted."""
        return self.accepted.total + self.unheard.total - self.direct.total - self.spooled_events.total

    def observe(self, status: PublisherStatus, pending_bytes: int) -> None:
        """Takes over what the publisher knows; called about once a second."""
        self.pending_bytes.set(pending_bytes)
        self.spooling.set(status.spooling)
        self.buffered.set(status.buffered_events)
        self.buffer_bytes.set(status.buffer_bytes)
        self.buffer_limit.set(status.buffer_max_bytes)
        self.damaged_files.set(status.damaged_files)
        self.damaged_records.set(status.damaged_records)
