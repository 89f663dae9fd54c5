"""S3's metrics, on a clock that the test sets."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from event_consumer.progress import Progress
from event_consumer.sales.metrics import Durations, Lag, SalesMetrics
from event_consumer.store import Written
from event_core.topics import TopicPartition
from tests.support.sales import batch, encoded

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
P0, P1 = TopicPartition("sales_txn", 0), TopicPartition("sales_txn", 1)


class Measured:
    """Metrics that began at second 100."""

    def __init__(self) -> None:
        self.now = 100.0
        self.metrics = SalesMetrics(lambda: self.now)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def settle(self, sales: int, duplicates: int = 0) -> None:
        written = batch([encoded(event_id=str(n)) for n in range(sales)])
        written.began = self.now - 0.03
        self.metrics.settle(written, Written(sales - duplicates, duplicates, []), 0.01, NOW)


def test_sales_per_second_are_those_of_the_last_minute() -> None:
    measured = Measured()
    measured.now += 10
    measured.settle(300)
    assert measured.value("sales_events_per_second") == pytest.approx(30)
    measured.now += 50
    measured.settle(600)
    assert measured.value("sales_events_per_second") == pytest.approx(15)
    measured.now += 11
    assert measured.value("sales_events_per_second") == pytest.approx(10), "the first 300 are longer ago than a minute"
    measured.now += 60
    assert measured.value("sales_events_per_second") == 0
    assert measured.value("service_uptime_seconds") == 131


def test_every_message_of_a_batch_is_counted_once() -> None:
    measured = Measured()
    measured.settle(7, duplicates=2)
    measured.settle(3)
    assert measured.value("sales_events_processed_total", status="stored") == 8
    assert measured.value("sales_events_processed_total", status="duplicate") == 2
    assert measured.value("sales_events_processed_total", status="dead_letter") == 0
    assert measured.value("event_processing_duration_seconds_count") == 10
    assert measured.value("event_processing_duration_seconds_sum") == pytest.approx(0.3)
    assert measured.value("event_processing_duration_seconds_bucket", le="0.025") == 0
    assert measured.value("event_processing_duration_seconds_bucket", le="0.05") == 10


def test_every_status_is_there_before_anything_happened() -> None:
    measured = Measured()
    for status in ("stored", "duplicate", "dead_letter"):
        assert measured.value("sales_events_processed_total", status=status) == 0
    for status in ("success", "partial", "error"):
        assert measured.value("mongodb_writes_total", status=status) == 0


@given(st.lists(st.tuples(st.floats(0, 1_000), st.integers(1, 1_000))))
def test_the_histogram_counts_as_if_each_message_were_observed(batches: list[tuple[float, int]]) -> None:
    durations = Durations()
    for seconds, times in batches:
        durations.observe(seconds, times)
    [family] = durations.collect()
    buckets = {float(s.labels["le"]): s.value for s in family.samples if s.name.endswith("_bucket")}
    for bound, count in buckets.items():
        assert count == sum(times for seconds, times in batches if seconds <= bound)
    assert buckets[math.inf] == sum(times for _, times in batches)


def test_lag_is_the_age_of_the_oldest_record_that_is_not_stored() -> None:
    now = NOW
    progress = Progress(lambda: now)
    registry = CollectorRegistry()
    registry.register(Lag(progress))

    def lag() -> float:
        return registry.get_sample_value("kafka_consumer_lag_milliseconds") or 0.0

    def ms(seconds_ago: float) -> int:
        return int((NOW - timedelta(seconds=seconds_ago)).timestamp() * 1000)

    assert math.isnan(lag()), "it is not known yet where to read on"
    progress.take({P0: 0, P1: 0}, {P0: 0, P1: 0})
    assert lag() == 0
    progress.hear({P0: 20, P1: 5})
    progress.read(P0, 0, ms(90))
    progress.read(P0, 10, ms(80))
    progress.read(P1, 0, ms(7))
    assert lag() == 90_000
    now += timedelta(seconds=1)
    assert lag() == 91_000
    progress.store(P0, 10, ms(81))
    assert lag() == 81_000
    progress.store(P0, 20, ms(71))
    assert lag() == 8_000
    progress.store(P1, 5, ms(3))
    assert lag() == 0
