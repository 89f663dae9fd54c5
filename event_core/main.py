"""How every service starts: command line, settings, listeners, logs, the event loop, the exit code."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import uvloop
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from event_core.errors import ConfigurationError, PlatformError
from event_core.http import bind, metrics_app, serve
from event_core.settings import ServiceSettings, describe, load, unknown_settings
from event_core.telemetry import configure_logging, get_logger

log = get_logger(__name__)

S = TypeVar("S", bound=ServiceSettings)

_EPILOG = "Settings come from environment variables, then .env, then defaults; --print-config lists them."


class Built:
    """A service ready to be served: set ``app`` before it is. ``ports_setting`` is named where a port is taken."""

    app: ASGIApp

    def __init__(
        self, *, ports: Sequence[int], ports_setting: str, registry: CollectorRegistry, app: ASGIApp | None = None
    ) -> None:
        self.ports = ports
        self.ports_setting = ports_setting
        self.registry = registry
        self.stop = asyncio.Event()
        self.failure: BaseException | None = None
        if app is not None:
            self.app = app

    def fail(self, error: BaseException) -> None:
        """Ends the service with exit code 1 because of ``error``."""
        self.failure = error
        self.stop.set()


class Service(Generic[S]):
    """What a command runs: ``pipeline`` is its name where there are several."""

    def __init__(self, settings: type[S], build: Callable[[S], Built], pipeline: str = "") -> None:
        self.settings = settings
        self.build = build
        self.pipeline = pipeline


def run_service(name: str, purpose: str, *services: Service[Any]) -> None:
    """Runs the command ``python -m name`` to its end, or ``python -m name PIPELINE`` where there are several ``services``: then
    the first is the default.

    Exit codes: 0 after an orderly end, 1 after a failure, 2 for wrong settings.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=purpose, epilog=_EPILOG)
    parser.add_argument(
        "--print-config", action="store_true", help="print each setting with where it comes from, and exit"
    )
    by_name = {service.pipeline: service for service in services}
    default = services[0].pipeline
    if default:
        parser.add_argument("pipeline", nargs="?", choices=by_name, default=default, help=f"what to run ({default})")
    arguments = parser.parse_args()
    service = by_name[arguments.pipeline if default else ""]
    try:
        settings = load(service.settings)
        if arguments.print_config:
            _print_config(settings)
            return
        sys.exit(uvloop.run(_serve(settings, service.build)))
    except ConfigurationError as error:
        print(f"{name}: {error.message}", file=sys.stderr)
        sys.exit(2)


def _print_config(settings: ServiceSettings) -> None:
    rows = describe(settings)
    width = max(len(variable) for variable, _, _ in rows)
    for variable, value, origin in rows:
        print(f"{variable:<{width}}  {value or '(unset)':<40}  {origin}")
    for warning in unknown_settings(type(settings)):
        print(f"warning: {warning}", file=sys.stderr)


def _tune_garbage_collection() -> None:
    """Everything made so far lives as long as the process, and a batch of thousands of rows is no garbage: with Python's
    defaults the collector took a fifth of the consumer's time to find out both, again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _serve(settings: S, build: Callable[[S], Built]) -> int:
    configure_logging(settings)
    for warning in unknown_settings(type(settings)):
        log.warning(warning)
    built = build(settings)
    listeners = [bind(settings.host, port, built.ports_setting) for port in built.ports]
    metrics = None
    if settings.metrics_port is not None and settings.metrics_port not in built.ports:
        metrics = (metrics_app(built.registry), bind(settings.host, settings.metrics_port, "METRICS_PORT"))
    _tune_garbage_collection()
    log.info("listening", host=settings.host, ports=[listener.getsockname()[1] for listener in listeners])
    orderly = await serve(built.app, listeners, metrics=metrics, stop=built.stop)
    if built.failure is not None or not orderly:
        failure = built.failure
        if isinstance(failure, PlatformError):  # its message says all there is
            log.error("the service ends after a failure", problem=failure.message, error_code=failure.code)
        else:
            log.error("the service ends after a failure", exc_info=failure)
        return 1
    log.info("ended in order")
    return 0
