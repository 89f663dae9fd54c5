"""Removes whole days of events with what was counted of them, oldest first, and the ids that need not be remembered any more.

A day's events and its rollups go in one transaction, so readers never see them disagree. Only a day with very many events and
no partition of its own takes several: its rollups go first, and the events that are still there say what is left to do.
"""

from __future__ import annotations

from datetime import date, timedelta

import asyncpg

from event_consumer.events.catalogue import TENANTS, limit_lock_waits, list_partitions, refresh_hours
from event_consumer.events.days import Partition, bit_of, end_of, month_of, partition_of, start_of
from event_consumer.events.locks import ROLLUP_LOCK
from event_core.postgres import Connection
from event_core.retention import LEDGER_DAYS
from event_core.sqlfiles import load_sql
from event_core.telemetry import get_logger

log = get_logger(__name__)

CHUNK_ROWS = 20_000
"""Events deleted per transaction, where no partition can be dropped."""
CHUNK_BLOCKS = 512
"""Blocks of the ledger (of 8 KiB, about 130 ids each) looked through per transaction."""

_SQL = "event_consumer.events.maintenance"
FIND_OLDEST_DAY = load_sql(_SQL, "find_oldest_day")
LOCK_ROLLUPS = load_sql(_SQL, "lock_rollups_alone")
BUMP_EPOCH = load_sql(_SQL, "bump_epoch")
BUMP_DAY = load_sql(_SQL, "bump_day")
DELETE_COUNTS = load_sql(_SQL, "delete_counts")
DELETE_LAST_DAYS = load_sql(_SQL, "delete_last_days", tenants=TENANTS)
CLEAR_DAYS = load_sql(_SQL, "clear_days", tenants=TENANTS)
LOCK_EVENTS = load_sql(_SQL, "lock_events_alone")
DROP_PARTITION = load_sql(_SQL, "drop_partition")
DELETE_SOME_EVENTS = load_sql(_SQL, "delete_some_events")
COUNT_LEDGER_BLOCKS = load_sql(_SQL, "count_ledger_blocks")
DELETE_LEDGER_ROWS = load_sql(_SQL, "delete_ledger_rows")


class Retention:
    """Run within a turn of Maintenance, under its lock."""

    def __init__(
        self,
        *,
        lock_seconds: float,
        work_seconds: float,
        chunk_rows: int = CHUNK_ROWS,
        chunk_blocks: int = CHUNK_BLOCKS,
    ) -> None:
        self._lock_seconds = lock_seconds
        self._work_seconds = work_seconds
        self._chunk_rows = chunk_rows
        self._chunk_blocks = chunk_blocks
        self._ledger_swept: tuple[date, date] | None = None

    async def enforce(self, connection: Connection, oldest: date, *, today: date) -> bool:
        """Removes all that lies before the day ``oldest``. False where a lock was not to be had in time.

        May be run again at any time and after any interruption: it does what is left to do.
        """
        try:
            await self._drop_days(connection, oldest)
        except asyncpg.LockNotAvailableError:
            log.warning("no lock in time to drop old events; the next turn tries again")
            return False
        # After the events, so that an id lives as long as its event. A pass reads the whole ledger: once a day.
        if self._ledger_swept != (oldest, today):
            await self._sweep_ledger(connection, oldest, today)
            self._ledger_swept = (oldest, today)
        return True

    async def _drop_days(self, connection: Connection, oldest: date) -> None:
        days = 0
        while True:
            partitions = {part.lower.date(): part for part in await list_partitions(connection) if _of_a_day(part)}
            day = await connection.fetchval(FIND_OLDEST_DAY, start_of(oldest), timeout=self._work_seconds)
            day = min([other for other in partitions if other < oldest] + ([] if day is None else [day]), default=None)
            if day is None:
                break
            await self._drop_day(connection, day, partitions.get(day))
            days += 1
        if days:
            log.info("old events dropped", before=oldest.isoformat(), transactions=days)

    async def _drop_day(self, connection: Connection, day: date, partition: Partition | None) -> None:
        """One transaction: the day's rollups, and its partition or as many of its events as one transaction may delete."""
        bounds = (start_of(day), end_of(day))
        async with connection.transaction(isolation="read_committed"):
            await limit_lock_waits(connection, self._lock_seconds)
            await connection.execute(LOCK_ROLLUPS, ROLLUP_LOCK)
            await connection.execute(BUMP_EPOCH)
            await connection.execute(DELETE_COUNTS, *bounds, timeout=self._work_seconds)
            await refresh_hours(connection, day, self._work_seconds)
            for statement in (DELETE_LAST_DAYS, CLEAR_DAYS):
                await connection.execute(statement, month_of(day), bit_of(day), timeout=self._work_seconds)
            await connection.execute(BUMP_DAY, day.isoformat())
            if partition is not None:
                await connection.execute(LOCK_EVENTS)  # last, since readers wait from here on
                await connection.execute(DROP_PARTITION.format(partition=partition.name))
                log.info("partition dropped", partition=partition.name)
            else:
                status = await connection.execute(
                    DELETE_SOME_EVENTS, *bounds, self._chunk_rows, timeout=self._work_seconds
                )
                log.info("old events deleted", day=day.isoformat(), rows=int(status.rpartition(" ")[2]))

    async def _sweep_ledger(self, connection: Connection, oldest: date, today: date) -> None:
        """Stretch by stretch: each is read once, however many of its rows stay."""
        blocks = await connection.fetchval(COUNT_LEDGER_BLOCKS)
        stored_before, swept = today - timedelta(LEDGER_DAYS), 0
        for first in range(0, blocks, self._chunk_blocks):
            status = await connection.execute(
                DELETE_LEDGER_ROWS,
                (first, 0),
                (first + self._chunk_blocks, 0),
                stored_before,
                start_of(oldest),
                timeout=self._work_seconds,
            )
            swept += int(status.rpartition(" ")[2])
        if swept:
            log.info("ids of dropped events forgotten", rows=swept)


def _of_a_day(partition: Partition) -> bool:
    """Not one that somebody made for more, or for less: of such a one the rows are deleted."""
    return partition == partition_of(partition.lower.date())._replace(name=partition.name)
