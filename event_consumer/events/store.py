"""Events, dead letters and offsets in one Postgres transaction."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any

import asyncpg

from event_consumer.batch import Batch, Item
from event_consumer.dead_letter import DeadLetter, dead_letter
from event_consumer.events.rows import EventRow
from event_consumer.store import FenceLost, Written
from event_consumer.verdict import Verdict, judge
from event_core.errors import UndecodableMessage
from event_core.postgres import Connection, check_schema, unavailable
from event_core.settings import PostgresSettings
from event_core.sqlfiles import load_sql
from event_core.topics import TopicPartition

INSERT_EVENTS = load_sql("event_consumer.events.sql", "insert_events")
INSERT_DEAD_LETTERS = load_sql("event_consumer.events.sql", "insert_dead_letters")
ADVANCE_OFFSETS = load_sql("event_consumer.events.sql", "advance_offsets")
ADD_OFFSETS = load_sql("event_consumer.events.sql", "add_offsets")
READ_OFFSETS = load_sql("event_consumer.events.sql", "read_offsets")

_CONNECTION_ERRORS = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class _Fenced(Exception):
    """Rolls the transaction back."""

    def __init__(self, lost: list[TopicPartition]) -> None:
        super().__init__(lost)
        self.lost = lost


def _sqlstate(error: BaseException) -> tuple[str | None, str | None]:
    if isinstance(error, asyncpg.PostgresError):
        return error.sqlstate, getattr(error, "constraint_name", None)
    return None, None


class PostgresStore:
    """The events pipeline's store, for one consumer group."""

    name = "postgres"

    def __init__(self, pool: asyncpg.Pool, settings: PostgresSettings, group: str) -> None:
        self._pool = pool
        self._settings = settings
        self._group = group

    async def offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        wanted = list(partitions)
        names = ([p.topic for p in wanted], [p.partition for p in wanted])
        async with self._connection() as connection:
            await check_schema(connection)
            await connection.execute(ADD_OFFSETS, self._group, *names)
            rows = await connection.fetch(READ_OFFSETS, self._group, *names)
        return {TopicPartition(row["topic"], row["partition"]): row["next_offset"] for row in rows}

    async def write(self, batch: Batch[EventRow], expected: Mapping[TopicPartition, int]) -> Written | FenceLost:
        try:
            async with self._connection() as connection, connection.transaction():
                # The fence first: it locks the offsets' rows, so a second consumer waits here instead of working in vain.
                await self._advance(connection, batch, expected)
                refused: list[DeadLetter] = []
                stored = await self._insert(connection, batch.items, refused)
                dead = [*batch.dead, *refused]
                if dead:
                    await connection.execute(INSERT_DEAD_LETTERS, *_columns(dead))
        except _Fenced as fence:
            return FenceLost(fence.lost)
        return Written(stored, len(batch.items) - stored - len(refused), dead)

    async def _advance(
        self, connection: Connection, batch: Batch[EventRow], expected: Mapping[TopicPartition, int]
    ) -> None:
        partitions = sorted(batch.offsets)
        moved = await connection.fetch(
            ADVANCE_OFFSETS,
            self._group,
            [p.topic for p in partitions],
            [p.partition for p in partitions],
            [expected[p] for p in partitions],
            [batch.offsets[p] for p in partitions],
        )
        lost = set(partitions) - {TopicPartition(row["topic"], row["partition"]) for row in moved}
        if lost:
            raise _Fenced(sorted(lost))

    async def _insert(self, connection: Connection, items: Sequence[Item[EventRow]], refused: list[DeadLetter]) -> int:
        """How many rows were new. A row that Postgres refuses is found by halving, within savepoints, and set aside."""
        if not items:
            return 0
        try:
            async with connection.transaction():  # a savepoint: we are within the batch's transaction
                status: str = await connection.execute(INSERT_EVENTS, *_columns([item.row for item in items]))
                return int(status.rpartition(" ")[2])
        except (asyncpg.PostgresError, ValueError) as error:  # ValueError: asyncpg could not encode a value
            sqlstate, constraint = _sqlstate(error)
            at_fault = isinstance(error, ValueError) or judge(sqlstate, constraint=constraint) is Verdict.DATA
            if not at_fault:
                raise
            if len(items) == 1:
                problem = UndecodableMessage(f"{sqlstate or 'encoding'}: {error}", reason="refused_by_store")
                refused.append(dead_letter(items[0].message, problem))
                return 0
        middle = len(items) // 2
        first = await self._insert(connection, items[:middle], refused)
        return first + await self._insert(connection, items[middle:], refused)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Connection]:
        """A connection; what goes wrong with it becomes DatabaseUnavailable where waiting mends it."""
        try:
            async with self._pool.acquire() as connection:
                yield connection
        except asyncpg.PostgresError as error:
            sqlstate, constraint = _sqlstate(error)
            if judge(sqlstate, constraint=constraint) is Verdict.WAIT:
                raise unavailable(error, self._settings) from error
            raise
        except _CONNECTION_ERRORS as error:
            raise unavailable(error, self._settings) from error


def _columns(rows: Sequence[tuple[Any, ...]]) -> Iterable[list[Any]]:
    return map(list, zip(*rows, strict=True))
