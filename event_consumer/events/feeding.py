"""Adds to the rollups, each table in the same order always, so that no two writers wait for each other in a circle."""

from __future__ import annotations

from collections.abc import Sequence

from event_consumer.database import columns
from event_consumer.events.rollups import Additions
from event_core.postgres import Connection
from event_core.sqlfiles import load_sql

COUNT_EVENTS = load_sql("event_consumer.events.sql", "count_events")
BUMP_DAYS = load_sql("event_consumer.events.sql", "bump_days")
BUMP_FIRST_SEEN = load_sql("event_consumer.events.sql", "bump_first_seen")
ADD_USER_DAYS = load_sql("event_consumer.events.sql", "add_user_days")
SET_USER_DAYS = load_sql("event_consumer.events.sql", "set_user_days")
ADD_FIRST_SEEN = load_sql("event_consumer.events.sql", "add_first_seen")
MOVE_FIRST_SEEN = load_sql("event_consumer.events.sql", "move_first_seen")
COUNT_TENANTS = load_sql("event_consumer.events.sql", "count_tenants")


async def add(connection: Connection, added: Additions, slot: int) -> None:
    """Within the transaction that stores the rows; ``slot`` is locked by it."""
    await connection.execute(COUNT_EVENTS, *columns(added.counts), slot)
    # Days as text: asyncpg makes an infinity of the first and the last date there is.
    await connection.execute(BUMP_DAYS, [day.isoformat() for day in added.days], slot)
    if added.user_days:
        months = [(tenant, month.isoformat(), user, days) for tenant, month, user, days in added.user_days]
        await _add_missing(connection, ADD_USER_DAYS, SET_USER_DAYS, months)
        if await _add_missing(connection, ADD_FIRST_SEEN, MOVE_FIRST_SEEN, added.first_seen):
            await connection.execute(BUMP_FIRST_SEEN, slot)


async def count_tenants(connection: Connection, tenants: Sequence[tuple[str, int, int, int]], slot: int) -> None:
    """``tenants``: (tenant_id, stored, duplicates, dead letters), distinct and in order."""
    if tenants:
        await connection.execute(COUNT_TENANTS, *columns(tenants), slot)


async def _add_missing(connection: Connection, insert: str, update: str, rows: Sequence[tuple[object, ...]]) -> int:
    """Inserts ``rows``, updates those that are there; how many had to be changed."""
    if _affected(await connection.execute(insert, *columns(rows))) == len(rows):
        return 0
    return _affected(await connection.execute(update, *columns(rows)))


def _affected(status: str) -> int:
    return int(status.rpartition(" ")[2])
