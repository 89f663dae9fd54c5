"""Records on their way to the same partition or few, and whether new ones go straight to Kafka. Pure but for the futures."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict, deque
from collections.abc import Sequence

from event_core.codec import Record
from event_core.topics import partition_for
from ingestion_service.delivery import Delivery
from ingestion_service.spool.lane import LANES, Lane

BATCH_BYTES = 512 * 1024
"""A batch that holds as many bytes of values takes no more."""
LONGEST_BACKOFF_SECONDS = 5.0
MOST_REFUSED = 100


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
        self.retry_at = 0.0
        self._backoff = 0.0
        self.refused: dict[bytes, str] = {}
        """Values that the broker refused, and why: they are set aside when they are read again."""

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

    def unacknowledged(self) -> list[Batch]:
        """What is in flight and queued, in its order; the group has nothing of it any more."""
        batches = [*([self.in_flight] if self.in_flight else ()), *self.queue]
        self.in_flight = None
        self.queue.clear()
        return batches

    def open_breaker(self) -> None:
        """From now on new records go to disk."""
        self.direct = self.holding = False

    def failed(self, now: float) -> None:
        """This group's batch was overdue: it is tried again later, at growing distances."""
        self._backoff = min(LONGEST_BACKOFF_SECONDS, max(0.5, self._backoff * 2))
        self.retry_at = now + self._backoff

    def succeeded(self) -> None:
        """Kafka took something."""
        self.retry_at = self._backoff = 0.0

    def refuse(self, records: list[Record], why: str) -> bool:
        """The broker refused ``records`` as one batch: it is halved from now on, until the guilty record is alone. True where
        it is."""
        if len(records) > 1:
            self.limit = max(1, min(self.limit, sum(len(record.value) for record in records)) // 2)
            return False
        if len(self.refused) >= MOST_REFUSED:
            self.refused.pop(next(iter(self.refused)))
        self.refused[records[0].value] = why
        self.limit = self.full_limit
        return True
