"""How far reading is behind, as of the moment somebody asks: a gauge that is set after each write stands still in an outage."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from math import nan

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from event_consumer.gaps import Gap, GapKind
from event_core.clock import Clock
from event_core.topics import TopicPartition


class Progress(Collector):
    """What is stored and what the log holds, of every partition that is ours now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stored: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._times: dict[TopicPartition, float] = {}
        self._gaps: dict[TopicPartition, Gap] = {}
        self._known: set[TopicPartition] = set()
        self._behind_since: dict[TopicPartition, float] = {}
        """When the first record came that waits, where nothing waited before it; of what waited at the start it is not known."""
        self._read: dict[TopicPartition, deque[tuple[int, float]]] = {}
        """(offset, time) of the first of each bunch of records that was read and is not stored yet."""

    @property
    def stored(self) -> Mapping[TopicPartition, int]:
        """The offset before which everything is stored, of every partition that is ours."""
        return self._stored

    @property
    def known(self) -> Mapping[TopicPartition, int]:
        """``stored`` of those partitions whose log is known to be the one that was read."""
        return {partition: self._stored[partition] for partition in self._known}

    @property
    def gaps(self) -> Mapping[TopicPartition, Gap]:
        """Partitions that are not read on."""
        return self._gaps

    def take(self, stored: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        """A new assignment: everything known of others is forgotten."""
        self._stored, self._ends = dict(stored), dict(ends)
        self._times = {partition: at for partition, at in self._times.items() if partition in stored}
        self._gaps = {partition: gap for partition, gap in self._gaps.items() if partition in stored}
        self._known, self._behind_since, self._read = set(), {}, {}

    def stuck(self, partition: TopicPartition, gap: Gap, unread_from: int) -> None:
        """``partition`` is not read on; what its log holds from ``unread_from`` on was never read."""
        self._gaps[partition] = gap
        self._known.discard(partition)
        self._stored[partition] = unread_from

    def unstuck(self, partition: TopicPartition) -> None:
        """``partition``, which is ours, is read on: its log is the one that was read."""
        self._gaps.pop(partition, None)
        self._known.add(partition)

    def hear(self, ends: Mapping[TopicPartition, int]) -> None:
        """The logs' ends, as last heard."""
        for partition, end in ends.items():
            if partition not in self._stored:
                continue
            if self._ends.get(partition, 0) <= self._stored[partition] < end:
                self._behind_since[partition] = self._clock().timestamp()
            self._ends[partition] = end

    def read(self, partition: TopicPartition, offset: int, record_ms: int) -> None:
        """Records from ``offset`` on, the first of ``record_ms`` (since 1970; negative: unknown), are in hand."""
        if record_ms >= 0:
            self._read.setdefault(partition, deque()).append((offset, record_ms / 1000))

    def store(self, partition: TopicPartition, offset: int, record_ms: int) -> None:
        """Everything before ``offset`` is stored; the record before it is of ``record_ms`` (since 1970; negative: unknown)."""
        self._stored[partition] = offset
        waiting = self._read.get(partition, ())
        while waiting and waiting[0][0] < offset:
            waiting.popleft()
        if record_ms >= 0:
            self._times[partition] = record_ms / 1000

    def lag(self, partition: TopicPartition) -> tuple[int, float]:
        """(records, seconds) behind. 0 seconds where nothing waits; else the age of the oldest waiting record by its own time.
        Where that is not read yet: since it came, or since the last stored one where that is later or all that is known, which is
        the most that it can be old; NaN where neither is known."""
        records = max(0, self._ends.get(partition, 0) - self._stored[partition])
        if waiting := self._read.get(partition):
            return max(1, records), max(0.0, self._clock().timestamp() - waiting[0][1])
        known = (self._times.get(partition), self._behind_since.get(partition))
        since = max((at for at in known if at is not None), default=None)
        if not records:
            return 0, 0.0
        return records, nan if since is None else max(0.0, self._clock().timestamp() - since)

    def lags(self) -> dict[TopicPartition, tuple[int, float]]:
        """``lag`` of every partition that is ours."""
        return {partition: self.lag(partition) for partition in self._stored}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        labels = ["topic", "partition"]
        records = GaugeMetricFamily(
            "consumer_lag_records", "Records of the topic not stored yet, by partition.", labels=labels
        )
        seconds = GaugeMetricFamily(
            "consumer_lag_seconds",
            "Age of the oldest record not stored yet (not read yet: the most that it can be; NaN: unknown); 0 where none waits.",
            labels=labels,
        )
        stuck = GaugeMetricFamily(
            "consumer_gap",
            "1 for a partition that is not read on because its log is not the one that was read, or lost unread records.",
            labels=[*labels, "kind"],
        )
        for partition in sorted(self._stored):
            names = [partition.topic, str(partition.partition)]
            behind, age = self.lag(partition)
            records.add_metric(names, behind)
            seconds.add_metric(names, age)
            gap = self._gaps.get(partition)
            for kind in GapKind:
                stuck.add_metric([*names, kind.value], float(gap is not None and gap.kind is kind))
        yield from (records, seconds, stuck)
