"""Metrics for the hot path: plain numbers of one event loop, handed to Prometheus when it asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Tally:
    """A counter. ``labels`` names the label whose values are counted apart, from a closed set."""

    def __init__(self, name: str, documentation: str, label: str | None = None) -> None:
        self.name = name
        self.documentation = documentation
        self.label = label
        self.values: dict[str, float] = {} if label else {"": 0}

    def inc(self, by: float = 1, value: str = "") -> None:
        """Counts ``by`` more, of label ``value``."""
        self.values[value] = self.values.get(value, 0) + by

    @property
    def total(self) -> float:
        return sum(self.values.values())

    def metric(self) -> Metric:
        family = CounterMetricFamily(self.name, self.documentation, labels=[self.label] if self.label else [])
        for value, count in self.values.items():
            family.add_metric([value] if self.label else [], count)
        return family


class Distribution:
    """A histogram."""

    def __init__(self, name: str, documentation: str, buckets: Sequence[float], label: str | None = None) -> None:
        self.name = name
        self.documentation = documentation
        self.label = label
        self._bounds = list(buckets)
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        if label is None:
            self._of("")

    def _of(self, value: str) -> list[int]:
        counts = self._counts.get(value)
        if counts is None:
            counts = self._counts[value] = [0] * (len(self._bounds) + 1)
            self._sums[value] = 0.0
        return counts

    def observe(self, amount: float, value: str = "") -> None:
        """Counts one ``amount``, of label ``value``."""
        self._of(value)[bisect_left(self._bounds, amount)] += 1
        self._sums[value] += amount

    def metric(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.documentation, labels=[self.label] if self.label else [])
        for value, counts in self._counts.items():
            running, buckets = 0, []
            for bound, count in zip([*map(str, self._bounds), "+Inf"], counts, strict=True):
                running += count
                buckets.append((bound, running))
            family.add_metric([value] if self.label else [], buckets, self._sums[value])
        return family


class Level:
    """A gauge whose value is asked for."""

    def __init__(self, name: str, documentation: str, ask: Callable[[], float]) -> None:
        self.name = name
        self.documentation = documentation
        self._ask = ask

    def metric(self) -> Metric:
        return GaugeMetricFamily(self.name, self.documentation, value=self._ask())


class Tallies(Collector):
    """Makes them one collector of a registry."""

    def __init__(self, parts: Iterable[Tally | Distribution | Level]) -> None:
        self._parts = tuple(parts)

    def collect(self) -> Iterable[Metric]:
        return [part.metric() for part in self._parts]
