"""Events, dead letters, rollups and offsets in one Postgres transaction."""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg

from event_consumer.batch import Batch
from event_consumer.database import borrowed
from event_consumer.events.fates import Fates, Placed
from event_consumer.events.feeding import add, count_tenants
from event_consumer.events.locks import ROLLUP_LOCK
from event_consumer.events.placing import Placer, conflicts
from event_consumer.events.rollups import Additions, Known, additions
from event_consumer.events.rows import EventRow
from event_consumer.gaps import Position, mark
from event_consumer.letters.shelf import resolve, set_aside
from event_consumer.store import FenceLost, Written
from event_core.clock import from_milliseconds
from event_core.instants import from_micros
from event_core.postgres import Connection, check_schema
from event_core.settings import PostgresSettings
from event_core.source import Logs
from event_core.sqlfiles import load_sql
from event_core.topics import TopicPartition

LOCK_ROLLUPS = load_sql("event_consumer.events.sql", "lock_rollups")
ADVANCE_OFFSETS = load_sql("event_consumer.events.sql", "advance_offsets")
COUNT_OFFSETS = load_sql("event_consumer.events.sql", "count_offsets")
ADD_OFFSETS = load_sql("event_consumer.events.sql", "add_offsets")
READ_OFFSETS = load_sql("event_consumer.events.sql", "read_offsets")


class _Fenced(Exception):
    """Rolls the transaction back."""

    def __init__(self, lost: list[TopicPartition]) -> None:
        super().__init__(lost)
        self.lost = lost


class PostgresStore:
    """The events pipeline's store, for one consumer group."""

    name = "postgres"

    def __init__(self, pool: asyncpg.Pool, settings: PostgresSettings, group: str, *, retries: int = 3) -> None:
        """``pool`` has ``instants_as_integers``; ``retries``: how often a row may fail before it is set aside."""
        self._pool = pool
        self._settings = settings
        self._group = group
        self._retries = retries
        self._known = Known()
        self._cluster_id: str | None = None

    async def positions(self, logs: Logs) -> dict[TopicPartition, Position]:
        self._cluster_id = logs.cluster_id
        self._known.forget()
        wanted = sorted(logs.of)
        names = ([p.topic for p in wanted], [p.partition for p in wanted])
        begins = [logs.of[p].begin for p in wanted]
        async with borrowed(self._pool, self._settings) as connection:
            await check_schema(connection)
            await connection.execute(ADD_OFFSETS, self._group, *names, begins, logs.cluster_id)
            rows = await connection.fetch(READ_OFFSETS, self._group, *names)
        return {TopicPartition(topic, partition): Position(*rest) for topic, partition, *rest in rows}

    async def write(self, batch: Batch[EventRow], expected: Mapping[TopicPartition, int]) -> Written | FenceLost:
        try:
            async with borrowed(self._pool, self._settings) as connection, connection.transaction():
                await connection.execute(LOCK_ROLLUPS, ROLLUP_LOCK)
                # The fence comes first: it locks the offsets' rows, so a second consumer waits here, not in vain.
                slot, epoch = await self._advance(connection, batch, expected)
                self._known.check(epoch)
                written, added = await self._fill(connection, batch, expected, slot)
        except _Fenced as fence:
            return FenceLost(fence.lost)
        if added is not None:
            self._known.learn(added.learned, epoch)
        return written

    async def _fill(
        self, connection: Connection, batch: Batch[EventRow], expected: Mapping[TopicPartition, int], slot: int
    ) -> tuple[Written, Additions | None]:
        placed = await self._place(connection, batch)
        differ = await conflicts(connection, placed.known)
        rows = [item.row for item in placed.fresh]
        added = additions(rows, self._known) if rows else None
        if added is not None:
            await add(connection, added, slot)
        fates = Fates(batch, placed, differ)
        if fates.letters:
            fates.settle(await set_aside(connection, fates.letters))
        if fates.replayed:
            await resolve(connection, fates.replayed)
        await count_tenants(connection, fates.tenants(), slot)
        await self._count(connection, batch, expected, fates)
        oldest = from_micros(min([row.received_at for row in rows])) if rows else None
        return Written(len(rows), fates.same, fates.new_letters, oldest), added

    async def _place(self, connection: Connection, batch: Batch[EventRow]) -> Placed:
        patient = batch.overdue < self._retries
        try:
            return await Placer(connection, retries=self._retries, patient=patient).place(batch.items)
        except asyncpg.QueryCanceledError:
            batch.overdue += 1
            raise

    async def _advance(
        self, connection: Connection, batch: Batch[EventRow], expected: Mapping[TopicPartition, int]
    ) -> tuple[int, int]:
        """Moves the offsets; (the slot of this batch's rollup rows, the rollups' epoch)."""
        partitions = sorted(batch.offsets)
        moved = await connection.fetch(
            ADVANCE_OFFSETS,
            self._group,
            [p.topic for p in partitions],
            [p.partition for p in partitions],
            [expected[p] for p in partitions],
            [batch.offsets[p] for p in partitions],
            [self._cluster_id] * len(partitions),
            [mark(batch.last[p]) for p in partitions],
            [from_milliseconds(batch.last[p].timestamp) for p in partitions],
        )
        lost = set(partitions) - {TopicPartition(topic, partition) for topic, partition, *_ in moved}
        if lost:
            raise _Fenced(sorted(lost))
        # The rows of these slots are ours alone as long as we hold the offsets' locks; one of them does.
        return min(slot for _, _, slot, _ in moved), moved[0]["epoch"]

    async def _count(
        self, connection: Connection, batch: Batch[EventRow], expected: Mapping[TopicPartition, int], fates: Fates
    ) -> None:
        partitions = sorted(batch.offsets)
        received = fates.received()
        await connection.execute(
            COUNT_OFFSETS,
            self._group,
            [p.topic for p in partitions],
            [p.partition for p in partitions],
            [fates.stored[p] for p in partitions],
            [fates.duplicates[p] for p in partitions],
            [fates.dead[p] for p in partitions],
            [batch.offsets[p] - expected[p] - batch.messages[p] for p in partitions],
            [received.get(p) for p in partitions],
        )
