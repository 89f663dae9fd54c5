"""What upkeep asks of Postgres, whichever part of it asks."""

from __future__ import annotations

from event_consumer.events.days import Partition
from event_core.postgres import Connection
from event_core.sqlfiles import load_sql

TENANTS = load_sql("event_consumer.events.maintenance", "tenants")
LIST_PARTITIONS = load_sql("event_consumer.events.maintenance", "list_partitions")


async def list_partitions(connection: Connection) -> list[Partition]:
    """The partitions of events but the default, oldest first."""
    return [Partition(row["name"], row["lower"], row["upper"]) for row in await connection.fetch(LIST_PARTITIONS)]


async def limit_lock_waits(connection: Connection, seconds: float) -> None:
    """No statement of this transaction waits longer for a lock: who waits for a strong lock makes all others wait behind it.

    A statement that would wait longer raises LockNotAvailableError.
    """
    await connection.execute("select set_config('lock_timeout', $1, true)", f"{round(seconds * 1000)}ms")
