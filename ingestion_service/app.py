"""The map of the ingestion service: what it is made of, and the order in which that opens and closes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from event_core.clock import Clock, utc_now
from event_core.health import Health, Ping, health_router
from event_core.http import RequestContext, install_error_handlers
from event_core.telemetry import Tracing
from ingestion_service import __version__
from ingestion_service.documented import documented_routes
from ingestion_service.door import Door
from ingestion_service.errors import STATUSES
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import Publisher
from ingestion_service.request import BodyReader, InFlight
from ingestion_service.routes import PostCollect, PostEvent
from ingestion_service.settings import IngestionSettings
from ingestion_service.status import collector_state, status_router


@dataclass
class Deps:
    """What the service works with; tests pass fakes. ``pings``: any of them is enough to take events."""

    publisher: Publisher
    pings: list[Ping]
    metrics: Metrics
    tracing: Tracing
    clock: Clock = utc_now


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
    door = Door(settings, deps.publisher, deps.metrics, deps.clock)
    in_flight = InFlight(settings.ingestion_max_inflight_bytes)

    def reader(most: int, setting: str) -> BodyReader:
        return BodyReader(
            most=most, setting=setting, seconds=settings.ingestion_body_timeout_seconds, in_flight=in_flight
        )

    shared = (door, deps.metrics, deps.tracing, deps.clock)
    one = reader(settings.ingestion_max_body_bytes, "INGESTION_MAX_BODY_BYTES")
    many = reader(settings.ingestion_max_batch_bytes, "INGESTION_MAX_BATCH_BYTES")
    hot: dict[tuple[str, str], ASGIApp] = {
        ("POST", "/events"): PostEvent("/events", settings.limits, one, *shared),
        ("POST", "/api/v1/collect"): PostCollect("/api/v1/collect", settings.limits, many, *shared),
    }
    app = _documented_app(settings, deps, door, hot)
    rest = RequestContext(app)
    if not settings.ingestion_cors_origins:
        return _Dispatch(hot, rest)
    return CORSMiddleware(
        _Dispatch(hot, rest),
        allow_origins=settings.ingestion_cors_origins,
        allow_credentials=settings.ingestion_cors_credentials,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Request-ID", "X-Process-Time", "Retry-After"],
        max_age=600,
    )


def _documented_app(
    settings: IngestionSettings, deps: Deps, door: Door, hot: dict[tuple[str, str], ASGIApp]
) -> FastAPI:
    """What is not hot, and the documentation of all."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, deps.tracing.shutdown)
            await deps.publisher.start()
            stack.push_async_callback(deps.publisher.stop)
            yield {}

    app = FastAPI(
        title="Event collector",
        summary="Events over HTTP into Kafka: a 2xx means durable, also while Kafka is away.",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would name the host that the client claims to have asked
    )
    install_error_handlers(app, STATUSES)
    app.router.routes.extend(documented_routes(hot))
    health = Health(
        settings.service_name,
        __version__,
        deps.pings,
        any_is_enough=True,
        more=lambda: collector_state(deps.publisher, deps.metrics),
    )
    app.include_router(status_router(settings, deps.publisher, deps.metrics, health, door, deps.clock))
    app.include_router(health_router(health, deps.metrics.registry))
    return app
