"""Where a pipeline keeps its rows: the interface, its outcomes, and the fake that ships beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from event_consumer.batch import Batch
from event_consumer.dead_letter import DeadLetter
from event_core.errors import DatabaseUnavailable
from event_core.topics import TopicPartition

Row = TypeVar("Row")


class Written(NamedTuple):
    """The batch and its offsets are committed."""

    stored: int
    duplicates: int
    dead: list[DeadLetter]


class FenceLost(NamedTuple):
    """Another consumer had moved an offset: nothing of the batch was committed, and nothing needed to be."""

    partitions: list[TopicPartition]


class Store(Protocol[Row]):
    """Rows, dead letters and offsets in one transaction."""

    async def offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset to read next of each; 0 where none was stored yet. Raises DatabaseUnavailable."""

    async def write(self, batch: Batch[Row], expected: Mapping[TopicPartition, int]) -> Written | FenceLost:
        """Commits everything or nothing. ``expected`` holds, for each partition of the batch, the stored offset it builds on.

        Raises:
            DatabaseUnavailable: nothing was committed, or the answer to the commit was lost: write the same batch again,
                and the fence tells which.
            Exception: anything else is a fault that waiting does not mend.
        """


class MemoryStore(Generic[Row]):
    """A store for tests. ``key`` tells a row's identity; set ``outage`` to make every call fail."""

    def __init__(self) -> None:
        self.rows: dict[object, Row] = {}
        self.dead: list[DeadLetter] = []
        self.stored_offsets: dict[TopicPartition, int] = {}
        self.outage: DatabaseUnavailable | None = None

    async def offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        if self.outage is not None:
            raise self.outage
        return {partition: self.stored_offsets.setdefault(partition, 0) for partition in partitions}

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
        self.stored_offsets.update(batch.offsets)
        stored = len(self.rows) - before
        return Written(stored, len(batch.items) - stored, list(batch.dead))
