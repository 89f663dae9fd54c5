"""The stored events as the analytics service asks for them, one question at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import psycopg

from analytics_service.exports import FileFormat, columns_of, export
from analytics_service.questions.base import Row
from analytics_service.questions.events import EventsQuestion
from tests.oracles.events import Event, clear, store_events


class Reader:
    """Asks as the service does: with its driver, in its role."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._connection: asyncpg.Connection[Any] = self._runner.run(
            asyncpg.connect(
                url,
                server_settings={"timezone": "UTC", "role": "analytics_reader", "plan_cache_mode": "force_custom_plan"},
            )
        )

    def close(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()

    def fetch(self, statement: str, *arguments: object) -> Sequence[Row]:
        found: Sequence[Row] = self._runner.run(self._connection.fetch(statement, *arguments))
        return found

    def page(self, question: EventsQuestion) -> dict[str, Any]:
        """The reply's own part."""
        fields = question.answer(self.fetch(question.statement(), *question.arguments())).fields
        found: dict[str, Any] = json.loads(orjson.dumps(fields, option=orjson.OPT_UTC_Z))
        return found

    def walk(
        self, ask: Callable[..., EventsQuestion], between: Callable[[], object] = lambda: None
    ) -> list[list[UUID]]:
        """The ids of each page, from the first to the last."""
        pages: list[list[UUID]] = []
        cursor = None
        while True:
            page = self.page(ask(cursor=cursor))
            pages.append([UUID(event["event_id"]) for event in page["events"]])
            cursor = page["next_cursor"]
            if cursor is None:
                return pages
            between()

    def export(self, question: EventsQuestion, form: FileFormat) -> bytes:
        """The file, by way of the database's cursor."""

        async def whole() -> bytes:
            async with self._connection.transaction(isolation="repeatable_read", readonly=True):
                statement, arguments = question.exported()
                prepared = await self._connection.prepare(statement)
                columns = columns_of(prepared.get_attributes(), question.columns())

                async def rows() -> AsyncGenerator[Sequence[Row]]:
                    cursor = await prepared.cursor(*arguments)
                    while some := await cursor.fetch(7):
                        yield some

                return b"".join([chunk async for chunk in export(rows(), columns, form)])

        made: Coroutine[Any, Any, bytes] = whole()
        return self._runner.run(made)


def put(connection: psycopg.Connection[Any], some: list[Event]) -> list[Event]:
    """Stores them; with their ids."""
    with connection.transaction():
        ids = store_events(connection, some)
    return [event._replace(event_id=event_id) for event, event_id in zip(some, ids, strict=True)]


def only(connection: psycopg.Connection[Any], some: list[Event]) -> list[Event]:
    with connection.transaction():
        clear(connection)
    return put(connection, some)
