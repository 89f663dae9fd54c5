"""Every metric of the analytics service, declared once."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector


class Metrics:
    """One instance per process and registry, so that tests do not share counters."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.query_seconds = Histogram(
            "analytics_query_seconds",
            "Time of one question in the database, by kind of question.",
            ["query"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0),
            registry=registry,
        )
        self.failures = Counter(
            "analytics_query_failures_total", "Questions not answered, by error code.", ["code"], registry=registry
        )
        self.cache = Counter(
            "analytics_cache_requests_total",
            "Questions, by whether the answer was kept.",
            ["outcome"],
            registry=registry,
        )
        self.cache_bytes = Gauge("analytics_cache_bytes", "Memory that kept answers take, roughly.", registry=registry)
