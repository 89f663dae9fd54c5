"""The map of the analytics service: what it is made of, and the order in which that opens and closes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from analytics_service import __version__
from analytics_service.desk import Desk
from analytics_service.errors import STATUSES
from analytics_service.live import Live, asker
from analytics_service.live_routes import live_router
from analytics_service.metrics import Metrics
from analytics_service.routes import ERRORS, question_router, show_examples
from analytics_service.settings import AnalyticsSettings
from analytics_service.store import Store
from event_core.health import Health, Ping, health_router
from event_core.http import JsonBodies, RequestContext, install_error_handlers
from event_core.telemetry import Tracing

MAX_BODY_BYTES = 2 << 20
"""Of a posted question; the largest has seven filters of a hundred names of 256 characters."""

_DESCRIPTION = """\
Questions about the stored events. Each reply says what exactly was counted (`semantics`), how fresh it is (`freshness`: what
Kafka held at the watermark is stored), whether the numbers are exact (`approximate`, `error`) and which buckets may still grow
(`incomplete_buckets`). The example replies are real ones. The same is to be had in SQL: docs/schema.md, schema `analytics`.
"""


@dataclass
class Deps:
    """What the service works with; ``resources`` is opened and closed with it."""

    store: Store
    pings: list[Ping]
    metrics: Metrics
    tracing: Tracing
    resources: contextlib.AbstractAsyncContextManager[Any]
    stop: asyncio.Event
    """Set when the process is asked to end."""


def create_app(settings: AnalyticsSettings, deps: Deps) -> ASGIApp:
    """The service as an ASGI application."""
    live = Live(asker(deps.store.fetch), deps.stop)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, deps.tracing.shutdown)
            await stack.enter_async_context(deps.resources)
            stack.push_async_callback(live.close)
            yield {}

    app = FastAPI(
        title="Analytics service",
        summary="What the stored events say.",
        description=_DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
    )
    install_error_handlers(app, STATUSES)
    app.include_router(question_router(Desk(deps.store, settings, deps.metrics)))
    app.include_router(live_router(live, ERRORS))
    app.include_router(health_router(Health(settings.service_name, __version__, deps.pings), deps.metrics.registry))
    show_examples(app)
    return RequestContext(JsonBodies(app, MAX_BODY_BYTES))
