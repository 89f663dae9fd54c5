"""What the collector says of itself, and events to try it with: /, /api/v1/health, /api/v1/metrics, /api/v1/test/events."""

from __future__ import annotations

import html
import random
import time
from datetime import datetime
from typing import Annotated, Any, Final, get_args

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from event_core.clock import Clock, rfc3339
from event_core.health import Health
from event_core.http import Problem, error_body
from ingestion_service import __version__
from ingestion_service.collect import collect
from ingestion_service.documented import problem, reply, unavailable
from ingestion_service.door import Door
from ingestion_service.forms import new_id
from ingestion_service.limits import MAX_BATCH_EVENTS, Limits
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import Publisher
from ingestion_service.replies import batch_reply, batch_status
from ingestion_service.schemas import (
    CollectorHealth,
    CollectorMetrics,
    CollectReply,
    LearnerEventType,
    Priority,
)
from ingestion_service.settings import IngestionSettings

MIB: Final = 1 << 20
TEST_TENANT: Final = "test"
TEST_SOURCE: Final = "event-collector-test"
TEST_LEARNERS: Final = 100

_TITLE: Final = "Event collector"
_PURPOSE: Final = "Takes events over HTTP and publishes them to Kafka. A 2xx means durable, also while Kafka is away."
_LINKS: Final = {
    "docs": "/docs",
    "redoc": "/redoc",
    "openapi": "/openapi.json",
    "health": "/api/v1/health",
    "metrics": "/api/v1/metrics",
    "prometheus": "/metrics",
}
_NOT_HERE: Final = "test events are not made where ENVIRONMENT is production: send them to another deployment"


class ServiceDescription(BaseModel):
    """What the service is, and where everything else is."""

    service: str
    description: str
    version: str
    links: dict[str, str]
    endpoints: Annotated[dict[str, str], Field(description="Method and path -> what it is for")]


def status_router(
    settings: IngestionSettings, publisher: Publisher, metrics: Metrics, health: Health, door: Door, clock: Clock
) -> APIRouter:
    """The routes. ``health`` asks the dependencies; ``door`` takes the test events."""
    router = APIRouter()

    @router.get(
        "/",
        summary="What this service is, and where everything else is",
        tags=["operations"],
        operation_id="describeService",
        response_model=ServiceDescription,
        responses={
            200: {
                "description": "As JSON; as a small page where the client asks for HTML",
                "content": {"text/html": {"schema": {"type": "string"}}},
            }
        },
    )
    async def describe(request: Request) -> Response:
        said = _description(settings, request.app.openapi())
        headers = {"Vary": "Accept"}
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(_page(said), headers=headers)
        return JSONResponse(said, headers=headers)

    @router.get(
        "/api/v1/health",
        summary="State of the collector; degraded, but ready, while events wait on disk",
        tags=["operations"],
        operation_id="collectorHealth",
        response_model=CollectorHealth,
        responses={
            200: {"description": "Ready; `degraded` while Kafka or the disk is away, or events wait on disk"},
            503: {"model": CollectorHealth, "description": "Events reach neither Kafka nor the disk"},
        },
    )
    async def collector_health() -> JSONResponse:
        ready, report = await health.report()
        return JSONResponse(_health(report), status_code=200 if ready else 503)

    @router.get(
        "/api/v1/metrics",
        summary="The collector's counts since it started, as JSON",
        tags=["operations"],
        operation_id="collectorMetrics",
    )
    async def collector_metrics() -> CollectorMetrics:
        status = publisher.status()
        return CollectorMetrics(
            events_processed_total=int(metrics.accepted.total + metrics.duplicates.total),
            events_per_second=_events_per_second(metrics),
            kafka_writes_total=status.kafka_writes,
            dlq_events_total=int(metrics.registry.get_sample_value("ingestion_dead_letters_total") or 0),
            buffer_events_count=status.buffered_events,
            avg_processing_time_ms=_mean_ms(metrics),
            p99_processing_time_ms=round(metrics.throughput.percentile_ms(0.99), 2),
        )

    @router.post(
        "/api/v1/test/events",
        summary="Make learner events and send them, to try the platform",
        tags=["events"],
        operation_id="sendTestEvents",
        response_model=None,
        responses={
            200: reply("All accepted", CollectReply),
            207: reply("Some accepted; `results` says which were not", CollectReply),
            403: problem("ENVIRONMENT is production", "forbidden", _NOT_HERE),
            422: problem(
                "`count` is out of range", "invalid_request", "count: Input should be less than or equal to 1000"
            ),
            503: unavailable(),
        },
    )
    async def send_test_events(
        request: Request, count: Annotated[int, Query(ge=1, le=MAX_BATCH_EVENTS, description="How many")] = 1
    ) -> Response:
        if settings.environment == "production":
            said = error_body(Problem("forbidden", _NOT_HERE), request_id=request.state.request_id)
            return Response(said, 403, media_type="application/json")
        began = time.perf_counter()
        now = clock()
        body = made_up_events(count, now)
        batch = collect(body, now, Limits())  # ours: the limits that are set are not meant for it
        fates = await door.take_all(batch.items, None, lambda _: body)
        status = batch_status(fates)
        ended = time.perf_counter()
        metrics.requests.inc(1, str(status))
        metrics.seconds.observe(ended - began, str(status))
        metrics.throughput.add(ended, fates.total, ended - began)
        return JSONResponse(batch_reply(batch.batch_id, fates, (ended - began) * 1000), status_code=status)

    return router


