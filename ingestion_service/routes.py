"""POST /events and POST /api/v1/collect as plain ASGI endpoints.

FastAPI's machinery per request costs more than everything these endpoints do, so they are documented there but served here.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import orjson
from opentelemetry.trace import SpanKind, Status, StatusCode
from pydantic_core import from_json
from starlette.types import Receive, Scope, Send

from event_core.clock import Clock
from event_core.dead_letters import HEADER_DEAD_LETTER_ID
from event_core.errors import InvalidEvent, MalformedBody, PlatformError, TooLarge, Unavailable
from event_core.http import UNEXPECTED, Problem, error_body, error_headers, status_of
from event_core.protocol import BODY_COMPLETE
from event_core.telemetry import Tracing, context_of, get_logger, traceparent_of, valid_traceparent
from ingestion_service.accept import accept
from ingestion_service.cloudevents import Mode, batched, binary, cloudevent_id, mode_of, structured
from ingestion_service.collect import Batch, collect, original_of, sent_id
from ingestion_service.delivery import Stored
from ingestion_service.door import Door
from ingestion_service.errors import STATUSES, BodyTimeout
from ingestion_service.forms import Accepted, Form, Refused
from ingestion_service.limits import Limits
from ingestion_service.metrics import Metrics
from ingestion_service.replies import SPOOLED_REPLY, batch_reply, batch_status
from ingestion_service.request import BodyReader, ClientGone, Head

log = get_logger(__name__)

_JSON = (b"content-type", b"application/json")
_CLOSE = (b"connection", b"close")
_DEAD_LETTER_ID = HEADER_DEAD_LETTER_ID.encode()
_UNPARSED = frozenset({"not_an_object", "too_deep", "too_wide"})
"""Refusals of bodies that are no object, or were never parsed: nothing is kept of them."""


def _is_replay(scope: Scope) -> bool:
    """Whether the event is a dead letter's: who sends it keeps the letter, and notes on it what is wrong now."""
    return any(name == _DEAD_LETTER_ID for name, _ in scope["headers"])


class Endpoint(ABC):
    """What both endpoints do alike: read, time, count, render errors. A subclass answers in ``_answer``."""

    def __init__(
        self,
        path: str,
        limits: Limits,
        reader: BodyReader,
        door: Door,
        metrics: Metrics,
        tracing: Tracing,
        clock: Clock,
    ) -> None:
        self._path = path
        self._limits = limits
        self._reader = reader
        self._door = door
        self._metrics = metrics
        self._tracer = tracing.tracer
        self._now = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        head = Head.of(scope)
        headers: list[tuple[bytes, bytes]] = [_JSON]
        events = 0
        try:
            if self._tracer is None:
                # Not tracing ourselves is no reason to cut a client's trace off from the consumer's.
                traceparent = valid_traceparent(head.headers.get(b"traceparent"))
                status, reply, events = await self._answer(head, receive, traceparent, scope, began)
            else:
                status, reply, events = await self._traced(head, receive, scope, began)
        except PlatformError as error:
            if isinstance(error, InvalidEvent):
                self._metrics.rejected.inc(1, error.reason)
            status, reply = status_of(error, STATUSES), error_body(Problem.of(error), request_id=head.request_id)
            headers.extend((name.lower().encode(), text.encode()) for name, text in error_headers(error).items())
            if isinstance(error, (TooLarge, BodyTimeout)) and not scope.get(BODY_COMPLETE):
                headers.append(_CLOSE)  # the rest of the body would hold the connection open
        except ClientGone:
            return
        except Exception as error:
            log.error("a request failed unexpectedly", request_id=head.request_id, exc_info=error)
            status, reply = 500, error_body(UNEXPECTED, request_id=head.request_id)
        now = time.perf_counter()
        elapsed = now - began
        label = str(status)
        self._metrics.requests.inc(1, label)
        self._metrics.seconds.observe(elapsed, label)
        self._metrics.throughput.add(now, events, elapsed)
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    *headers,
                    (b"content-length", b"%d" % len(reply)),
                    (b"x-request-id", head.request_id.encode()),
                    (b"x-process-time", b"%.6f" % elapsed),
                ],
            }
        )
        await send({"type": "http.response.body", "body": reply})

    async def _traced(self, head: Head, receive: Receive, scope: Scope, began: float) -> tuple[int, bytes, int]:
        assert self._tracer is not None
        with self._tracer.start_as_current_span(
            f"POST {self._path}",
            context=context_of(head.headers.get(b"traceparent")),
            kind=SpanKind.SERVER,
            record_exception=False,
        ) as span:
            span.set_attribute("http.request.method", "POST")
            span.set_attribute("http.route", self._path)
            try:
                status, reply, events = await self._answer(head, receive, traceparent_of(span), scope, began)
            except PlatformError as error:
                span.set_status(Status(StatusCode.ERROR, error.code))
                raise
            span.set_attribute("http.response.status_code", status)
            span.set_attribute("messaging.batch.message_count", events)
            return status, reply, events

    @abstractmethod
    async def _answer(
        self, head: Head, receive: Receive, traceparent: str | None, scope: Scope, began: float
    ) -> tuple[int, bytes, int]:
        """(status, reply, events in it)."""

    async def _batch_answer(
        self, batch: Batch, body: bytes, traceparent: str | None, scope: Scope, began: float
    ) -> tuple[int, bytes, int]:
        verbose = b"verbose=1" in scope["query_string"].split(b"&")
        fates = await self._door.take_all(
            batch.items, traceparent, original_of(body, self._limits), verbose=verbose, keep=not _is_replay(scope)
        )
        if batch.corrected:
            self._metrics.corrected.inc(batch.corrected)
        status = batch_status(fates)
        reply = batch_reply(batch.batch_id, fates, (time.perf_counter() - began) * 1000)
        return status, orjson.dumps(reply), fates.total


