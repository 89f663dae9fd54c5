"""uvicorn's HTTP protocol with the bounds that it leaves out: on the size of a request's head, and on the time it may take."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together. One chunk of the network may carry it a little further."""
HEAD_SECONDS = 20.0
"""How long a request's head may take, from the connection or from its first byte."""

BODY_COMPLETE = "event_platform.body_complete"
"""Key of the scope: True once the whole body is there, so that an endpoint need not bound its wait for it."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


_H2C = re.compile(rb"\r\nupgrade:[ \t]*h2c[ \t]*(?=\r\n)", re.IGNORECASE)


def _without_h2c(data: bytes) -> bytes:
    """Takes the offer of HTTP/2 out of a head: the parser would take it for an upgrade and leave the body unread, though a server
    may ignore it (RFC 9110, 7.8)."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _H2C.sub(b"", head + end[:2]) + end[2:] + rest


class _JoinedWrites:
    """A transport that sends a response's head together with what is written next: uvicorn writes head and body apart, which
    costs a system call and often a packet of its own."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._held = data
            self._loop.call_soon(self._flush)  # a head whose body is not there yet must not wait for it
            return
        self._transport.write(data)

    def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedHttpProtocol(HttpToolsProtocol):
    """Answers 431 to an endless head, and closes a connection whose head does not come."""

    _head_bytes = 0
    _in_head = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(_JoinedWrites(transport, self.loop))  # type: ignore[arg-type]  # all that uvicorn uses of one
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if b"h2c" in data:
                data = _without_h2c(data)
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head or not self._head_bytes:
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif self._deadline is None:
            self._expect_head()  # a head in parts: only then is a timer worth its cost

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._forget_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        self.scope[BODY_COMPLETE] = True  # type: ignore[literal-required]  # ours, not ASGI's; the request's task runs later
        super().on_message_complete()

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up_head)

    def _forget_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up_head(self) -> None:
        self._deadline = None
        if self._in_head and not self.transport.is_closing():
            self.transport.close()
