"""Postgres as the consumer uses it: what an error means, and connections whose outages are the platform's own errors."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

import asyncpg

from event_consumer.verdict import Verdict, judge
from event_core.postgres import CONNECTION_ERRORS, Connection, unavailable
from event_core.settings import PostgresSettings


@contextlib.asynccontextmanager
async def borrowed(pool: asyncpg.Pool, settings: PostgresSettings) -> AsyncGenerator[Connection]:
    """A connection of ``pool``. Raises DatabaseUnavailable where waiting mends what went wrong with it."""
    try:
        async with pool.acquire() as connection:
            yield connection
    except asyncpg.PostgresError as error:
        if verdict_on(error) in (Verdict.WAIT, Verdict.SLOW):
            raise unavailable(_reason(error), settings) from error
        raise
    except CONNECTION_ERRORS as error:
        raise unavailable(_reason(error), settings) from error


def verdict_on(error: asyncpg.PostgresError) -> Verdict:
    """What ``error`` means for what was tried."""
    return judge(error.sqlstate, constraint=getattr(error, "constraint_name", None))


def columns(rows: Sequence[tuple[Any, ...]]) -> Iterable[list[Any]]:
    """``rows`` (at least one) by column, as unnest takes them."""
    return map(list, zip(*rows, strict=True))


def _reason(error: BaseException) -> BaseException:
    """What the server said first, where it did: the client's own words for a connection that it closed say nothing of why."""
    reason, hidden = error, error.__cause__ or error.__context__
    while hidden is not None:
        if isinstance(hidden, asyncpg.PostgresError) and judge(hidden.sqlstate) is Verdict.WAIT:
            reason = hidden
        hidden = hidden.__cause__ or hidden.__context__
    return reason
