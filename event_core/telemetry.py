"""Logs as JSON lines with trace ids, and OpenTelemetry traces that follow an event through Kafka's headers.

Nothing here runs per event while tracing is off. The sampler is OpenTelemetry's own setting (OTEL_TRACES_SAMPLER,
OTEL_TRACES_SAMPLER_ARG); the wire form is W3C Trace Context's ``traceparent``.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Any

import stamina.instrumentation
import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, Tracer

from event_core.settings import ServiceSettings

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_ZERO_TRACE, _ZERO_SPAN = "0" * 32, "0" * 16


def _add_trace_ids(_logger: Any, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        line["trace_id"] = f"{context.trace_id:032x}"
        line["span_id"] = f"{context.span_id:016x}"
    return line


class _Seldom(logging.Filter):
    """Lets a library's line through once in a while: during an outage aiokafka says the same ten times a second."""

    def __init__(self, library: str, seconds: float) -> None:
        super().__init__()
        self._library = library
        self._seconds = seconds
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._library):
            return True
        line = (record.name, str(record.msg))
        now = time.monotonic()
        if now - self._last.get(line, -self._seconds) < self._seconds:
            return False
        self._last[line] = now
        return True


def configure_logging(settings: ServiceSettings) -> None:
    """Every log line of the process, the libraries' too, becomes one JSON object on standard error."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        _add_trace_ids,
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            # The service's name makes lines of several services sortable in one stream.
            lambda _logger, _method, line: {**line, "service": settings.service_name},
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(_Seldom("aiokafka", seconds=30))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    # Libraries' routine lines say nothing that ours do not; uvicorn's access log would cost more than the request.
    for name in ("aiokafka", "uvicorn", "uvicorn.error", "asyncio", "opentelemetry", "alembic", "stamina"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("uvicorn.access").disabled = True
    stamina.instrumentation.set_on_retry_hooks([])  # we log the first failure and the recovery, not each try between
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose lines carry ``name``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


class Tracing:
    """The process's tracer, or none. Owned by the lifespan: ``shutdown()`` flushes what is not yet exported."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self.tracer: Tracer | None = provider.get_tracer("event_platform") if provider else None

    @classmethod
    def from_settings(cls, settings: ServiceSettings) -> Tracing:
        """Exports over OTLP/HTTP where OTEL_EXPORTER_OTLP_ENDPOINT is set; else traces nothing."""
        if settings.otel_exporter_otlp_endpoint is None:
            return cls(None)
        provider = TracerProvider(resource=Resource.create({"service.name": settings.service_name}))
        endpoint = f"{str(settings.otel_exporter_otlp_endpoint).rstrip('/')}/v1/traces"
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5)))
        return cls(provider)

    def shutdown(self) -> None:
        """Exports what is left (bounded by the exporter's time-out) and stops; blocking, so call it in a thread."""
        if self._provider is not None:
            self._provider.shutdown()


def traceparent_of(span: Span) -> str | None:
    """The ``traceparent`` that makes a later span the child of ``span``; None where ``span`` is not recorded."""
    context = span.get_span_context()
    if not context.is_valid or not span.is_recording():
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def valid_traceparent(traceparent: bytes | None) -> str | None:
    """``traceparent`` as text where it is a usable one, to be passed on as it is."""
    return traceparent.decode() if traceparent and span_context_of(traceparent) else None


def span_context_of(traceparent: str | bytes | None) -> SpanContext | None:
    """The remote span context that ``traceparent`` names; None where it is absent or malformed."""
    if not traceparent:
        return None
    text = traceparent.decode("ascii", "replace") if isinstance(traceparent, bytes) else traceparent
    match = _TRACEPARENT.fullmatch(text)
    if match is None or match[1] == _ZERO_TRACE or match[2] == _ZERO_SPAN:
        return None
    return SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=TraceFlags(int(match[3], 16)))


def context_of(traceparent: str | bytes | None) -> Context:
    """The parent context for a new span; empty where there is no usable ``traceparent``."""
    remote = span_context_of(traceparent)
    return Context() if remote is None else trace.set_span_in_context(NonRecordingSpan(remote), Context())
