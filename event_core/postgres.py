"""Postgres: the only maker of asyncpg pools, and the check that the database has a schema this code knows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from event_core import instants
from event_core.errors import DatabaseUnavailable, SchemaMismatch
from event_core.migrations import known_revisions
from event_core.settings import PostgresSettings, mask

CLOSE_SECONDS = 3.0
CONNECTION_ERRORS = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What is wrong with a connection, not with a statement."""
IDLE_IN_TRANSACTION_SECONDS = 60
"""A process that hangs, or was stopped, within a transaction holds locks that all others wait for: the server ends it then."""

Connection = PoolConnectionProxy
"""A connection lent by a pool."""


def open_pool(
    settings: PostgresSettings,
    *,
    size: int,
    application: str,
    server_settings: dict[str, str] | None = None,
    init: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
) -> asyncpg.Pool:
    """A pool of 0 to ``size`` connections, made when they are needed: it opens (``opened``) while the database is down.

    ``init`` is called with each connection that is made. ``command_timeout`` bounds every answer: with a frozen server
    ``asyncio.wait_for`` would not return.
    """
    return asyncpg.create_pool(
        settings.database_url,
        min_size=0,
        max_size=size,
        timeout=min(10.0, settings.database_timeout_seconds),
        command_timeout=settings.database_timeout_seconds,
        init=init,
        server_settings={
            "application_name": application,
            "timezone": "UTC",
            "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_SECONDS * 1000),
            **(server_settings or {}),
        },
    )


@contextlib.asynccontextmanager
async def opened(pool: asyncpg.Pool) -> AsyncGenerator[asyncpg.Pool]:
    """``pool`` open within the block; closed within ``CLOSE_SECONDS`` even where the server is frozen."""
    await pool
    try:
        yield pool
    finally:
        closing = asyncio.ensure_future(pool.close())
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        if not closing.done():
            closing.cancel()
            pool.terminate()


async def instants_as_integers(connection: Connection) -> None:
    """For a pool whose statements take many times: a timestamptz may be given as ``event_core.instants`` or a datetime; what is
    read is a datetime."""
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=instants.encode, decoder=instants.decode, format="tuple"
    )


async def check_schema(connection: Connection) -> None:
    """Returns where the database stands at the newest migration this code knows.

    Raises:
        DatabaseUnavailable: it is older or empty: the migration has yet to run (retriable).
        SchemaMismatch: it is newer than this code.
    """
    known = known_revisions()
    try:
        revision = await connection.fetchval("select version_num from alembic_version")
    except asyncpg.UndefinedTableError:
        revision = None
    if revision == known[-1]:
        return
    if revision is None or revision in known:
        raise DatabaseUnavailable(
            f"the database's schema is {revision or 'empty'}, this version needs {known[-1]}: run python -m tools.migrate",
            retry_after=5,
        )
    raise SchemaMismatch(f"the database's schema {revision} is newer than this version knows ({known[-1]}): upgrade it")


class PostgresPing:
    """Postgres as a health check: it answers, and has the schema."""

    name = "postgres"

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def ping(self) -> None:
        """Raises where no connection is to be had or the schema is not the one needed."""
        async with self._pool.acquire() as connection:
            await check_schema(connection)


def unavailable(error: BaseException, settings: PostgresSettings) -> DatabaseUnavailable:
    """``error`` as the platform's own, naming the address and nothing secret."""
    return DatabaseUnavailable(
        f"PostgreSQL at {mask(settings.database_url)} does not answer: {error!r}",
        retry_after=2,
        sqlstate=error.sqlstate if isinstance(error, asyncpg.PostgresError) else None,
    )
