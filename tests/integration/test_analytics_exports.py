"""Exports of events by way of the database's cursor, and over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import asyncpg
import httpx
import psycopg
import pyarrow.parquet as parquet
import pytest
from fastapi import FastAPI
from starlette.responses import Response

from analytics_service.downloads import Download, opened
from analytics_service.errors import QueryTooSlow
from analytics_service.exports import MEDIA, Column, export
from analytics_service.questions.base import Row
from analytics_service.questions.events import EventsQuestion
from tests.oracles.events import Event
from tests.oracles.listing import listed
from tests.support.reading import Reader, only
from tests.support.serving import Served, served

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_export_has_everything_in_the_range_whatever_the_page(
    connection: psycopg.Connection[Any], reader: Reader, form: Literal["csv", "jsonl", "parquet"]
) -> None:
    stored = only(
        connection,
        [
            Event(
                START + timedelta(seconds=n // 2),
                f"u{n % 3}",
                metadata={"n": n, "text": 'a"b\n,ß'},
                variant="A" if n % 2 else None,
            )
            for n in range(100)
        ],
    )
    question = EventsQuestion(from_ts=START, to_ts=START + timedelta(seconds=45), format=form, user_id=["u0", "u1"])
    data = reader.export(question, form)
    found: list[Any]
    if form == "csv":
        lines = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
        found = [
            {**line, "metadata": json.loads(line["metadata"]), "variant": line["variant"] or None} for line in lines
        ]
    elif form == "jsonl":
        found = [json.loads(line) for line in data.splitlines()]
    else:
        found = parquet.read_table(io.BytesIO(data)).to_pylist()
        for row in found:
            assert row["timestamp"].tzinfo is not None
            row["metadata"] = json.loads(row["metadata"])
    expected = listed(stored, question.from_ts, question.to_ts, {"user_id": ["u0", "u1"]}, newest=False)
    by_id = {event.event_id: event for event in stored}
    assert [UUID(row["event_id"]) for row in found] == expected
    for row, event in ((row, by_id[UUID(row["event_id"])]) for row in found):
        assert (row["user_id"], row["metadata"], row["variant"]) == (event.user_id, event.metadata, event.variant)


class Sending:
    """A server with one long file, whose rows come from a cursor."""

    def __init__(self, url: str) -> None:
        self.pool = asyncpg.create_pool(url, min_size=0, max_size=2, server_settings={"application_name": "sending"})
        self.app = FastAPI()
        self.app.add_api_route("/file", self._file, response_model=None)

    async def _file(self, rows: int, fail_after: int = 10**9) -> Response:
        statement = (
            "select repeat(md5(n::text), 30) as user_id, 1 / (n - $2) as events from generate_series(1, $1::int) as n"
        )

        async def some() -> AsyncGenerator[Sequence[Row]]:
            async with self.pool.acquire() as connection, connection.transaction(readonly=True):
                cursor = await connection.cursor(statement, rows, fail_after)
                try:
                    while found := await cursor.fetch(500):
                        yield found
                except asyncpg.DivisionByZeroError as error:
                    raise QueryTooSlow("the database stopped it") from error

        columns = [Column("user_id", "text"), Column("events", "int4")]
        return Download(await opened(export(some(), columns, "csv")), MEDIA["csv"].type)


@contextlib.asynccontextmanager
async def sending(url: str) -> AsyncGenerator[tuple[Served, Sending]]:
    this = Sending(url)
    async with this.pool, served(this.app, asyncio.Event()) as server:
        yield server, this


def busy(connection: psycopg.Connection[Any]) -> int:
    """Sessions of the export that are within a transaction."""
    row = connection.execute(
        "select count(*) from pg_stat_activity where application_name = 'sending' and state <> 'idle'"
    ).fetchone()
    return int(row[0]) if row else 0


async def test_an_export_is_whole_or_its_connection_breaks(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    async with sending(database_url) as (server, _):
        whole = await server.client.get("/file", params={"rows": 20_000})
        assert (whole.status_code, whole.text.count("\r\n")) == (200, 20_001)
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            await server.client.get("/file", params={"rows": 20_000, "fail_after": 15_000})
        early = await server.client.get("/file", params={"rows": 20_000, "fail_after": 3})
        assert (early.status_code, early.json()["error_code"]) == (422, "query_too_slow")
        assert busy(connection) == 0


async def test_a_client_that_leaves_an_export_ends_its_transaction(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    async with sending(database_url) as (server, this):
        async with server.client.stream("GET", "/file", params={"rows": 5_000_000}) as response:
            chunks = response.aiter_bytes()
            await anext(chunks)
            await asyncio.sleep(0.5)
            assert busy(connection) == 1
        async with asyncio.timeout(5):
            while busy(connection):
                await asyncio.sleep(0.05)
        assert this.pool.get_size() == this.pool.get_idle_size(), "the connection is back, or was ended"
