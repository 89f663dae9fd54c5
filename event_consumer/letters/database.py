"""A connection for dead letters, with what goes wrong as the platform's own errors."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import asyncpg

from event_consumer.verdict import Verdict, judge
from event_core.postgres import Connection, unavailable
from event_core.settings import PostgresSettings

_CONNECTION_ERRORS = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@contextlib.asynccontextmanager
async def borrowed(pool: asyncpg.Pool, settings: PostgresSettings) -> AsyncGenerator[Connection]:
    """A connection of ``pool``. Raises DatabaseUnavailable where waiting mends what went wrong."""
    try:
        async with pool.acquire() as connection:
            yield connection
    except asyncpg.PostgresError as error:
        if judge(error.sqlstate, constraint=getattr(error, "constraint_name", None)) in (Verdict.WAIT, Verdict.SLOW):
            raise unavailable(error, settings) from error
        raise
    except _CONNECTION_ERRORS as error:
        raise unavailable(error, settings) from error
