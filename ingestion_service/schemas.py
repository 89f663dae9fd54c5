"""The forms that clients send and get. They document /docs too. Pure.

What is sent is a TypedDict: validation then yields the very dict whose unknown fields become the event's context.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

from annotated_types import Len
from pydantic import BaseModel, ConfigDict, FailFast, Field, WithJsonSchema, with_config
from typing_extensions import TypedDict

from event_core.event import Name
from ingestion_service.limits import MAX_BATCH_EVENTS

EventId = Annotated[
    UUID | None,
    Field(description="The event's identity: sending it again with the same id is safe. Made where it is absent"),
]
# A number is a time too, which a datetime does not document by itself.
Moment = Annotated[
    datetime | None,
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}, {"type": "null"}]}),
]
Timestamp = Annotated[
    Moment,
    Field(description="When it happened: RFC 3339 (no zone means UTC) or epoch seconds; now where it is absent"),
]
LearnerEventType = Literal["interaction", "progress", "assessment", "error", "system"]
Priority = Literal["low", "medium", "high", "critical"]

_BATCH_ID = "550e8400-e29b-41d4-a716-446655440000"
_LEARNER_EVENT: dict[str, Any] = {
    "event_id": "123e4567-e89b-12d3-a456-426614174000",
    "learner_id": "learner_001",
    "tenant_id": "tenant_alpha",
    "event_type": "interaction",
    "timestamp": "2024-01-15T10:30:00Z",
    "source_service": "learning-app",
    "event_data": {"action": "click", "element": "next_button"},
    "metadata": {},
}


def _open(*examples: dict[str, Any]) -> ConfigDict:
    """A form that keeps the fields it does not know."""
    return ConfigDict(extra="allow", json_schema_extra={"examples": list(examples)})


@with_config(
    _open(
        {
            "user_id": "user_123",
            "event_name": "page_view",
            "metadata": {"page": "/checkout", "price": 12.5},
            "timestamp": "2023-01-01T00:00:00Z",
        }
    )
)
class EventIn(TypedDict):
    """An event in the ``event_name`` form. Fields beside these are kept in the event's ``context``."""

    user_id: Annotated[Name, Field(description="Whose event it is; events of one user keep their order")]
    event_name: Annotated[Name, Field(description="What happened")]
    metadata: NotRequired[
        Annotated[dict[str, Any] | None, Field(description="Any JSON object; the whole body up to 64 levels deep")]
    ]
    timestamp: NotRequired[Timestamp]
    event_id: NotRequired[EventId]


@with_config(
    _open(
        {
            "event_id": "6f1c2a34-5b6d-4e7f-8a90-b1c2d3e4f506",
            "user_id": "user_123",
            "event_type": "page_view",
            "event_time": 1710000000000,
            "experiment_id": "exp_42",
            "variant": "A",
            "properties": {"page": "checkout"},
        }
    )
    | ConfigDict(val_temporal_unit="milliseconds")
)
class ProductEventIn(TypedDict):
    """An event in the ``event_type`` form. Fields beside these are kept in the event's ``context``."""

    user_id: Annotated[Name, Field(description="Whose event it is; events of one user keep their order")]
    event_type: Annotated[Name, Field(description="What happened")]
    event_time: NotRequired[
        Annotated[
            Moment,
            Field(description="When it happened: epoch milliseconds, or RFC 3339; now where it is absent"),
        ]
    ]
    experiment_id: NotRequired[Annotated[Name | None, Field(description="The experiment that the user is part of")]]
    variant: NotRequired[Annotated[Name | None, Field(description="The variant that the user was shown")]]
    properties: NotRequired[Annotated[dict[str, Any] | None, Field(description="Any JSON object")]]
    event_id: NotRequired[EventId]


@with_config(_open(_LEARNER_EVENT))
class LearnerEventIn(TypedDict):
    """One event of a batch. Fields beside these are kept in the event's ``context``."""

    learner_id: Annotated[Name, Field(description="Whose event it is; events of one learner keep their order")]
    event_type: Annotated[LearnerEventType, Field(description="What happened")]
    tenant_id: NotRequired[Annotated[Name | None, Field(description="`default` where it is absent")]]
    priority: NotRequired[Annotated[Priority | None, Field(description="Kept in the context; changes nothing here")]]
    timestamp: NotRequired[Timestamp]
    source_service: NotRequired[Annotated[Name | None, Field(description="Which service sent it")]]
    event_data: NotRequired[Annotated[dict[str, Any] | None, Field(description="Any JSON object")]]
    metadata: NotRequired[Annotated[dict[str, Any] | None, Field(description="Kept in the context")]]
    event_id: NotRequired[EventId]


