"""What upkeep asks of Postgres, whichever part of it asks."""

from __future__ import annotations

from datetime import date

from event_consumer.events.days import Partition, end_of, start_of
from event_core.postgres import Connection
from event_core.sqlfiles import load_sql

TENANTS = load_sql("event_consumer.events.maintenance", "tenants")
LIST_PARTITIONS = load_sql("event_consumer.events.maintenance", "list_partitions")
DELETE_HOURS = load_sql("event_consumer.events.maintenance", "delete_hours")
INSERT_HOURS = load_sql("event_consumer.events.maintenance", "insert_hours")


async def list_partitions(connection: Connection) -> list[Partition]:
    """The partitions of events but the default, oldest first."""
    return [Partition(row["name"], row["lower"], row["upper"]) for row in await connection.fetch(LIST_PARTITIONS)]


async def refresh_hours(connection: Connection, day: date, seconds: float) -> None:
    """After the counts of a day (UTC) in slot 0 have changed, in the same transaction; ``seconds`` for each of two statements."""
    for statement in (DELETE_HOURS, INSERT_HOURS):
        await connection.execute(statement, start_of(day), end_of(day), timeout=seconds)


async def limit_lock_waits(connection: Connection, seconds: float) -> None:
    """No statement of this transaction waits longer for a lock: who waits for a strong lock makes all others wait behind it.

    A statement that would wait longer raises LockNotAvailableError.
    """
    await connection.execute("select set_config('lock_timeout', $1, true)", f"{round(seconds * 1000)}ms")
