"""A file that is sent while it is made: ends its source when the client leaves, and never looks whole when it is not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from event_core.errors import PlatformError
from event_core.telemetry import get_logger

log = get_logger(__name__)


async def opened(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """``chunks``, of which the first is there already: what fails until then is raised here, and gets an error reply of its own
    instead of a file cut short."""
    try:
        first = await anext(chunks, b"")
    except BaseException:
        await chunks.aclose()
        raise

    async def everything() -> AsyncGenerator[bytes]:
        async with contextlib.aclosing(chunks):
            yield first
            async for chunk in chunks:
                yield chunk

    return everything()


class Download(Response):
    """Streams ``chunks`` and closes it in any case. After an error midway the chunked transfer's end is left out, and the server
    breaks the connection."""

    def __init__(
        self, chunks: AsyncGenerator[bytes], media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._chunks = chunks
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Tasks of our own, cancelled once: Starlette's way would cancel every wait of the query's cleaning up, too.
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait({sending, leaving})
            await self._chunks.aclose()
        if sending.cancelled():
            return
        try:
            sending.result()
        except PlatformError as error:
            log.warning("an export was cut short", problem=error.message, error_code=error.code)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
