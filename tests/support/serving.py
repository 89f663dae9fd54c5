"""An app behind the platform's own server, in the test's event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import httpx
from fastapi import FastAPI

from analytics_service.errors import STATUSES
from event_core.http import RequestContext, bind, install_error_handlers, serve


class Served:
    """``stop`` is what SIGTERM sets; ``ended`` returns once the server is done."""

    def __init__(self, url: str, stop: asyncio.Event, serving: asyncio.Task[bool]) -> None:
        self.url = url
        self.stop = stop
        self._serving = serving
        self.client = httpx.AsyncClient(base_url=url, timeout=20)

    async def ended(self, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            await asyncio.shield(self._serving)


@contextlib.asynccontextmanager
async def served(app: FastAPI, stop: asyncio.Event) -> AsyncGenerator[Served]:
    """``app`` with the service's errors and request ids."""
    install_error_handlers(app, STATUSES)
    listener = bind("127.0.0.1", 0, "the test's port")
    serving = asyncio.create_task(serve(RequestContext(app), [listener], metrics=None, stop=stop))
    port = listener.getsockname()[1]
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                break
    this = Served(f"http://127.0.0.1:{port}", stop, serving)
    try:
        async with this.client:
            yield this
    finally:
        stop.set()
        await serving