class PostCollect(Endpoint):
    """POST /api/v1/collect: up to a thousand learner events."""

    async def _answer(
        self, head: Head, receive: Receive, traceparent: str | None, scope: Scope, began: float
    ) -> tuple[int, bytes, int]:
        body = await self._reader.read(head, receive)
        return await self._batch_answer(collect(body, self._now(), self._limits), body, traceparent, scope, began)


class PostEvent(Endpoint):
    """POST /events: one event in either form, or CloudEvents in any mode."""

    async def _answer(
        self, head: Head, receive: Receive, traceparent: str | None, scope: Scope, began: float
    ) -> tuple[int, bytes, int]:
        body = await self._reader.read(head, receive)
        mode = mode_of(head.headers)
        if mode is Mode.BATCHED:
            status, reply, events = await self._batch_answer(
                batched(body, self._now(), self._limits), body, traceparent, scope, began
            )
            return 202 if status == 200 else status, reply, events
        try:
            try:
                ticket = self._door.admit(self._accept(mode, body, scope), traceparent)
            except InvalidEvent as error:
                await self._keep(body, error, mode, scope)
                raise
            del body  # parsed and raw forms are many times the record's size: what waits is the record alone
            stored = await self._door.finish(ticket)
        except Unavailable as error:
            self._metrics.unavailable.inc(1, error.code)
            raise
        status_text = b"duplicate" if ticket.duplicate else b"accepted"
        if stored is Stored.DISK and not ticket.duplicate:
            return 202, SPOOLED_REPLY % (status_text, ticket.event_id), 1
        return 202, b'{"status":"%s","event_id":"%s"}' % (status_text, ticket.event_id), 1

    def _accept(self, mode: Mode | None, body: bytes, scope: Scope) -> Accepted:
        if mode is None:
            return accept(body, self._now(), self._limits)
        if mode is Mode.STRUCTURED:
            return structured(body, self._now(), self._limits)
        return binary(scope["headers"], body, self._now(), self._limits)

    async def _keep(self, body: bytes, error: InvalidEvent, mode: Mode | None, scope: Scope) -> None:
        """Makes a dead letter of what parsed as an object."""
        if isinstance(error, MalformedBody) or error.reason in _UNPARSED or _is_replay(scope):
            return
        event_id, form, headers = None, Form.EVENT, []
        if mode is Mode.BINARY:
            sent = dict(scope["headers"])
            event_id = cloudevent_id({"id": sent.get(b"ce-id", b"").decode("latin-1")})
            headers = [
                (name.decode("latin-1"), value)
                for name, value in scope["headers"]
                if name.startswith(b"ce-") or name == b"content-type"
            ]
        else:
            fields = from_json(body)
            event_id = sent_id(fields) if mode is None else cloudevent_id(fields)
            if mode is None and "event_type" in fields and "event_name" not in fields:
                form = Form.PRODUCT
        await self._door.keep_one(Refused(0, event_id, body, error), form, headers)
