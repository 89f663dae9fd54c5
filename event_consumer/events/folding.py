"""Adds up what several writers counted of days that are over: a row for each quarter and name instead of one for each writer.

Questions over many days read several times fewer rows then, and of whole hours four times fewer again. What comes late is
counted in rows of its own, and folded in a later turn.
"""

from __future__ import annotations

from datetime import date

from event_consumer.events.catalogue import limit_lock_waits, refresh_hours
from event_consumer.events.days import end_of, start_of
from event_consumer.events.locks import ROLLUP_LOCK
from event_core.postgres import Connection
from event_core.sqlfiles import load_sql
from event_core.telemetry import get_logger

log = get_logger(__name__)

MOST_DAYS = 400
"""Of one turn; what is left is done in the next."""

_SQL = "event_consumer.events.maintenance"
FIND_UNFOLDED_DAYS = load_sql(_SQL, "find_unfolded_days")
LOCK_ROLLUPS = load_sql(_SQL, "lock_rollups_alone")
FOLD_COUNTS = load_sql(_SQL, "fold_counts")


async def fold_days(connection: Connection, today: date, *, lock_seconds: float, work_seconds: float) -> int:
    """Folds the days (UTC) before ``today``, the newest first; how many those were. Writers wait while one day is folded.

    Raises:
        asyncpg.LockNotAvailableError: the writers' lock was not to be had in time.
    """
    found = await connection.fetch(FIND_UNFOLDED_DAYS, today.isoformat(), MOST_DAYS, timeout=work_seconds)
    for row in found:
        day = date.fromisoformat(row["day"])
        async with connection.transaction(isolation="read_committed"):
            await limit_lock_waits(connection, lock_seconds)
            await connection.execute(LOCK_ROLLUPS, ROLLUP_LOCK)
            await connection.execute(FOLD_COUNTS, start_of(day), end_of(day), timeout=work_seconds)
            await refresh_hours(connection, day, work_seconds)
    if found:
        log.info("counts of days that are over were added up", days=len(found))
    return len(found)
