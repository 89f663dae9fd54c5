"""Records on their way to the same partition or few, and whether new ones go straight to Kafka. Pure but for the futures."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

from event_core.codec import Record
from event_core.topics import partition_for
from ingestion_service.delivery import Delivery
from ingestion_service.spool.lane import LANES, Lane

BATCH_BYTES = 512 * 1024
"""A batch that holds as many bytes of values takes no more."""
LONGEST_BACKOFF_SECONDS = 5.0
MOST_GUILTY = 1_000


class Batch:
    """Records that share one acknowledgement."""

    __slots__ = ("bytes", "delivery", "made", "records")

    def __init__(self, made: float) -> None:
        """``made`` in seconds of a monotonic clock."""
        self.records: list[Record] = []
        self.bytes = 0
        self.delivery = Delivery()
        self.made = made


def groups_of(partitions: int) -> int:
    """How many groups a topic of ``partitions`` partitions has. Records of one partition, and records of one lane of the disk,
    are in one group: a key's hash modulo this number follows from its partition and from its lane."""
    return math.gcd(partitions, LANES)


class Group:
    """The partitions and the disk lanes of a topic that hold the same keys; mostly one partition.

    ``direct``: new records go to ``queue``; otherwise to disk. ``holding``: the queue is younger than what is on disk and waits
    until that has been sent. So the order is always: in flight, then disk where holding, then the queue, then disk.
    """

    def __init__(self, topic: str, number: int, partitions: int, limit: int) -> None:
        """``number`` below ``groups_of(partitions)``; ``limit``: bytes of the largest batch that the broker takes."""
        self.topic = topic
        self.partitions = partitions
        groups = groups_of(partitions)
        self.lanes = [Lane(topic, lane, LANES) for lane in range(number, LANES, groups)]
        self._partition = number if groups == partitions else None
        self.limit = self.full_limit = limit
        self.direct = False
        self.holding = False
        self.queue: deque[Batch] = deque()
        self.in_flight: Batch | None = None
        self.task: asyncio.Task[None] | None = None
        self.sent_at: float | None = None
        """When what is in flight was sent; None where nothing is."""
        self.retry_at = 0.0
        self._backoff = 0.0
        self._guilty: dict[bytes, None] = {}

    def ended(self, task: asyncio.Task[Any] | None) -> None:
        """``task`` has come to its end, or was cancelled."""
        if self.task is task:
            self.task = None

    def take(self, record: Record, now: float) -> Delivery:
        """Queues ``record``."""
        queue = self.queue
        if queue and queue[-1].bytes < BATCH_BYTES:
            batch = queue[-1]
        else:
            batch = Batch(now)
            queue.append(batch)
        batch.records.append(record)
        batch.bytes += len(record.value)
        return batch.delivery

    def by_partition(self, records: Sequence[Record]) -> dict[int, Sequence[Record]]:
        """``records`` by the partition they go to."""
        if self._partition is not None:
            return {self._partition: records}
        parts: defaultdict[int, list[Record]] = defaultdict(list)
        for record in records:
            parts[partition_for(record.key, self.partitions)].append(record)
        return dict(parts)

    def queued(self) -> list[Batch]:
        """Takes what is queued, in its order."""
        batches = list(self.queue)
        self.queue.clear()
        return batches

    def unacknowledged(self) -> list[Batch]:
        """Takes what is in flight and queued, in its order."""
        batches = [*([self.in_flight] if self.in_flight else ()), *self.queued()]
        self.in_flight = None
        self.sent_at = None
        return batches

    def open_breaker(self) -> None:
        """From now on new records go to disk."""
        self.direct = self.holding = False

    def failed(self, now: float) -> None:
        """It is tried again later, at growing distances."""
        self._backoff = min(LONGEST_BACKOFF_SECONDS, max(0.5, self._backoff * 2))
        self.retry_at = now + self._backoff

    def succeeded(self) -> None:
        """Kafka took something."""
        self.retry_at = self._backoff = 0.0
        self.limit = min(self.full_limit, self.limit * 4)

    def halve(self, records: Sequence[Record]) -> None:
        """The broker refused ``records`` as one batch: it takes no more than half of it from now on, until it has taken some."""
        self.limit = max(1, min(self.limit, sum(len(record.value) for record in records)) // 2)

    def note_guilty(self, record: Record) -> None:
        """Remembers that the broker refuses ``record``."""
        if len(self._guilty) >= MOST_GUILTY:
            self._guilty.pop(next(iter(self._guilty)))
        self._guilty[_digest(record)] = None

    def is_guilty(self, record: Record) -> bool:
        """Whether the broker refused this very record lately."""
        return bool(self._guilty) and _digest(record) in self._guilty


def _digest(record: Record) -> bytes:
    return hashlib.sha256(record.key + b"\0" + record.value).digest()
