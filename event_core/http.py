"""What every HTTP service does alike: request ids, one error shape, listeners, an orderly end.

Error shape: ``{error_code, error_message, timestamp, request_id, retryable, details?}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid4

from event_core.clock import rfc3339, utc_now
from event_core.errors import ConfigurationError, InvalidEvent, PlatformError, Unavailable
from event_core.protocol import BoundedHttpProtocol
from event_core.telemetry import get_logger

log = get_logger(__name__)

GRACEFUL_SECONDS = 12
"""How long open requests may take to finish once the process was asked to end; the rest of 30 s is for what comes after."""
KEEP_ALIVE_SECONDS = 75
"""Above the 60 s of common load balancers, so that they and not we close idle connections."""

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def request_id_from(value: bytes | None) -> str:
    """The client's X-Request-ID where it is 1–128 printable ASCII characters, else a new UUID."""
    if value is not None and _REQUEST_ID.fullmatch(value):
        return value.decode("ascii")
    return str(uuid4())


class Problem(NamedTuple):
    """What an error reply says."""

    code: str
    message: str
    retryable: bool = False
    details: dict[str, Any] | None = None

    @classmethod
    def of(cls, error: PlatformError) -> Problem:
        return cls(
            error.reason if isinstance(error, InvalidEvent) else error.code,
            error.message,
            error.retriable,
            error.details,
        )


UNEXPECTED = Problem("internal_error", "an unexpected error; the service's log has it under this request_id")


def error_body(problem: Problem, *, request_id: str) -> bytes:
    """One error in the platform's one shape."""
    body: dict[str, Any] = {
        "error_code": problem.code,
        "error_message": problem.message,
        "timestamp": rfc3339(utc_now()),
        "request_id": request_id,
        "retryable": problem.retryable,
    }
    if problem.details:
        body["details"] = problem.details
    return orjson.dumps(body)


def error_headers(error: PlatformError) -> dict[str, str]:
    """Retry-After (seconds) where waiting helps."""
    return {"Retry-After": str(error.retry_after)} if isinstance(error, Unavailable) else {}


class RequestContext:
    """ASGI middleware: takes or makes X-Request-ID, and sets it and X-Process-Time (seconds) on the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        request_id = request_id_from(given)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-process-time", b"%.6f" % (time.perf_counter() - began)),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class JsonBodies:
    """ASGI middleware: what is posted is JSON whatever the client calls it (curl calls it a form), and of more than ``most``
    bytes a 413 that is not read on."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        others = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
        scope = {**scope, "headers": [*others, (b"content-type", b"application/json")]}
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise HTTPException(413, f"the body has more than {self._most:,} bytes")
            return message

        await self._app(scope, counted, send)


def install_error_handlers(app: FastAPI, statuses: Mapping[type[PlatformError], int]) -> None:
    """Renders every error of ``app`` in the one shape; ``statuses`` is the service's one table of error class -> status."""

    def respond(request: Request, status: int, error: Problem, headers: Mapping[str, str]) -> Response:
        body = error_body(error, request_id=request.state.request_id)
        return Response(body, status, dict(headers), media_type="application/json")

    @app.exception_handler(PlatformError)
    async def on_platform_error(request: Request, error: PlatformError) -> Response:
        return respond(request, status_of(error, statuses), Problem.of(error), error_headers(error))

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        # The input is not echoed: it may hold NaN or a lone surrogate, which would make a 500 of the 422.
        problems = [
            {"field": ".".join(str(part) for part in problem["loc"][1:]), "reason": problem["msg"]}
            for problem in error.errors()
        ]
        named = "; ".join(f"{problem['field']}: {problem['reason']}" for problem in problems)
        return respond(request, 422, Problem("invalid_request", named, details={"errors": problems}), {})

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code, "http_error")
        return respond(request, error.status_code, Problem(code, str(error.detail)), error.headers or {})

    @app.exception_handler(Exception)
    async def on_fault(request: Request, error: Exception) -> Response:
        log.error("a request failed unexpectedly", path=request.url.path, exc_info=error)
        return respond(request, 500, UNEXPECTED, {})


def status_of(error: PlatformError, statuses: Mapping[type[PlatformError], int]) -> int:
    """The status of the nearest class of ``error`` in the table; 500 where none is."""
    for kind in type(error).__mro__:
        if kind in statuses:
            return statuses[kind]
    return 500


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which ends the process by the signal instead of with exit code 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening TCP socket.

    Raises:
        ConfigurationError: the port is taken; names the setting that moves it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port} ({error.strerror}): stop what uses it, or set {setting}"
        ) from None
    listener.set_inheritable(True)
    return listener


def metrics_app(registry: CollectorRegistry) -> ASGIApp:
    """Answers every GET with the metrics: the metrics-only listener of METRICS_PORT."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            response = Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
            await response(scope, receive, send)

    return app


def _server(app: ASGIApp, *, lifespan: bool) -> _Server:
    config = uvicorn.Config(
        app,
        http=BoundedHttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on" if lifespan else "off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        server_header=False,
        proxy_headers=False,
    )
    return _Server(config)


async def serve(
    app: ASGIApp,
    listeners: Sequence[socket.socket],
    *,
    metrics: tuple[ASGIApp, socket.socket] | None,
    stop: asyncio.Event,
) -> bool:
    """Serves ``app`` on every listener until SIGTERM, SIGINT or ``stop``; then finishes what is open.

    Returns False where the app could not start or ended by itself.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = _server(app, lifespan=True)
    servers = [server.serve(sockets=list(listeners))]
    everything = [server]
    if metrics is not None:
        second = _server(metrics[0], lifespan=False)
        everything.append(second)
        servers.append(second.serve(sockets=[metrics[1]]))

    async def end_when_asked() -> None:
        await stop.wait()
        for one in everything:
            one.should_exit = True

    waiting = asyncio.create_task(end_when_asked())
    try:
        await asyncio.gather(*servers)
    finally:
        waiting.cancel()
    return server.started and stop.is_set()
