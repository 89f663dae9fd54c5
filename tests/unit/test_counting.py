"""Counters of the hot path: what Prometheus and the JSON metrics get of them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from ingestion_service.failures import Failures
from ingestion_service.tally import Distribution, Tallies, Tally
from ingestion_service.throughput import Throughput


def lines(registry: CollectorRegistry) -> list[str]:
    return sorted(line for line in generate_latest(registry).decode().splitlines() if "_created" not in line)


def test_what_they_export_is_what_the_clients_own_metrics_would() -> None:
    own, theirs = CollectorRegistry(), CollectorRegistry()
    tally, spread = Tally("x_total", "X.", "kind"), Distribution("y_seconds", "Y.", (0.1, 1.0), "kind")
    own.register(Tallies((tally, spread)))
    counter = Counter("x_total", "X.", ["kind"], registry=theirs)
    histogram = Histogram("y_seconds", "Y.", ["kind"], buckets=(0.1, 1.0), registry=theirs)
    for kind, amount in (("a", 0.05), ("a", 0.1), ("b", 0.5), ("b", 7.0)):
        tally.inc(2, kind)
        counter.labels(kind).inc(2)
        spread.observe(amount, kind)
        histogram.labels(kind).observe(amount)
    assert lines(own) == lines(theirs)


def test_without_a_label_they_are_there_before_the_first_count() -> None:
    registry = CollectorRegistry()
    registry.register(Tallies((Tally("x_total", "X."), Distribution("y_seconds", "Y.", (1.0,)))))
    assert registry.get_sample_value("x_total") == 0
    assert registry.get_sample_value("y_seconds_count") == 0


def test_throughput_is_of_the_last_minute_and_percentiles_of_the_last_requests() -> None:
    throughput = Throughput()
    assert (throughput.events_per_second(5.0), throughput.mean_ms(), throughput.percentile_ms(0.99)) == (0, 0, 0)
    for second in range(100):
        throughput.add(1000.5 + second, 20, 0.001 * (second + 1))
    assert throughput.events_per_second(1100.5) == 20.0
    assert throughput.percentile_ms(0.99) == 99.0
    assert throughput.percentile_ms(0.5) == 50.0
    assert round(throughput.mean_ms(), 3) == 50.5
    assert throughput.events_per_second(1300.0) == 0


def test_young_throughput_is_of_the_time_there_was() -> None:
    throughput = Throughput()
    throughput.add(10.0, 100, 0.001)
    assert throughput.events_per_second(10.2) == 100.0
    assert throughput.events_per_second(14.0) == 25.0


def test_failures_are_counted_by_event_and_bounded() -> None:
    failures = Failures(most=10)
    assert [failures.note(raw) for raw in (b"a", b"b", b"a", b"a")] == [0, 0, 1, 2]
    for number in range(1000):
        failures.note(b"%d" % number)
    assert failures.note(b"a") == 0
    assert failures.note(b"999") == 1