@with_config(_open())
class Envelope(TypedDict):
    """What a batch says beside its events."""

    batch_id: NotRequired[Annotated[Name | None, Field(description="Comes back in the reply; made where it is absent")]]
    metadata: NotRequired[
        Annotated[dict[str, Any] | None, Field(description="Kept with every event; at most 8 KiB of JSON")]
    ]
    sent_at: NotRequired[
        Annotated[
            Moment,
            Field(
                description="The client's clock when it sent this, as RFC 3339 or epoch seconds. "
                "Where it is more than 5 minutes off, the events' times are corrected by the difference"
            ),
        ]
    ]


@with_config(_open({"batch_id": _BATCH_ID, "events": [_LEARNER_EVENT], "metadata": {"source": "mobile-app"}}))
class CollectRequest(Envelope):
    """A batch of events. A bare array of the events is taken too."""

    events: Annotated[
        list[LearnerEventIn],
        Len(1, MAX_BATCH_EVENTS),
        FailFast(),
        Field(description="Each is accepted or rejected by itself"),
    ]


class Accepted(BaseModel):
    """The event is durable: in Kafka, or on this service's disk until Kafka has it."""

    status: Annotated[
        Literal["accepted", "duplicate"],
        Field(description="`duplicate`: this event_id was accepted before with the same content; nothing to do"),
    ]
    event_id: UUID
    warnings: Annotated[list[str] | None, Field(description="What the operator may want to know")] = None


class EventResult(BaseModel):
    """What became of one event of a batch."""

    index: Annotated[int, Field(description="Its place in the request, from 0")]
    event_id: Annotated[str | None, Field(description="The client's, as it was sent, or the one made for it")]
    code: Literal["accepted", "rejected", "duplicate", "limited", "retry"]
    field: Annotated[str | None, Field(description="The first field that is wrong")] = None
    reason: Annotated[str | None, Field(description="Stable and machine-readable")] = None
    message: Annotated[str | None, Field(description="For people; names the remedy")] = None
    retryable: Annotated[bool, Field(description="Whether sending the same again can succeed")] = False


class CollectReply(BaseModel):
    """What became of a batch."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "batch_id": _BATCH_ID,
                    "accepted_count": 100,
                    "rejected_count": 0,
                    "processing_time_ms": 25.3,
                    "kafka_partition": 2,
                    "dlq_events": [],
                    "warnings": [],
                    "results": [],
                }
            ]
        }
    )

    batch_id: str
    accepted_count: Annotated[int, Field(description="Durable now, duplicates included")]
    rejected_count: Annotated[int, Field(description="Not accepted; `results` says why")]
    processing_time_ms: float
    kafka_partition: Annotated[int | None, Field(description="Where all went to one partition of Kafka, else null")]
    dlq_events: Annotated[list[str], Field(description="Event ids of what went to the dead-letter topic")]
    warnings: list[str]
    results: Annotated[
        list[EventResult], Field(description="Each event that was not plainly accepted; with `?verbose=1` every one")
    ]


class ErrorReply(BaseModel):
    """The one shape of every error."""

    error_code: Annotated[str, Field(description="Stable and machine-readable")]
    error_message: Annotated[str, Field(description="For people; names the remedy")]
    timestamp: datetime
    request_id: Annotated[str, Field(description="The request's X-Request-ID, or one that was made for it")]
    retryable: Annotated[bool, Field(description="Whether sending the same again can succeed")]
    details: Annotated[dict[str, Any] | None, Field(description="What exactly is wrong, by field")] = None


class BufferStatus(BaseModel):
    """The disk buffer: what was accepted and is not in Kafka yet."""

    buffered_batches: int
    buffer_size_mb: Annotated[float, Field(description="MiB on disk")]


class ThroughputMetrics(BaseModel):
    """Of the last minute."""

    events_per_second: float
    avg_processing_time_ms: float


class CollectorHealth(BaseModel):
    """How the collector is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "healthy",
                    "kafka_connected": True,
                    "buffer_status": {"buffered_batches": 0, "buffer_size_mb": 0.0},
                    "throughput_metrics": {"events_per_second": 1850.3, "avg_processing_time_ms": 15.2},
                    "uptime_seconds": 3600,
                }
            ]
        }
    )

    status: Annotated[str, Field(description="`healthy`; `degraded` while events wait on disk; `unhealthy`")]
    kafka_connected: bool
    buffer_status: BufferStatus
    throughput_metrics: ThroughputMetrics
    uptime_seconds: float


class CollectorMetrics(BaseModel):
    """The collector's counts since it started; /metrics has them for Prometheus."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events_processed_total": 1500000,
                    "events_per_second": 2100.5,
                    "kafka_writes_total": 15000,
                    "dlq_events_total": 75,
                    "buffer_events_count": 0,
                    "avg_processing_time_ms": 18.4,
                    "p99_processing_time_ms": 35.8,
                }
            ]
        }
    )

    events_processed_total: int
    events_per_second: float
    kafka_writes_total: Annotated[int, Field(description="Batches that Kafka acknowledged")]
    dlq_events_total: int
    buffer_events_count: Annotated[int, Field(description="Events on disk that are not in Kafka yet")]
    avg_processing_time_ms: float
    p99_processing_time_ms: float
