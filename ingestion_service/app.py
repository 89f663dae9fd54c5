"""The map of the ingestion service: what it is made of, and the order in which that opens and closes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from event_core.clock import Clock, utc_now
from event_core.health import Health, health_router
from event_core.http import RequestContext, install_error_handlers
from event_core.telemetry import Tracing
from ingestion_service import __version__
from ingestion_service.errors import STATUSES
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import Publisher
from ingestion_service.routes import PostEvent
from ingestion_service.schemas import Accepted, ErrorReply, EventIn
from ingestion_service.settings import IngestionSettings


@dataclass
class Deps:
    """What the service works with; tests pass fakes."""

    publisher: Publisher
    metrics: Metrics
    tracing: Tracing
    clock: Clock = utc_now


async def _documented(event: EventIn) -> Accepted:
    """Takes one event and answers once it is durable.

    Any client may retry a 503 or a lost connection with the same `event_id`: the event is stored once.
    """
    raise AssertionError("documented here, served by PostEvent")


def _replies(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorReply} for status in statuses}


class _Dispatch:
    """Sends the hot requests straight to their endpoint and the rest to FastAPI."""

    def __init__(self, hot: dict[tuple[str, str], ASGIApp], rest: ASGIApp) -> None:
        self._hot = hot
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._hot.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        await (endpoint or self._rest)(scope, receive, send)


def create_app(settings: IngestionSettings, deps: Deps) -> ASGIApp:
    """The service as an ASGI application; its lifespan opens and closes the publisher and the tracer."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, deps.tracing.shutdown)
            await deps.publisher.start()
            stack.push_async_callback(deps.publisher.stop)
            yield {}

    app = FastAPI(
        title="Ingestion service",
        summary="Events over HTTP into Kafka: a 2xx means durable.",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would name the host that the client claims to have asked
    )
    install_error_handlers(app, STATUSES)
    post_event = PostEvent(settings, deps.publisher, deps.metrics, deps.tracing, deps.clock)
    route = APIRoute(
        "/events",
        _documented,
        methods=["POST"],
        status_code=202,
        summary="Send one event",
        tags=["events"],
        response_model=Accepted,
        responses=_replies(400, 408, 413, 415, 422, 503),
    )
    route.app = post_event
    app.router.routes.append(route)
    app.include_router(
        health_router(Health(settings.service_name, __version__, [deps.publisher]), deps.metrics.registry)
    )
    return _Dispatch({("POST", "/events"): post_event}, RequestContext(app))
