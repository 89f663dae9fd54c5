"""Reading a request that carries events: its head, its body within bounds, decompressed."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from starlette.types import Receive, Scope

from event_core.errors import Overloaded, TooLarge
from event_core.http import request_id_from
from event_core.protocol import BODY_COMPLETE
from ingestion_service.errors import BodyTimeout
from ingestion_service.inflate import inflate


class ClientGone(Exception):
    """The client closed the connection before its body was complete: there is nobody to answer."""


class Head(NamedTuple):
    """What matters of a request's headers; of one that comes twice the last counts."""

    headers: dict[bytes, bytes]
    request_id: str
    complete: bool
    """Whether the whole body has come already."""

    @classmethod
    def of(cls, scope: Scope) -> Head:
        headers = dict(scope["headers"])
        return cls(headers, request_id_from(headers.get(b"x-request-id")), scope.get(BODY_COMPLETE, False))


class BodyReader:
    """Reads bodies. ``most`` counts decompressed bytes; ``in_flight`` bounds what unfinished bodies hold together."""

    def __init__(self, *, most: int, setting: str, seconds: float, in_flight: InFlight) -> None:
        self._most = most
        self._setting = setting
        self._seconds = seconds
        self._in_flight = in_flight

    async def read(self, head: Head, receive: Receive) -> bytes:
        """The body, decompressed.

        Raises:
            TooLarge, UnsupportedEncoding, MalformedBody, BodyTimeout, Overloaded: as clients are told.
            ClientGone: nobody is there to be told.
        """
        length = head.headers.get(b"content-length")
        if length is not None and int(length) > self._most:  # the HTTP parser has refused anything but digits
            raise self._too_large()
        if head.complete:
            message = await receive()
            body: bytes = message.get("body", b"")
            if message.get("more_body") or message["type"] == "http.disconnect":
                body = await self._rest(body, message["type"], receive)
        else:
            body = await self._rest(b"", "", receive)
        if len(body) > self._most:
            raise self._too_large()
        encoding = head.headers.get(b"content-encoding")
        return body if encoding is None else inflate(body, encoding, self._most)

    async def _rest(self, begun: bytes, kind: str, receive: Receive) -> bytes:
        if kind == "http.disconnect":
            raise ClientGone
        chunks, size = [begun], len(begun)
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    chunk: bytes = message.get("body", b"")
                    size += len(chunk)
                    if size > self._most:
                        raise self._too_large()
                    self._in_flight.add(len(chunk))
                    chunks.append(chunk)
                    if not message.get("more_body"):
                        return b"".join(chunks)
        except TimeoutError:
            raise BodyTimeout(f"the body was not complete after {self._seconds:g} s: send it again") from None
        finally:
            self._in_flight.remove(sum(map(len, chunks)) - len(begun))

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is larger than {self._most:,} bytes: send less at a time, or raise {self._setting}",
            reason="body_too_large",
        )


class InFlight:
    """Bytes of bodies that are not complete yet."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0

    def add(self, size: int) -> None:
        """Raises Overloaded beyond the most."""
        if self._bytes + size > self._most:
            raise Overloaded(
                "too many bodies are being read: send fewer at a time, or raise INGESTION_MAX_INFLIGHT_BYTES"
            )
        self._bytes += size

    def remove(self, size: int) -> None:
        self._bytes -= size
