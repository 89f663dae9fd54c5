"""Upkeep of the tables: partitions made ahead, rows moved out of the default partition, counts added up, and retention.

Every consumer runs it; an advisory lock leaves each turn to one of them. Nothing here may hold others up for long: each partition
is a transaction of its own, waits for locks at most ``LOCK_SECONDS``, and what was not to be had is tried again next time. While
a partition is made, writers wait at the parent table, before they have chosen where a row goes: a row that waited at the default
partition would be refused, once its place is taken by the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime

import asyncpg

from event_consumer.events.catalogue import limit_lock_waits, list_partitions
from event_consumer.events.days import Partition, lacking, partition_of, window
from event_consumer.events.folding import fold_days
from event_consumer.events.locks import MAINTENANCE_LOCK
from event_consumer.events.retention import Retention
from event_consumer.settings import ConsumerSettings
from event_core.clock import Clock, utc_now
from event_core.errors import PlatformError
from event_core.postgres import CONNECTION_ERRORS, Connection, check_schema
from event_core.retention import oldest_kept
from event_core.sqlfiles import load_sql
from event_core.stopping import sleep, until_stopped
from event_core.telemetry import get_logger

log = get_logger(__name__)

INTERVAL_SECONDS = 600.0
RETRY_SECONDS = 60.0
"""After a turn that failed, the next one comes this soon."""
LOCK_SECONDS = 2.0
WORK_SECONDS = 600.0
"""Longest time for one statement that moves or deletes rows."""
BUSY_ROWS = 100_000
"""So many rows of one day in the default partition get a partition of their own, wherever in time the day lies: to attach one,
Postgres reads all of the default partition while others wait, so that must stay small."""
GIVE_UP_SECONDS = 3.0

_SQL = "event_consumer.events.maintenance"
TRY_LOCK = load_sql(_SQL, "try_maintenance_lock")
ESTIMATE_DEFAULT = load_sql(_SQL, "estimate_default")
FIND_BUSY_DAYS = load_sql(_SQL, "find_busy_days")
CREATE_PARTITION = load_sql(_SQL, "create_partition")
COPY_ROWS = load_sql(_SQL, "copy_rows")
LOCK_WRITERS = load_sql(_SQL, "lock_writers")
LOCK_DEFAULT = load_sql(_SQL, "lock_default")
COPY_LATE_ROWS = load_sql(_SQL, "copy_late_rows")
DELETE_GONE_ROWS = load_sql(_SQL, "delete_gone_rows")
DELETE_MOVED_ROWS = load_sql(_SQL, "delete_moved_rows")
ATTACH_PARTITION = load_sql(_SQL, "attach_partition")

_OUT_OF_REACH = (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)


class Maintenance:
    """``run`` it beside the pipeline. The attributes say how things stand, as of the last turn:

    ``partitions`` (without the default one), ``default_rows`` (about how many rows the default one holds), and ``last_success``:
    when all was last found in order, by whoever did the work; None before the first time.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        settings: ConsumerSettings,
        *,
        clock: Clock = utc_now,
        interval: float = INTERVAL_SECONDS,
        lock_seconds: float = LOCK_SECONDS,
        busy_rows: int = BUSY_ROWS,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._clock = clock
        self._interval = interval
        self._lock_seconds = lock_seconds
        self._busy_rows = busy_rows
        self._retention = Retention(lock_seconds=lock_seconds, work_seconds=WORK_SECONDS)
        self.partitions = 0
        self.default_rows = 0
        self.last_success: datetime | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """A turn at once and then every ``interval`` seconds, until ``stop``. Never raises because of the database: the consumer
        stores what it can without any upkeep."""
        while not stop.is_set():
            turn = await until_stopped(self._turn(), stop, give_up=GIVE_UP_SECONDS)
            if turn is None:
                return
            await sleep(self._interval if turn.result() else min(self._interval, RETRY_SECONDS), stop)

    async def _turn(self) -> bool:
        try:
            return await self.once()
        except (*CONNECTION_ERRORS, asyncpg.PostgresError, PlatformError) as error:
            log.warning("upkeep of the partitions failed and is tried again", problem=repr(error))
        except Exception as error:
            # A fault of ours. Events are stored without upkeep too, so the consumer goes on; the log and last_success tell.
            log.error("upkeep of the partitions failed unexpectedly", exc_info=error)
        return False

    async def once(self) -> bool:
        """One turn; whether all is in order after it. False where a lock was not to be had in time: the next turn tries again.

        Raises:
            DatabaseUnavailable, asyncpg's errors: nothing could be done, or not all of it.
        """
        async with self._pool.acquire() as connection:
            await check_schema(connection)
            done = True
            # Held until the connection goes back to the pool, which gives up every lock of the session.
            if await connection.fetchval(TRY_LOCK, MAINTENANCE_LOCK):
                done = await self._maintain(connection)
            return await self._look(connection, done)

    def _oldest(self, now: datetime) -> date | None:
        days = self._settings.retention_days
        return None if days is None else oldest_kept(now, days).date()

    def _window(self) -> list[date]:
        now = self._clock().astimezone(UTC)
        settings = self._settings
        return window(
            now.date(),
            back=settings.consumer_partition_days_back,
            ahead=settings.consumer_partition_days_ahead,
            oldest=self._oldest(now),
        )

    async def _look(self, connection: Connection, done: bool) -> bool:
        """Notes how things stand; whether all was ``done`` and every day that is to have a partition has one."""
        partitions = await list_partitions(connection)
        self.partitions = len(partitions)
        self.default_rows = await connection.fetchval(ESTIMATE_DEFAULT)
        if not done or lacking(self._window(), partitions):
            return False
        self.last_success = self._clock()
        return True

    async def _maintain(self, connection: Connection) -> bool:
        done = await self._make(connection, self._window())
        oldest = None
        if self._settings.retention_days is not None:
            # Two clocks must agree that an event is old: a wrong one must not delete what the other would keep.
            now = min(self._clock(), await connection.fetchval("select now()"))
            oldest = self._oldest(now)
            assert oldest is not None
            done = await self._retention.enforce(connection, oldest, today=now.date()) and done
        done = await self._fold(connection) and done
        if await connection.fetchval(ESTIMATE_DEFAULT) >= min(self._busy_rows, 10_000):
            since = partition_of(oldest or date.min).lower
            busy = await connection.fetch(FIND_BUSY_DAYS, self._busy_rows, since, timeout=WORK_SECONDS)
            done = await self._make(connection, [row["day"] for row in busy]) and done
        return done

    async def _fold(self, connection: Connection) -> bool:
        """False where a lock was not to be had in time."""
        today = self._clock().astimezone(UTC).date()
        try:
            await fold_days(connection, today, lock_seconds=self._lock_seconds, work_seconds=WORK_SECONDS)
        except asyncpg.LockNotAvailableError:
            log.warning("no lock in time to add up the counts of days that are over; the next turn tries again")
            return False
        return True

    async def _make(self, connection: Connection, days: Sequence[date]) -> bool:
        """A partition for each of the days that lacks one. False where one could not be made now."""
        done = True
        for day in lacking(days, await list_partitions(connection)):
            partition = partition_of(day)
            try:
                moved = await self._make_one(connection, partition)
            except asyncpg.LockNotAvailableError:
                # The next one would make everybody wait again.
                log.warning("no lock in time to make a partition; the next turn tries again", partition=partition.name)
                return False
            except _OUT_OF_REACH:
                raise
            except asyncpg.PostgresError as error:
                log.warning("a partition could not be made", partition=partition.name, problem=repr(error))
                done = False
            else:
                log.info("partition made", partition=partition.name, moved=moved)
        return done

    async def _make_one(self, connection: Connection, partition: Partition) -> int:
        """Makes the partition and moves its rows out of the default one; how many those were."""
        bounds = (partition.lower, partition.upper)
        name = partition.name
        # Each statement must see what was committed before it, above all while the writers wait.
        async with connection.transaction(isolation="read_committed"):
            await limit_lock_waits(connection, self._lock_seconds)
            await connection.execute(CREATE_PARTITION.format(partition=name))
            await connection.execute(COPY_ROWS.format(partition=name), *bounds, timeout=WORK_SECONDS)
            await connection.execute(LOCK_WRITERS)
            await connection.execute(LOCK_DEFAULT)
            await connection.execute(COPY_LATE_ROWS.format(partition=name), *bounds, timeout=WORK_SECONDS)
            await connection.execute(DELETE_GONE_ROWS.format(partition=name), timeout=WORK_SECONDS)
            status = await connection.execute(DELETE_MOVED_ROWS, *bounds, timeout=WORK_SECONDS)
            attach = ATTACH_PARTITION.format(
                partition=name, lower=partition.lower.isoformat(), upper=partition.upper.isoformat()
            )
            await connection.execute(attach, timeout=WORK_SECONDS)
        return int(status.rpartition(" ")[2])
