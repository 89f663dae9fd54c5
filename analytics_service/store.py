"""Asks Postgres. The connections can only read the schema analytics, and every statement has a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import asyncpg
import orjson

from analytics_service.errors import InvalidQuery, QueryTooSlow
from analytics_service.exports import Column, columns_of
from analytics_service.metrics import Metrics
from analytics_service.questions.base import Cost, Question, Row
from analytics_service.settings import AnalyticsSettings
from event_core.errors import DatabaseUnavailable, Overloaded
from event_core.postgres import Connection, open_pool, unavailable
from event_core.sqlfiles import load_sql
from event_core.telemetry import Tracing, get_logger

log = get_logger(__name__)

STATE = load_sql("analytics_service.sql", "state")
EVENTS_TO_READ = load_sql("analytics_service.sql", "events_to_read")

EXPORT_BYTES = 2 << 20
"""About so much of an export is read at a time: an event may have 200 bytes or 256 KiB."""
FIRST_ROWS, MOST_ROWS = 10, 5_000
RESERVED = 2
"""Connections that no question takes: for versions of kept answers, look-ups of one event, the live view, health."""
PATIENCE_SECONDS = 2.0
"""A question that has no connection after so long is refused: those who wait longer go away, and their work is for nothing."""
LOCK_SECONDS = 5.0
"""Nothing here waits for locks but where somebody changes the schema: that is no fault of the question."""

_UNANSWERED = ("08", "53", "57", "40", "55", "3D", "42P01", "3F", "42883")
"""SQLSTATEs with which asking again can help: connection, resources, operator, rollback, lock; and a database, a schema, a table
or a function that the migration has yet to make."""


class State(NamedTuple):
    """What an answer is as of."""

    version: str
    """The same version, the same answer."""
    watermark: datetime | None
    asked_at: datetime


class Snapshot(Protocol):
    """The database as it was at one moment."""

    async def state(self, question: Question) -> State:
        """As of that moment."""

    async def events_to_read(self, cost: Cost) -> int:
        """How many events an answer must read one by one."""

    async def rows(self, question: Question) -> Sequence[Row]:
        """The answer's rows."""

    async def columns(self, question: Question) -> Sequence[Column]:
        """Of the question's export."""

    def stream(self, question: Question) -> AsyncGenerator[Sequence[Row]]:
        """The rows of the question's export, some at a time."""


class Store(Protocol):
    """Answers questions from what is stored.

    Raises:
        DatabaseUnavailable, Overloaded, QueryTooSlow, InvalidQuery: SQL refuses it.
    """

    async def state(self, question: Question) -> State:
        """As of now."""

    async def fetch(self, name: str, statement: str, *arguments: object) -> Sequence[Row]:
        """The rows of a statement that is no question; ``name`` is the metric's label."""

    def snapshot(self, question: Question) -> contextlib.AbstractAsyncContextManager[Snapshot]:
        """For one question."""


def open_reader(settings: AnalyticsSettings) -> asyncpg.Pool:
    """A pool whose sessions can only read, and only what the role may."""
    limit = settings.analytics_statement_timeout_seconds
    return open_pool(
        # The server's own limit comes first: it says what happened.
        settings.model_copy(update={"database_timeout_seconds": max(settings.database_timeout_seconds, limit + 5)}),
        size=settings.analytics_pool_size + RESERVED,
        application="analytics_service",
        server_settings={
            "role": settings.analytics_database_role,
            "default_transaction_read_only": "on",
            "statement_timeout": str(int(limit * 1000)),
            "lock_timeout": str(int(min(LOCK_SECONDS, limit / 2) * 1000) or 1),
            # Compiling costs more than it saves; a plan that knows the values reads only the partitions it needs.
            "jit": "off",
            "plan_cache_mode": "force_custom_plan",
        },
    )


