"""GET /analytics/stream: the live view as server-sent events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from analytics_service.live import Listener, Live
from analytics_service.questions.base import name
from event_core.telemetry import get_logger

log = get_logger(__name__)

HEARTBEAT_SECONDS = 10
SEND_SECONDS = 30.0
"""A listener whose connection takes nothing for so long is given up."""


class _Stream(EventSourceResponse):
    def __init__(self, live: Live, listener: Listener) -> None:
        super().__init__(
            listener.messages(),
            ping=HEARTBEAT_SECONDS,
            ping_message_factory=lambda: ServerSentEvent(comment="still here", sep="\n"),
            send_timeout=SEND_SECONDS,
        )
        self._live = live
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.info("a live stream was given up: its connection takes nothing", seconds=SEND_SECONDS)
        finally:
            self._live.leave(self._listener)


class LiveParameters(BaseModel):
    """The query string. A name that is none of these is refused: a mistyped filter must not show everything."""

    model_config = ConfigDict(extra="forbid")

    tenant_id: Annotated[str | None, Field(description="Only this tenant; else all of them")] = None


_DESCRIPTION = """\
Server-sent events from the stored data, once a second, as long as the connection stays:

* `counts`: `{tenant_id, stored_total, per_second, freshness: {watermark, age_seconds}, asked_at}`: how many events the consumers
  ever stored, and how many per second since the message before (null in the first).
* `events`: `{events: [...]}`: the newest events that were not shown yet, at most 20, newest first by `timestamp`, of the last ten
  minutes; without metadata and context. Of a tenant: those among the platform's newest 10,000.
* `problem`: `{error_code, error_message, retryable}`: the database does not answer. Once; `counts` go on by themselves.
* `lost`: `{messages}`: this connection was too slow, and so many messages were left out.

An idle connection carries a comment every 10 seconds."""


def live_router(live: Live, errors: Mapping[int | str, dict[str, Any]] | None = None) -> APIRouter:
    """The endpoint. ``errors`` documents its 422 (InvalidQuery) and 503 (Overloaded)."""
    router = APIRouter(prefix="/analytics", tags=["analytics"])

    @router.get(
        "/stream",
        summary="What is stored, second by second",
        description=_DESCRIPTION,
        response_class=EventSourceResponse,
        response_description="Server-sent events",
        operation_id="stream",
        responses=dict(errors or {}),
    )
    async def stream(asked: Annotated[LiveParameters, Query()]) -> EventSourceResponse:
        topic = None if asked.tenant_id is None else name(asked.tenant_id, "tenant_id")
        return _Stream(live, live.join(topic))

    return router
