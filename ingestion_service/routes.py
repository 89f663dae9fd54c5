"""POST /events as a plain ASGI endpoint: one read, one validation, one append, one shared future.

FastAPI's machinery per request costs more than everything this endpoint does, so it is documented there but served here.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.types import Receive, Scope, Send

from event_core.clock import Clock
from event_core.codec import Record, encode
from event_core.errors import InvalidEvent, PlatformError, TooLarge, Unavailable
from event_core.event import MAX_EVENT_BYTES
from event_core.http import UNEXPECTED, Problem, error_body, error_headers, request_id_from, status_of
from event_core.telemetry import Tracing, context_of, get_logger, traceparent_of, valid_traceparent
from ingestion_service.accept import accept
from ingestion_service.errors import STATUSES, BodyTimeout, UnsupportedEncoding
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import Publisher
from ingestion_service.settings import IngestionSettings

log = get_logger(__name__)

_JSON = (b"content-type", b"application/json")


class ClientGone(Exception):
    """The client closed the connection before its body was complete: there is nobody to answer."""


class PostEvent:
    """ASGI endpoint of POST /events."""

    def __init__(
        self, settings: IngestionSettings, publisher: Publisher, metrics: Metrics, tracing: Tracing, clock: Clock
    ) -> None:
        self._publisher = publisher
        self._metrics = metrics
        self._tracer = tracing.tracer
        self._now = clock
        self._max_body = settings.ingestion_max_body_bytes
        self._body_timeout = settings.ingestion_body_timeout_seconds
        self._topic = settings.kafka_topic
        # Label look-ups cost more than the counting itself: one child per status is kept.
        self._by_status: dict[int, tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        given_id = traceparent = encoding = None
        length = 0
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = int(value)  # the HTTP parser has refused anything but digits
            elif name == b"content-encoding":
                encoding = value
            elif name == b"x-request-id":
                given_id = value
            elif name == b"traceparent":
                traceparent = value
        request_id = request_id_from(given_id)
        headers: list[tuple[bytes, bytes]] = [_JSON]
        try:
            event_id = await self._store(await self._read(receive, length, encoding), traceparent)
            status = 202
            reply = b'{"status":"accepted","event_id":"%s"}' % event_id
            self._metrics.accepted.inc()
        except PlatformError as error:
            status, reply = self._refuse(error, request_id)
            headers.extend((name.lower().encode(), text.encode()) for name, text in error_headers(error).items())
        except ClientGone:
            return
        except Exception as error:
            log.error("a request failed unexpectedly", request_id=request_id, exc_info=error)
            status, reply = 500, error_body(UNEXPECTED, request_id=request_id)
        elapsed = time.perf_counter() - began
        self._count(status, elapsed)
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    *headers,
                    (b"content-length", b"%d" % len(reply)),
                    (b"x-request-id", request_id.encode()),
                    (b"x-process-time", b"%.6f" % elapsed),
                ],
            }
        )
        await send({"type": "http.response.body", "body": reply})

    async def _read(self, receive: Receive, length: int, encoding: bytes | None) -> bytes:
        if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
            raise UnsupportedEncoding(
                "Content-Encoding: only identity is taken by this version; send the body as it is"
            )
        if length > self._max_body:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    chunk: bytes = message.get("body", b"")
                    size += len(chunk)
                    if size > self._max_body:
                        raise self._too_large()
                    chunks.append(chunk)
                    if not message.get("more_body"):
                        return b"".join(chunks)
        except TimeoutError:
            raise BodyTimeout(f"the body was not complete after {self._body_timeout:g} s: send it again") from None

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is larger than {self._max_body:,} bytes: send less metadata, or raise INGESTION_MAX_BODY_BYTES",
            reason="body_too_large",
        )

    async def _store(self, body: bytes, traceparent: bytes | None) -> bytes:
        """Accepts, encodes and publishes, under a span where tracing is on. Returns the event's id."""
        if self._tracer is None:
            # Not tracing ourselves is no reason to cut a client's trace off from the consumer's.
            record = self._encode(body, valid_traceparent(traceparent))
            del body  # parsed and raw forms are many times the record's size: what waits for Kafka is the record alone
            return await self._publish(record)
        with self._tracer.start_as_current_span(
            "POST /events", context=context_of(traceparent), kind=SpanKind.SERVER, record_exception=False
        ) as span:
            span.set_attribute("http.request.method", "POST")
            span.set_attribute("http.route", "/events")
            span.set_attribute("messaging.destination.name", self._topic)
            try:
                record = self._encode(body, traceparent_of(span))
                del body
                event_id = await self._publish(record)
            except PlatformError as error:
                span.set_status(Status(StatusCode.ERROR, error.code))
                raise
            span.set_attribute("messaging.message.id", event_id.decode())
            return event_id

    def _encode(self, body: bytes, traceparent: str | None) -> Record:
        record = encode(accept(body, self._now()), traceparent)
        if len(record.value) > MAX_EVENT_BYTES:
            raise TooLarge(
                f"the event is larger than {MAX_EVENT_BYTES:,} bytes once encoded: send less metadata",
                reason="event_too_large",
            )
        return record

    async def _publish(self, record: Record) -> bytes:
        # Shielded: many requests wait for one acknowledgement, and one that is cancelled must not take the others along.
        await asyncio.shield(self._publisher.publish(record))
        return record.headers[0][1]

    def _refuse(self, error: PlatformError, request_id: str) -> tuple[int, bytes]:
        if isinstance(error, InvalidEvent):
            self._metrics.rejected.labels(error.reason).inc()
        elif isinstance(error, Unavailable):
            self._metrics.unavailable.labels(error.code).inc()
        return status_of(error, STATUSES), error_body(Problem.of(error), request_id=request_id)

    def _count(self, status: int, elapsed: float) -> None:
        children = self._by_status.get(status)
        if children is None:
            label = str(status)
            children = self._by_status[status] = (
                self._metrics.requests.labels(label),
                self._metrics.seconds.labels(label),
            )
        children[0].inc()
        children[1].observe(elapsed)
