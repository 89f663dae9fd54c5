"""Where a pipeline keeps its rows: the interface, its outcomes, and the fake that ships beside it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Generic, NamedTuple, Protocol, TypeVar

from event_consumer.batch import Batch
from event_consumer.dead_letter import DeadLetter
from event_consumer.gaps import Position, mark
from event_core.clock import from_milliseconds
from event_core.errors import DatabaseUnavailable
from event_core.source import Logs
from event_core.topics import TopicPartition

Row = TypeVar("Row")


class Written(NamedTuple):
    """The batch and its offsets are committed."""

    stored: int
    duplicates: int
    dead: list[DeadLetter]
    """What was set aside now, not what was there already."""
    oldest: datetime | None = None
    """When the ingestion service had the oldest of the rows stored; None where there is none."""


class FenceLost(NamedTuple):
    """Another consumer had moved an offset: nothing of the batch was committed, and nothing needed to be."""

    partitions: list[TopicPartition]


class Store(Protocol[Row]):
    """Rows, dead letters and offsets in one transaction."""

    async def positions(self, logs: Logs) -> dict[TopicPartition, Position]:
        """Where to read on, of each partition of ``logs``; one that was never read starts where its log begins.
        Raises DatabaseUnavailable."""

    async def write(self, batch: Batch[Row], expected: Mapping[TopicPartition, int]) -> Written | FenceLost:
        """Commits everything or nothing. ``expected`` holds, for each partition of the batch, the stored offset it builds on.

        Raises:
            DatabaseUnavailable: nothing was committed, or the answer to the commit was lost: write the same batch again,
                and the fence tells which.
            DeadLetterFlood: so many rows are refused that the fault must be ours; nothing was committed.
            Exception: anything else is a fault that waiting does not mend.
        """


class MemoryStore(Generic[Row]):
    """A store for tests. A row's first field is its identity; set ``outage`` to make every call fail."""

    def __init__(self) -> None:
        self.rows: dict[object, Row] = {}
        self.dead: list[DeadLetter] = []
        self.stored: dict[TopicPartition, Position] = {}
        self.outage: DatabaseUnavailable | None = None

    @property
    def stored_offsets(self) -> dict[TopicPartition, int]:
        """The next offset of each partition."""
        return {partition: position.next_offset for partition, position in self.stored.items()}

    async def positions(self, logs: Logs) -> dict[TopicPartition, Position]:
        if self.outage is not None:
            raise self.outage
        for partition, log in logs.of.items():
            known = self.stored.setdefault(partition, Position(log.begin))
            self.stored[partition] = known._replace(cluster_id=known.cluster_id or logs.cluster_id)
        return {partition: self.stored[partition] for partition in logs.of}

    async def write(self, batch: Batch[Row], expected: Mapping[TopicPartition, int]) -> Written | FenceLost:
        if self.outage is not None:
            raise self.outage
        lost = [partition for partition in batch.offsets if self.stored_offsets.get(partition) != expected[partition]]
        if lost:
            return FenceLost(lost)
        before = len(self.rows)
        for item in batch.items:
            self.rows.setdefault(item.row[0], item.row)  # type: ignore[index]  # rows are tuples led by their identity
        self.dead += batch.dead
        for partition, offset in batch.offsets.items():
            self.stored[partition] = self.stored[partition]._replace(
                next_offset=offset,
                last_mark=mark(batch.last[partition]),
                last_record_at=from_milliseconds(batch.last[partition].timestamp),
            )
        stored = len(self.rows) - before
        return Written(stored, len(batch.items) - stored, list(batch.dead))
