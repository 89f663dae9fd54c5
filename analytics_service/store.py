"""Asks Postgres. The connections are read-only and every query has a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Protocol

import asyncpg

from analytics_service.errors import QueryTooSlow
from analytics_service.metrics import Metrics
from analytics_service.queries import CountQuery
from analytics_service.settings import AnalyticsSettings
from event_core.errors import DatabaseUnavailable, PlatformError
from event_core.postgres import Connection, open_pool, unavailable
from event_core.sqlfiles import load_sql
from event_core.telemetry import Tracing

COUNT_EVENTS = load_sql("analytics_service.sql", "count_events")

_UNANSWERED = ("08", "53", "57", "40", "55", "3D", "42P01")
"""SQLSTATEs with which asking again can help: connection, resources, operator, rollback, lock; and a database or a table that
the migration has yet to make."""


class Store(Protocol):
    """Answers questions from what is stored."""

    async def count(self, query: CountQuery) -> int:
        """Raises DatabaseUnavailable or QueryTooSlow."""


class MemoryStore:
    """A store for tests: ``events`` are (timestamp, event_name, user_id)."""

    def __init__(self) -> None:
        self.events: list[tuple[object, str, str]] = []
        self.problem: PlatformError | None = None

    async def count(self, query: CountQuery) -> int:
        if self.problem is not None:
            raise self.problem
        return sum(
            query.from_ts <= at < query.to_ts  # type: ignore[operator]  # the first of each is a datetime
            and query.event_name in (None, name)
            and query.user_id in (None, user)
            for at, name, user in self.events
        )


def open_reader(settings: AnalyticsSettings) -> asyncpg.Pool:
    """A pool whose sessions can only read."""
    return open_pool(
        settings,
        size=settings.analytics_pool_size,
        application="analytics_service",
        server_settings={
            "default_transaction_read_only": "on",
            "statement_timeout": str(int(settings.analytics_statement_timeout_seconds * 1000)),
        },
    )


class PostgresStore:
    """Answers from ``public.events``."""

    def __init__(self, pool: asyncpg.Pool, settings: AnalyticsSettings, metrics: Metrics, tracing: Tracing) -> None:
        self._pool = pool
        self._settings = settings
        self._metrics = metrics
        self._tracer = tracing.tracer

    async def count(self, query: CountQuery) -> int:
        async with self._asking("count") as connection:
            found: int = await connection.fetchval(
                COUNT_EVENTS, query.from_ts, query.to_ts, query.event_name, query.user_id
            )
        return found

    @contextlib.asynccontextmanager
    async def _asking(self, name: str) -> AsyncGenerator[Connection]:
        """A connection, timed and traced as the question ``name``; errors become the platform's own."""
        began = time.perf_counter()
        span = self._tracer.start_as_current_span(f"query {name}") if self._tracer else contextlib.nullcontext()
        try:
            with span:
                # Bounded: with every connection taken, waiting longer than a query may run helps nobody.
                async with asyncio.timeout(self._settings.analytics_statement_timeout_seconds + 5):
                    async with self._pool.acquire() as connection:
                        yield connection
        except asyncpg.QueryCanceledError as error:
            self._metrics.failures.labels(QueryTooSlow.code).inc()
            limit = self._settings.analytics_statement_timeout_seconds
            raise QueryTooSlow(
                f"the query took more than {limit:g} s: ask for a shorter range, or raise ANALYTICS_STATEMENT_TIMEOUT_SECONDS"
            ) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            sqlstate = getattr(error, "sqlstate", None)
            if sqlstate is None or sqlstate.startswith(_UNANSWERED):
                self._metrics.failures.labels(DatabaseUnavailable.code).inc()
                raise unavailable(error, self._settings) from error
            raise
        finally:
            self._metrics.query_seconds.labels(name).observe(time.perf_counter() - began)