def collector_state(publisher: Publisher, metrics: Metrics) -> dict[str, Any]:
    """The fields of health that are the collector's own; ``degraded`` while events wait on disk."""
    status = publisher.status()
    return {
        "buffer_status": {
            "buffered_batches": status.buffered_batches,
            # Without events there is only what is reserved for a full disk.
            "buffer_size_mb": round(status.buffer_bytes / MIB, 2) if status.buffered_events else 0.0,
        },
        "throughput_metrics": {
            "events_per_second": _events_per_second(metrics),
            "avg_processing_time_ms": _mean_ms(metrics),
        },
        "degraded": status.spooling or status.buffered_events > 0,
    }


def _health(report: dict[str, Any]) -> dict[str, Any]:
    """Of the report of all, what S4 names."""
    names = ("status", "kafka_connected", "buffer_status", "throughput_metrics", "uptime_seconds")
    return {name: report[name] for name in names}


def _events_per_second(metrics: Metrics) -> float:
    return round(metrics.throughput.events_per_second(time.perf_counter()), 1)


def _mean_ms(metrics: Metrics) -> float:
    return round(metrics.throughput.mean_ms(), 2)


def made_up_events(count: int, now: datetime) -> bytes:
    """The body of a batch of ``count`` new learner events that happen ``now``."""
    chance = random.Random()  # noqa: S311  # test data is no secret
    return orjson.dumps(
        [
            {
                "event_id": new_id(),
                "learner_id": f"learner_{number % TEST_LEARNERS + 1:03d}",
                "tenant_id": TEST_TENANT,
                "event_type": chance.choice(get_args(LearnerEventType)),
                "priority": chance.choice(get_args(Priority)),
                "timestamp": rfc3339(now),
                "source_service": TEST_SOURCE,
                "event_data": {"action": "test", "number": number},
            }
            for number in range(count)
        ]
    )


def _description(settings: IngestionSettings, openapi: dict[str, Any]) -> dict[str, Any]:
    return {
        "service": settings.service_name,
        "description": _PURPOSE,
        "version": __version__,
        "links": _LINKS,
        "endpoints": {
            f"{method.upper()} {path}": operation["summary"]
            for path, operations in openapi["paths"].items()
            for method, operation in operations.items()
        },
    }


def _page(said: dict[str, Any]) -> str:
    links = "".join(f'<li><a href="{path}">{name}</a>' for name, path in said["links"].items())
    endpoints = "".join(
        f"<tr><td><code>{html.escape(name)}</code><td>{html.escape(summary)}"
        for name, summary in said["endpoints"].items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_TITLE}</title><h1>{_TITLE} {said["version"]}</h1>'
        f"<p>{html.escape(said['description'])}<ul>{links}</ul><table>{endpoints}</table>"
    )
