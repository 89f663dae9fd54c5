"""The sales pipeline's own metrics, with the names of the Sales Ingest Service, beside those that every pipeline has."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterator
from datetime import datetime
from itertools import accumulate
from math import inf, isnan, nan
from typing import Any, Final

from prometheus_client import Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from event_consumer.batch import Batch
from event_consumer.metrics import Metrics
from event_consumer.progress import Progress
from event_consumer.store import Written
from event_core.clock import Monotonic

WINDOW_SECONDS: Final = 60
"""What ``sales_events_per_second`` looks back on."""
STATUSES: Final = ("stored", "duplicate", "dead_letter")
WRITES: Final = ("success", "partial", "error")


class SalesMetrics(Metrics):
    """Counts what is settled: stored or set aside, with the offset behind it."""

    def __init__(self, monotonic: Monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._began = monotonic()
        self._settled: Tally[int] = Tally()  # by second
        self.processed = Counter(
            "sales_events_processed_total",
            "Sales settled, by what became of them: stored, duplicate of a stored one, dead letter.",
            ["status"],
            registry=self.registry,
        )
        self.writes = Counter(
            "mongodb_writes_total",
            "Bulk writes to MongoDB: success, partial (it refused some documents, duplicates among them), error.",
            ["status"],
            registry=self.registry,
        )
        self.durations = Durations()
        self.registry.register(self.durations)
        Gauge("service_uptime_seconds", "Seconds since the service began.", registry=self.registry).set_function(
            lambda: self.uptime
        )
        Gauge(
            "sales_events_per_second",
            f"Sales settled per second over the last {WINDOW_SECONDS} s, or since the start where that is later.",
            registry=self.registry,
        ).set_function(lambda: self.per_second)
        for status in STATUSES:
            self.processed.labels(status)
        for status in WRITES:
            self.writes.labels(status)

    @property
    def uptime(self) -> float:
        """Seconds."""
        return self._monotonic() - self._began

    @property
    def per_second(self) -> float:
        """Sales settled per second over the window."""
        now = self._monotonic()
        self._forget(now)
        return self._settled.total() / max(1.0, min(WINDOW_SECONDS, now - self._began))

    def settle(self, batch: Batch[Any], written: Written, seconds: float, now: datetime) -> None:
        super().settle(batch, written, seconds, now)
        moment = self._monotonic()
        self.processed.labels("stored").inc(written.stored)
        self.processed.labels("duplicate").inc(written.duplicates)
        self.processed.labels("dead_letter").inc(len(written.dead))
        self.durations.observe(moment - batch.began, len(batch))
        self._forget(moment)
        self._settled[int(moment)] += len(batch)

    def _forget(self, now: float) -> None:
        for second in [second for second in self._settled if second <= now - WINDOW_SECONDS]:
            del self._settled[second]


class Durations(Collector):
    """``event_processing_duration_seconds``: a histogram that takes a whole batch at once."""

    BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, inf)

    def __init__(self) -> None:
        self._counts = [0] * len(self.BOUNDS)
        self._sum = 0.0

    def observe(self, seconds: float, times: int) -> None:
        """Counts ``seconds``, ``times`` over."""
        self._counts[bisect_left(self.BOUNDS, seconds)] += times
        self._sum += seconds * times

    def collect(self) -> Iterator[HistogramMetricFamily]:
        buckets = [
            ("+Inf" if bound == inf else str(bound), float(count))
            for bound, count in zip(self.BOUNDS, accumulate(self._counts), strict=True)
        ]
        yield HistogramMetricFamily(
            "event_processing_duration_seconds",
            "From a batch's first message to its storage, once for each message of the batch.",
            buckets=buckets,
            sum_value=self._sum,
        )


class Lag(Collector):
    """``kafka_consumer_lag_milliseconds``."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @property
    def milliseconds(self) -> float:
        """Of the partition that is most behind. NaN where none is ours, or of one it is not known."""
        ages = [seconds * 1000 for _, seconds in self._progress.lags().values()]
        return nan if any(map(isnan, ages)) else max(ages, default=nan)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "kafka_consumer_lag_milliseconds",
            "Age of the oldest record that is not stored yet, by its own time, of all partitions of this process; 0 where none"
            " waits, NaN while it is not known.",
            value=self.milliseconds,
        )
