"""The map of a pipeline's service: the loop beside the operational routes, in the order they open and close."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from event_consumer import __version__
from event_consumer.admin import STATUSES as ADMIN_STATUSES
from event_consumer.letters.errors import STATUSES as LETTER_STATUSES
from event_consumer.metrics import Metrics
from event_core.errors import PlatformError, Unavailable
from event_core.health import Health, Ping, health_router
from event_core.http import RequestContext, install_error_handlers
from event_core.telemetry import get_logger

log = get_logger(__name__)

DRAIN_SECONDS = 12
"""How long the loop may take to write what is in hand once the process was asked to end."""

Pipeline = Callable[[asyncio.Event], Awaitable[None]]


@dataclass
class Deps:
    """What the service works with. ``pipeline`` runs until its event is set; ``on_failure`` is told why it ended early."""

    pipeline: Pipeline
    pings: list[Ping]
    metrics: Metrics
    on_failure: Callable[[BaseException], None]
    routers: list[APIRouter] = field(default_factory=list)
    """Routes beside the operational ones."""
    title: str = "Event consumer"
    summary: str = "Events from Kafka into Postgres, each once."


def create_app(service_name: str, deps: Deps) -> ASGIApp:
    """The service as an ASGI application; its lifespan runs the pipeline."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        stop = asyncio.Event()
        running = asyncio.ensure_future(deps.pipeline(stop))

        def ended(task: asyncio.Future[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is None and not stop.is_set():
                error = RuntimeError("the pipeline ended by itself")
            if error is not None:
                deps.on_failure(error)

        running.add_done_callback(ended)
        try:
            yield {}
        finally:
            stop.set()
            done, _late = await asyncio.wait({running}, timeout=DRAIN_SECONDS)
            if not done:
                log.warning("the pipeline did not end in time; what it had in hand will be read again")
                running.cancel()
                await asyncio.wait({running}, timeout=2)

    app = FastAPI(
        title=deps.title,
        summary=deps.summary,
        version=__version__,
        lifespan=lifespan,
    )
    statuses: dict[type[PlatformError], int] = {Unavailable: 503, **ADMIN_STATUSES, **LETTER_STATUSES}
    install_error_handlers(app, statuses)
    app.include_router(health_router(Health(service_name, __version__, deps.pings), deps.metrics.registry))
    for router in deps.routers:
        app.include_router(router)
    return RequestContext(app)
