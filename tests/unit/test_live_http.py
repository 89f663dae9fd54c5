"""The live view as a browser meets it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import FastAPI

from analytics_service.errors import STATUSES
from analytics_service.live import MAX_LISTENERS, Live
from analytics_service.live_routes import live_router
from event_core.errors import DatabaseUnavailable
from event_core.http import RequestContext, install_error_handlers
from tests.unit.live import scene
from tests.unit.virtual_time import now, run


class Connection:
    """One request to the app, as a server makes it."""

    def __init__(self, live: Live, query: str = "") -> None:
        app = FastAPI()
        install_error_handlers(app, STATUSES)
        app.include_router(live_router(live))
        self._app = RequestContext(app)
        self._scope = {
            "type": "http", "method": "GET", "path": "/analytics/stream", "raw_path": b"/analytics/stream",
            "query_string": query.encode(), "headers": [], "http_version": "1.1", "scheme": "http", "root_path": "",
            "server": ("test", 80), "client": ("test", 1),
        }  # fmt: skip
        self._left = asyncio.Event()
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.complete = False
        self.blocked = False

    async def request(self) -> Connection:
        await self._app(self._scope, self._receive, self._send)
        return self

    def leave(self) -> None:
        self._left.set()

    async def _receive(self) -> Any:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
            return
        self.body += message["body"]
        self.complete = not message.get("more_body", False)
        if self.blocked:
            await asyncio.Event().wait()


def test_the_stream_is_one_of_server_sent_events_with_heartbeats_until_the_client_leaves() -> None:
    async def story() -> None:
        async with scene() as this:
            this.database.problem = DatabaseUnavailable("away")  # so that nothing but heartbeats comes
            connection = Connection(this.live)
            request = asyncio.create_task(connection.request())
            await asyncio.sleep(25)
            assert connection.status == 200
            assert connection.headers[b"content-type"].startswith(b"text/event-stream")
            assert connection.headers[b"cache-control"] == b"no-store"
            assert connection.body.startswith(b"retry: 3000\n\nevent: problem\ndata: {")
            assert connection.body.endswith(b"}\n\n: still here\n\n: still here\n\n")
            assert len(this.live) == 1
            connection.leave()
            await request
            assert len(this.live) == 0

    run(story())


def test_a_message_has_an_id_a_name_and_one_line_of_json() -> None:
    async def story() -> None:
        async with scene() as this:
            this.database.store(1, user_id="a\nb\r\nevent: counts\n\ndata: forged")
            connection = Connection(this.live)
            request = asyncio.create_task(connection.request())
            await asyncio.sleep(0.5)
            _, counts, events, rest = connection.body.decode().split("\n\n")
            assert rest == ""
            for message, name in ((counts, "counts"), (events, "events")):
                number, event, data = message.split("\n")
                assert number.startswith("id: 17698608")
                assert event == f"event: {name}"
                assert data.startswith("data: {")
            connection.leave()
            await request

    run(story())


def test_the_servers_end_ends_the_stream_in_order() -> None:
    async def story() -> None:
        async with scene() as this:
            connection = Connection(this.live)
            request = asyncio.create_task(connection.request())
            await asyncio.sleep(2.5)
            began = now()
            this.stop.set()
            await request
            assert now() - began < 1
            assert connection.complete
            refused = await Connection(this.live).request()
            assert (refused.status, refused.headers[b"retry-after"]) == (503, b"3")

    run(story())


def test_a_connection_that_takes_nothing_is_given_up() -> None:
    async def story() -> None:
        async with scene() as this:
            connection = Connection(this.live)
            connection.blocked = True
            request = asyncio.create_task(connection.request())
            await asyncio.sleep(1)
            assert len(this.live) == 1
            await request
            assert now() < 60
            assert len(this.live) == 0
            assert not connection.complete

    run(story())


def test_what_cannot_be_served_is_an_error_in_the_one_shape() -> None:
    async def story() -> None:
        async with scene() as this:
            for _ in range(MAX_LISTENERS):
                this.live.join(None)
            full = await Connection(this.live).request()
            assert (full.status, json.loads(full.body)["error_code"]) == (503, "overloaded")
            for query, code in (
                ("tenant_id=", "invalid_query"),
                ("tenant=x", "invalid_request"),
                ("tenant_id=%00", "invalid_query"),
            ):
                refused = await Connection(this.live, query).request()
                assert (refused.status, json.loads(refused.body)["error_code"]) == (422, code)

    run(story())
