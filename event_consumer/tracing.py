"""Spans of a written batch: one for the batch, linked to its messages' traces, and one in each sampled message's own trace.

So a trace leads from the POST through Kafka to the Postgres write, and the batch's span shows which traces it joins
(OpenTelemetry's messaging conventions: batch spans link to message contexts).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, Tracer

from event_consumer.batch import Batch
from event_core.telemetry import span_context_of
from event_core.topics import HEADER_EVENT_ID, HEADER_TRACEPARENT

MOST_LINKS = 128
"""OpenTelemetry's default limit of links per span; per-message spans stop there too, so that tracing stays bounded."""


class BatchTracer:
    """Traces writes; does nothing where ``tracer`` is None."""

    def __init__(self, tracer: Tracer | None, destination: str) -> None:
        """``destination`` names the store, e.g. ``postgresql``."""
        self._tracer = tracer
        self._destination = destination

    @contextlib.contextmanager
    def writing(self, batch: Batch[Any]) -> Generator[None]:
        """Around the write of ``batch``; an error marks the spans and passes on."""
        if self._tracer is None:
            yield
            return
        sampled = list(_sampled(batch))
        began = time.time_ns()
        problem: BaseException | None = None
        links = [Link(context) for context, _ in sampled]
        with self._tracer.start_as_current_span("write batch", kind=SpanKind.CONSUMER, links=links) as span:
            span.set_attribute("messaging.system", "kafka")
            span.set_attribute("messaging.operation.type", "process")
            span.set_attribute("messaging.batch.message_count", len(batch))
            try:
                yield
            except BaseException as error:
                problem = error
                raise
            finally:
                self._message_spans(sampled, span.get_span_context(), began, problem)

    def _message_spans(
        self, sampled: list[tuple[SpanContext, str]], batch: SpanContext, began: int, problem: BaseException | None
    ) -> None:
        assert self._tracer is not None  # only called while tracing
        ended = time.time_ns()
        for context, event_id in sampled:
            span = self._tracer.start_span(
                f"{self._destination} write",
                context=trace.set_span_in_context(NonRecordingSpan(context)),
                kind=SpanKind.CONSUMER,
                links=[Link(batch)],
                start_time=began,
                attributes={"db.system.name": self._destination, "messaging.message.id": event_id},
            )
            if problem is not None:
                span.set_status(Status(StatusCode.ERROR, type(problem).__name__))
            span.end(ended)


def _sampled(batch: Batch[Any]) -> Generator[tuple[SpanContext, str]]:
    found = 0
    for item in batch.items:
        headers = dict(item.message.headers)
        context = span_context_of(headers.get(HEADER_TRACEPARENT))
        if context is not None and context.trace_flags.sampled:
            yield context, (headers.get(HEADER_EVENT_ID) or b"").decode("ascii", "replace")
            found += 1
            if found == MOST_LINKS:
                return