class PostgresStore:
    """Answers from the schema analytics."""

    def __init__(self, pool: asyncpg.Pool, settings: AnalyticsSettings, metrics: Metrics, tracing: Tracing) -> None:
        self._pool = pool
        self._settings = settings
        self._metrics = metrics
        self._tracer = tracing.tracer
        self._questions = asyncio.Semaphore(settings.analytics_pool_size)

    async def state(self, question: Question) -> State:
        async with self._asking("state") as connection:
            return await _state(connection, question)

    async def fetch(self, name: str, statement: str, *arguments: object) -> Sequence[Row]:
        async with self._asking(name) as connection:
            return await connection.fetch(statement, *arguments)

    @contextlib.asynccontextmanager
    async def snapshot(self, question: Question) -> AsyncGenerator[Snapshot]:
        await self._turn()
        try:
            async with (
                self._asking(question.KIND) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                yield _PostgresSnapshot(connection)
        finally:
            self._questions.release()

    async def _turn(self) -> None:
        """Waits until a question may take a connection; then ``release``."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._questions.acquire()
        except TimeoutError:
            self._metrics.failures.labels(Overloaded.code).inc()
            number = self._settings.analytics_pool_size
            raise Overloaded(
                f"{number} questions are being worked on, as many as there may be: ask again", retry_after=5
            ) from None

    @contextlib.asynccontextmanager
    async def _asking(self, name: str) -> AsyncGenerator[Connection]:
        """A connection, timed and traced as the question ``name``; errors become the platform's own."""
        began = time.perf_counter()
        span = self._tracer.start_as_current_span(f"query {name}") if self._tracer else contextlib.nullcontext()
        limit = self._settings.analytics_statement_timeout_seconds
        connected = False
        try:
            with span:
                async with contextlib.AsyncExitStack() as stack:
                    # With every connection taken, waiting longer than a query may run helps nobody.
                    async with asyncio.timeout(limit):
                        connection = await stack.enter_async_context(self._pool.acquire())
                    connected = True
                    yield connection
        except asyncpg.QueryCanceledError as error:
            self._metrics.failures.labels(QueryTooSlow.code).inc()
            raise QueryTooSlow(
                f"the query took more than {limit:g} s: ask for a shorter range, or raise ANALYTICS_STATEMENT_TIMEOUT_SECONDS"
            ) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            sqlstate = getattr(error, "sqlstate", None)
            if connected and isinstance(error, asyncpg.InvalidParameterValueError):
                self._metrics.failures.labels(InvalidQuery.code).inc()
                raise InvalidQuery(str(error)) from error
            # What fails before there is a session is the database's or the operator's matter: a missing role, say.
            if not connected or sqlstate is None or sqlstate.startswith(_UNANSWERED):
                self._metrics.failures.labels(DatabaseUnavailable.code).inc()
                # Where it is, and as whom we asked, is nobody's business but the operator's.
                log.warning(
                    "a question was not answered", question=name, problem=unavailable(error, self._settings).message
                )
                raise DatabaseUnavailable(
                    "the database does not answer: ask again", retry_after=2, sqlstate=sqlstate
                ) from error
            raise
        finally:
            self._metrics.query_seconds.labels(name).observe(time.perf_counter() - began)


async def _state(connection: Connection, question: Question) -> State:
    [row] = await connection.fetch(STATE, *question.touched())
    return State(row["version"], row["watermark"], row["asked_at"])


class _PostgresSnapshot:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def state(self, question: Question) -> State:
        return await _state(self._connection, question)

    async def events_to_read(self, cost: Cost) -> int:
        found: int = await self._connection.fetchval(
            EVENTS_TO_READ, cost.from_ts, cost.to_ts, orjson.dumps(cost.filters).decode()
        )
        return found

    async def rows(self, question: Question) -> Sequence[Row]:
        return await self._connection.fetch(question.statement(), *question.arguments())

    async def columns(self, question: Question) -> Sequence[Column]:
        statement, _ = question.exported()
        return columns_of((await self._connection.prepare(statement)).get_attributes(), question.columns())

    async def stream(self, question: Question) -> AsyncGenerator[Sequence[Row]]:
        statement, arguments = question.exported()
        cursor = await self._connection.cursor(statement, *arguments)
        number = FIRST_ROWS
        while rows := await cursor.fetch(number):
            yield rows
            size = sum(len(value) for row in rows for value in row.values() if isinstance(value, str))
            number = min(max(1, EXPORT_BYTES * len(rows) // (size or 1)), 2 * number, MOST_ROWS)
