"""Makes the rollups anew from the events, a day at a time, and says by how much they differed.

Each day is one transaction, alone with the rollups: consumers wait for it and go on after it. A mere comparison reads a snapshot
and nobody waits: events and rollups are committed together, so what differs in a snapshot is wrong. Postgres does the work, in
temporary tables: memory does not grow with the events.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import NamedTuple

from event_consumer.events.catalogue import TENANTS, refresh_hours
from event_consumer.events.days import bit_of, end_of, month_of, start_of
from event_consumer.events.locks import ROLLUP_LOCK
from event_core.postgres import Connection
from event_core.sqlfiles import load_sql

WORK_SECONDS = 3600.0
"""Longest time for one statement."""

_SQL = "event_consumer.events.maintenance"
CREATE_REBUILT = load_sql(_SQL, "create_rebuilt")
LIST_DAYS = load_sql(_SQL, "list_days")
LOCK_ROLLUPS = load_sql(_SQL, "lock_rollups_alone")
REBUILD_COUNTS = load_sql(_SQL, "rebuild_counts")
REBUILD_USERS = load_sql(_SQL, "rebuild_users")
ANALYZE_REBUILT = load_sql(_SQL, "analyze_rebuilt")
REBUILD_FIRST_SEEN = load_sql(_SQL, "rebuild_first_seen")
COMPARE_COUNTS = load_sql(_SQL, "compare_counts")
DELETE_COUNTS = load_sql(_SQL, "delete_counts")
INSERT_COUNTS = load_sql(_SQL, "insert_counts")
COMPARE_USER_DAYS = load_sql(_SQL, "compare_user_days", tenants=TENANTS)
CLEAR_WRONG_DAYS = load_sql(_SQL, "clear_wrong_days", tenants=TENANTS)
DELETE_EMPTY_DAYS = load_sql(_SQL, "delete_empty_days", tenants=TENANTS)
INSERT_USER_DAYS = load_sql(_SQL, "insert_user_days")
MOVE_FIRST_SEEN = load_sql(_SQL, "move_first_seen")
BUMP_EPOCH = load_sql(_SQL, "bump_epoch")
BUMP_DAY = load_sql(_SQL, "bump_day")
BUMP_FIRST_SEEN = load_sql(_SQL, "bump_first_seen")

EVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
"""asyncpg takes them for -infinity and infinity."""


class Difference(NamedTuple):
    """By how much a table differs from what the events say."""

    rows: int = 0
    """Rows that differ: of user_days, days of users."""
    too_many: int = 0
    """What the table says and the events do not: events; days of users."""
    too_few: int = 0
    """What the events say and the table does not: events; days of users; users with no first event, or too late a one."""

    def plus(self, other: Difference) -> Difference:
        return Difference(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Differences(NamedTuple):
    """By how much each of the rollups differs."""

    event_counts_15m: Difference = Difference()
    user_days: Difference = Difference()
    first_seen: Difference = Difference()

    def plus(self, other: Differences) -> Differences:
        return Differences(*(mine.plus(theirs) for mine, theirs in zip(self, other, strict=True)))

    @property
    def any(self) -> bool:
        return any(difference.rows for difference in self)


class Rebuild:
    """On one connection, for the days from ``first`` to ``last`` (both included; None: however far there is anything)."""

    def __init__(self, connection: Connection, first: date | None = None, last: date | None = None) -> None:
        self._connection = connection
        self._begin = EVER[0] if first is None else start_of(first)
        self._end = EVER[1] if last is None else end_of(last)

    async def days(self) -> list[date]:
        """The days that have events or rollups, oldest first."""
        await self._connection.execute(CREATE_REBUILT)
        rows = await self._connection.fetch(LIST_DAYS, self._begin, self._end, timeout=WORK_SECONDS)
        return [row["day"] for row in rows]

    async def compare(self, day: date) -> Differences:
        """By how much the day's rollups differ; nothing is changed, and nobody waits."""
        async with self._connection.transaction(isolation="repeatable_read"):
            return (await self._count_anew(day))[0]

    async def rebuild(self, day: date) -> Differences:
        """Makes the day's rollups anew; by how much they differed. All counts are in slot 0 afterwards."""
        async with self._connection.transaction(isolation="read_committed"):
            await self._connection.execute(LOCK_ROLLUPS, ROLLUP_LOCK, timeout=WORK_SECONDS)
            differences, untidy = await self._count_anew(day)
            if differences.event_counts_15m.rows or untidy:
                await self._work(DELETE_COUNTS, start_of(day), end_of(day))
                await self._work(INSERT_COUNTS)
                await refresh_hours(self._connection, day, WORK_SECONDS)
            if differences.user_days.rows:
                await self._work(CLEAR_WRONG_DAYS, month_of(day), bit_of(day))
                await self._work(DELETE_EMPTY_DAYS, month_of(day))
                await self._work(INSERT_USER_DAYS, month_of(day), bit_of(day))
            if differences.first_seen.rows:
                await self._work(MOVE_FIRST_SEEN)
                await self._work(BUMP_FIRST_SEEN)
            if differences.any or untidy:
                await self._work(BUMP_EPOCH)
            if differences.any:
                await self._work(BUMP_DAY, day.isoformat())
        return differences

    async def _count_anew(self, day: date) -> tuple[Differences, bool]:
        """What differs, and whether counts lie in other slots than 0 or hours are not their sum. Fills the temporary tables."""
        begin, end = start_of(day), end_of(day)
        await self._work(REBUILD_COUNTS, begin, end)
        await self._work(REBUILD_USERS, begin, end)
        await self._work(ANALYZE_REBUILT)
        late = await self._work(REBUILD_FIRST_SEEN, self._begin, begin)
        counts = await self._connection.fetchrow(COMPARE_COUNTS, begin, end, timeout=WORK_SECONDS)
        users = await self._connection.fetchrow(COMPARE_USER_DAYS, month_of(day), bit_of(day), timeout=WORK_SECONDS)
        assert counts is not None
        assert users is not None
        differences = Differences(
            Difference(counts["rows"], counts["too_many"], counts["too_few"]),
            Difference(users["too_many"] + users["too_few"], users["too_many"], users["too_few"]),
            Difference(late, 0, late),
        )
        return differences, counts["untidy"]

    async def _work(self, statement: str, *parameters: object) -> int:
        """Runs the statement; how many rows it touched."""
        status: str = await self._connection.execute(statement, *parameters, timeout=WORK_SECONDS)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdecimal() else 0
