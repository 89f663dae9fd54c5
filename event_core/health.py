"""Health is a property of the dependencies: each one can be pinged. Routes: /health, /health/live, /health/ready, /metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from event_core.clock import rfc3339, utc_now

PING_TIMEOUT_SECONDS = 3.0


class Ping(Protocol):
    """A dependency that can be asked whether it is usable now."""

    @property
    def name(self) -> str:
        """``kafka``, ``postgres`` …: becomes the check's name and the field ``<name>_connected``."""

    def ping(self) -> Coroutine[Any, Any, None]:
        """Returns where the dependency is usable; raises with a message for people where it is not."""


class FakePing:
    """A dependency whose health the test decides."""

    def __init__(self, name: str, problem: Exception | None = None) -> None:
        self.name = name
        self.problem = problem

    async def ping(self) -> None:
        if self.problem is not None:
            raise self.problem


class Health:
    """Asks every dependency at once, each for at most ``PING_TIMEOUT_SECONDS``."""

    def __init__(
        self,
        service: str,
        version: str,
        pings: Sequence[Ping],
        *,
        any_is_enough: bool = False,
        more: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        """``any_is_enough``: the service can do its work with any one of them; then it is *degraded*, but ready. ``more`` is what
        else belongs into the report; its ``degraded`` says that not all is as it should be."""
        self._more = more or dict
        self._enough = any if any_is_enough else all
        self._service = service
        self._version = version
        self._pings = pings
        self._started = time.monotonic()
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def _check(self, ping: Ping) -> dict[str, Any]:
        began = time.perf_counter()
        # One question at a time per dependency, however many ask; and one that does not end is left behind, not waited for:
        # asyncio's own time-outs wait for the cancellation, which a frozen server can hold up for long.
        task = self._asking.get(ping.name)
        if task is None:
            task = self._asking[ping.name] = asyncio.create_task(ping.ping())
            task.add_done_callback(lambda ended: self._answered(ping.name, ended))
        await asyncio.wait({task}, timeout=PING_TIMEOUT_SECONDS)
        if not task.done():
            task.cancel()
            return {"status": "down", "error": f"no answer within {PING_TIMEOUT_SECONDS:g} s"}
        if task.cancelled():
            return {"status": "down", "error": "the question was cancelled"}
        if (error := task.exception()) is not None:
            return {"status": "down", "error": str(error) or type(error).__name__}
        return {"status": "up", "latency_ms": round((time.perf_counter() - began) * 1000, 2)}

    def _answered(self, name: str, task: asyncio.Task[None]) -> None:
        self._asking.pop(name, None)
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits for it any more

    async def report(self) -> tuple[bool, dict[str, Any]]:
        """(ready, body): ready where every dependency answered, or any where that is enough."""
        results = await asyncio.gather(*(self._check(ping) for ping in self._pings))
        up = [result["status"] == "up" for result in results]
        ready = self._enough(up)
        more = self._more()
        body: dict[str, Any] = {
            "status": "healthy"
            if all(up) and not more.pop("degraded", False)
            else "degraded"
            if ready
            else "unhealthy",
            "service": self._service,
            "version": self._version,
            "timestamp": rfc3339(utc_now()),
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "checks": {ping.name: result for ping, result in zip(self._pings, results, strict=True)},
        }
        for ping, result in zip(self._pings, results, strict=True):
            body[f"{ping.name}_connected"] = result["status"] == "up"
        more.pop("degraded", None)
        body |= more
        return ready, body


def health_router(health: Health, registry: CollectorRegistry) -> APIRouter:
    """The four operational routes that every service has."""
    router = APIRouter(tags=["operations"])

    @router.get(
        "/health",
        summary="State of the service and of each dependency (503 where it cannot do its work)",
        responses={503: {"description": "It cannot do its work"}},
    )
    async def get_health() -> JSONResponse:
        ready, body = await health.report()
        return JSONResponse(body, status_code=200 if ready else 503)

    @router.get("/health/live", summary="200 while the process answers: restart it where this fails")
    async def get_live() -> dict[str, str]:
        return {"status": "alive"}

    @router.get(
        "/health/ready",
        summary="200 where the service can do its work: route traffic only then",
        responses={503: {"description": "Not now"}},
    )
    async def get_ready() -> JSONResponse:
        ready, body = await health.report()
        return JSONResponse(
            {"status": "ready" if ready else "not_ready", "checks": body["checks"]}, status_code=200 if ready else 503
        )

    @router.get("/metrics", summary="Metrics in Prometheus' text form", response_class=PlainTextResponse)
    async def get_metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router
