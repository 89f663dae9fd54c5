"""Files that are sent while they are made: how they end."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from analytics_service.downloads import Download, opened
from analytics_service.exports import MEDIA, FileFormat, disposition, export
from event_core.errors import DatabaseUnavailable
from tests.unit.test_exports import COLUMNS, FORMATS, batches_of, row_of


class Source:
    """Rows of a query, which fails after ``good`` batches, or never ends; notes its own end."""

    def __init__(self, good: int, problem: Exception | None = None) -> None:
        self._good = good
        self._problem = problem
        self.given = 0
        self.ended = asyncio.Event()
        self.cleaned = False

    async def batches(self) -> AsyncGenerator[Sequence[Any]]:
        try:
            while self.given < self._good:
                self.given += 1
                yield [row_of(user_id="u" * 1000, events=self.given)]
            if self._problem is not None:
                raise self._problem
            await asyncio.Event().wait()
        finally:
            self.ended.set()
            await asyncio.sleep(0.01)  # a rollback's answer is waited for
            self.cleaned = True


@pytest.mark.parametrize("form", FORMATS)
async def test_what_fails_before_the_first_rows_is_raised_before_anything_is_sent(form: FileFormat) -> None:
    source = Source(0, DatabaseUnavailable("away"))
    with pytest.raises(DatabaseUnavailable):
        await opened(export(source.batches(), COLUMNS, form))
    assert source.cleaned


class Client:
    """The server's side of one request: what was sent, and when the client leaves."""

    def __init__(self, *, slow: bool = False) -> None:
        self.sent: list[dict[str, Any]] = []
        self.leaves = asyncio.Event()
        self._slow = slow

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if self._slow and message.get("body"):
            await asyncio.Event().wait()

    async def receive(self) -> Any:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def complete(self) -> bool:
        return self.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def download(source: Source, client: Client, form: FileFormat = "csv") -> None:
    chunks = await opened(export(source.batches(), COLUMNS, form))
    await Download(chunks, MEDIA[form].type, {"Content-Disposition": disposition("events", form)})(
        {"type": "http"}, client.receive, client.send
    )


@pytest.mark.parametrize("form", FORMATS)
async def test_an_error_midway_never_looks_like_a_whole_file(form: FileFormat) -> None:
    source, client = Source(3, DatabaseUnavailable("away")), Client()
    await download(source, client, form)
    assert len(client.sent) > 1 or form == "parquet"
    assert not client.complete
    assert source.cleaned
    if form == "parquet":
        with pytest.raises(pa.ArrowInvalid):
            parquet.read_table(io.BytesIO(client.body))


@pytest.mark.parametrize("slow", [False, True], ids=["while the query works", "while bytes wait to be sent"])
async def test_a_client_that_leaves_ends_the_query(slow: bool) -> None:
    source, client = Source(5), Client(slow=slow)
    loading = asyncio.create_task(download(source, client))
    while not client.body:
        await asyncio.sleep(0.01)
    assert not source.ended.is_set()
    client.leaves.set()
    async with asyncio.timeout(5):
        await loading
    assert source.cleaned, "the query's own end was waited for"
    assert not client.complete


async def test_the_servers_end_ends_the_query_too() -> None:
    source, client = Source(5), Client(slow=True)
    loading = asyncio.create_task(download(source, client))
    while not client.body:
        await asyncio.sleep(0.01)
    loading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loading
    assert source.cleaned


async def test_a_whole_file_has_its_headers_and_its_end() -> None:
    client = Client()
    chunks = await opened(export(batches_of([row_of()]), COLUMNS, "csv"))
    await Download(chunks, MEDIA["csv"].type, {"Content-Disposition": disposition("events", "csv")})(
        {"type": "http"}, client.receive, client.send
    )
    assert client.complete
    headers = dict(client.sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/csv")
    assert headers[b"content-disposition"] == b'attachment; filename="events.csv"'
    assert b"content-length" not in headers
