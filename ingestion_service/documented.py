"""POST /events and POST /api/v1/collect as OpenAPI tells of them. The endpoints of routes.py serve them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, Literal

from annotated_types import Len
from fastapi import Body, Header, Query
from fastapi.routing import APIRoute
from pydantic.json_schema import SkipJsonSchema
from starlette.types import ASGIApp

from event_core.event import MAX_NAME
from ingestion_service.limits import MAX_BATCH_EVENTS
from ingestion_service.schemas import (
    Accepted,
    CollectReply,
    CollectRequest,
    ErrorReply,
    EventIn,
    LearnerEventIn,
    ProductEventIn,
)

Encoding = Annotated[
    Literal["gzip", "deflate", "zstd", "br", "identity"] | SkipJsonSchema[None],
    Header(alias="Content-Encoding", description="How the body is compressed: by one codec, as one stream"),
]
RequestId = Annotated[
    str | SkipJsonSchema[None],
    Header(
        alias="X-Request-ID",
        min_length=1,
        max_length=128,
        json_schema_extra={"pattern": "^[!-~]+$"},
        description="Comes back in the response, and is in the logs; one is made where it is absent",
    ),
]
Verbose = Annotated[
    int,
    Query(ge=0, le=1, description="1: `results` lists every event of a batch, the plainly accepted too"),
]

_STAMPS: Final[dict[str, Any]] = {
    "X-Request-ID": {
        "description": "The request's, or one that was made for it",
        "required": True,
        "schema": {"type": "string"},
    },
    "X-Process-Time": {
        "description": "Seconds from the request's first byte to the reply",
        "required": True,
        "schema": {"type": "number", "minimum": 0},
    },
}
_RETRY_AFTER: Final[dict[str, Any]] = {
    "Retry-After": {
        "description": "Seconds to wait before the next try",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
REQUEST_ID_EXAMPLE: Final = "5f3c1a52-1f0e-4c55-9a37-0d7cf1f5a9b1"
_EVENT_ID: Final = "123e4567-e89b-12d3-a456-426614174000"

_CLOUD_EVENT: Final[dict[str, Any]] = {
    "title": "CloudEvent",
    "description": "A CloudEvent 1.0 in the JSON format. The first there is of the extensions `userid` and `partitionkey`, of "
    "`subject`, and of `user_id` within the data says whose event it is. Other attributes are kept in the event's `context`.",
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "anyOf": [
        {"required": ["userid"]},
        {"required": ["partitionkey"]},
        {"required": ["subject"]},
        {"required": ["data"], "properties": {"data": {"type": "object", "required": ["user_id"]}}},
    ],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1, "description": "The event's id where it is a UUID"},
        "source": {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
        "type": {"type": "string", "minLength": 1, "maxLength": MAX_NAME, "description": "What happened"},
        "subject": {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
        "userid": {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
        "partitionkey": {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
        "tenantid": {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"type": "string", "minLength": 1, "examples": ["application/json"]},
        "data": {"description": "Any JSON"},
        "data_base64": {"type": "string", "contentEncoding": "base64"},
    },
    "not": {"required": ["data", "data_base64"]},
    "propertyNames": {"pattern": "^([a-z0-9]+|data_base64)$"},
    "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
}
_CLOUD_EXAMPLE: Final[dict[str, Any]] = {
    "specversion": "1.0",
    "id": _EVENT_ID,
    "source": "/shop/checkout",
    "type": "page_view",
    "subject": "user_123",
    "time": "2024-01-15T10:30:00Z",
    "datacontenttype": "application/json",
    "data": {"page": "checkout"},
}


def reply(description: str, model: Any, example: dict[str, Any] | None = None) -> dict[str, Any]:
    """An entry of ``responses``."""
    said: dict[str, Any] = {"description": description, "model": model, "headers": _STAMPS}
    if example is not None:
        said["content"] = {"application/json": {"example": example}}
    return said


def problem(
    description: str, code: str, message: str, *, retryable: bool = False, model: Any = ErrorReply
) -> dict[str, Any]:
    """An entry of ``responses`` in the one error shape."""
    return reply(
        description,
        model,
        {
            "error_code": code,
            "error_message": message,
            "timestamp": "2024-01-15T10:30:00Z",
            "request_id": REQUEST_ID_EXAMPLE,
            "retryable": retryable,
        },
    )


def unavailable() -> dict[str, Any]:
    """The entry of ``responses`` for 503."""
    said = problem(
        "Nothing of it was stored, or nobody can say whether it was: send the same again after `Retry-After` seconds. "
        "`broker_unavailable`, `buffer_full`, `buffer_broken`, `overloaded`",
        "buffer_full",
        "the disk buffer is full: send the events again later",
        retryable=True,
    )
    said["headers"] = _STAMPS | _RETRY_AFTER
    return said


def _problems_of_bodies(unreadable: str) -> dict[int | str, dict[str, Any]]:
    """What both endpoints say of a body before they look at its events; ``unreadable`` names the codes of 400."""
    return {
        400: problem(
            f"The body cannot be read: {unreadable}",
            "malformed_body",
            "the body is not JSON: EOF while parsing an object at line 1 column 9",
        ),
        408: problem(
            "The rest of the body did not come",
            "body_timeout",
            "the body was not complete after 30 s: send it again",
            retryable=True,
        ),
        415: problem(
            "`unsupported_content_encoding`: another codec, or more than one. `unsupported_media_type`: CloudEvents in another "
            "format than JSON",
            "unsupported_content_encoding",
            "Content-Encoding: 'compress' is not supported; send gzip, deflate, zstd, br or none",
        ),
        503: unavailable(),
    }


_PARTIAL: Final[dict[str, Any]] = {
    "batch_id": "550e8400-e29b-41d4-a716-446655440000",
    "accepted_count": 99,
    "rejected_count": 1,
    "processing_time_ms": 3.4,
    "kafka_partition": 2,
    "dlq_events": [_EVENT_ID],
    "warnings": [],
    "results": [
        {
            "index": 17,
            "event_id": _EVENT_ID,
            "code": "rejected",
            "field": "event_type",
            "reason": "unknown_value",
            "message": "event_type: Input should be 'interaction', 'progress', 'assessment', 'error' or 'system'",
            "retryable": False,
        }
    ],
}
_ALL_REJECTED: Final[dict[str, Any]] = _PARTIAL | {"accepted_count": 0, "kafka_partition": None}


def _example(form: Any) -> dict[str, Any]:
    """The one that the form's own schema shows."""
    shown: dict[str, Any] = form.__pydantic_config__["json_schema_extra"]["examples"][0]
    return shown


def _examples(**values: Any) -> Any:
    return Body(openapi_examples={name: {"value": value} for name, value in values.items()})


async def _send_event(
    event: Annotated[
        EventIn | ProductEventIn, _examples(event_name_form=_example(EventIn), event_type_form=_example(ProductEventIn))
    ],
    content_encoding: Encoding = None,
    x_request_id: RequestId = None,
    verbose: Verbose = 0,
) -> Accepted | CollectReply:
    """Takes one event, in the form with `event_name` or in the form with `event_type` (exactly one of the two names must be
    there), and answers once it is durable: in Kafka, or on this service's disk until Kafka has it.

    A 503, and a connection that broke, may be answered by sending the same again with the same `event_id`: the event is stored
    once. What parses as an object but is refused (409, 413, 422) is kept as a dead letter.

    **Browsers.** A body without a content type, or of `text/plain` as `navigator.sendBeacon` sends it, is read as JSON.

    **CloudEvents 1.0.** Structured (`application/cloudevents+json`) and binary (headers `ce-specversion`, `ce-id`, `ce-source`,
    `ce-type` …, the body is the data) carry one event; batched (`application/cloudevents-batch+json`) up to 1,000, and are
    answered as `/api/v1/collect` answers, but with 202 where all were accepted. The first there is of the extensions `userid`
    and `partitionkey`, of `subject`, and of `user_id` within the data says whose event it is.
    """
    raise AssertionError("documented here, served by PostEvent")


async def _collect(
    events: Annotated[
        CollectRequest | Annotated[list[LearnerEventIn], Len(1, MAX_BATCH_EVENTS)],
        _examples(array=[_example(LearnerEventIn)], batch=_example(CollectRequest)),
    ],
    content_encoding: Encoding = None,
    x_request_id: RequestId = None,
    verbose: Verbose = 0,
) -> CollectReply:
    """Takes 1 to 1,000 events, as a bare array or as an object with `events`, and answers once each is durable or rejected. One
    bad event never fails the others.

    `results` names each event that was not plainly accepted: its index, its `event_id`, what became of it and why, and whether
    sending it again can help. Rejected events are kept as dead letters; `dlq_events` names them. Sending a whole batch again is
    safe where its events have an `event_id`.
    """
    raise AssertionError("documented here, served by PostCollect")


def _text(what: str) -> dict[str, Any]:
    return {"schema": {"type": "string", "contentMediaType": "application/json", "description": what}}


_EVENT_BODIES: Final[dict[str, Any]] = {
    "text/plain": _text("The same JSON, as navigator.sendBeacon sends a string"),
    "application/cloudevents+json": {"schema": _CLOUD_EVENT, "example": _CLOUD_EXAMPLE},
    "application/cloudevents-batch+json": {
        "schema": {"type": "array", "minItems": 1, "maxItems": MAX_BATCH_EVENTS, "items": _CLOUD_EVENT},
        "example": [_CLOUD_EXAMPLE],
    },
}
_COLLECT_BODIES: Final[dict[str, Any]] = {"text/plain": _text("The same JSON, as navigator.sendBeacon sends a string")}


def documented_routes(hot: dict[tuple[str, str], ASGIApp]) -> list[APIRoute]:
    """The routes that document the hot endpoints while ``hot`` serves them, also where FastAPI is asked."""
    return [
        _route(
            hot,
            "/events",
            _send_event,
            operation_id="sendEvent",
            status_code=202,
            summary="Send one event",
            bodies=_EVENT_BODIES,
            responses={
                202: reply(
                    "Durable. A batch of CloudEvents is answered with a CollectReply",
                    Accepted | CollectReply,
                    {"status": "accepted", "event_id": _EVENT_ID},
                ),
                207: reply("A batch of CloudEvents, some of them rejected", CollectReply, _PARTIAL),
                409: problem(
                    "`conflict`: the event_id was accepted before with other content",
                    "conflict",
                    "this event_id was accepted before with other content: give a new event a new event_id",
                ),
                413: problem(
                    "`body_too_large`, `event_too_large`, `too_deep`, `too_wide`, `batch_too_large`",
                    "body_too_large",
                    "the body is larger than 1,048,576 bytes: send less at a time, or raise INGESTION_MAX_BODY_BYTES",
                ),
                422: problem(
                    "The event breaks its form: `missing_field`, `wrong_type`, `bad_length`, `bad_timestamp`, `not_an_object`, "
                    "`ambiguous_form`, `reserved_field`, `unstorable_value` and others. A batch of CloudEvents that were all "
                    "rejected is answered with a CollectReply",
                    "missing_field",
                    "user_id: Field required",
                    model=ErrorReply | CollectReply,
                ),
                **_problems_of_bodies(
                    "`malformed_body`, `empty_body`, `bad_compression`; of a batch `not_a_batch`, `empty_batch`"
                ),
            },
        ),
        _route(
            hot,
            "/api/v1/collect",
            _collect,
            operation_id="collectEvents",
            status_code=200,
            summary="Send a batch of learner events",
            bodies=_COLLECT_BODIES,
            responses={
                200: reply("All accepted; a duplicate counts as accepted", CollectReply),
                207: reply("Some accepted, some rejected", CollectReply, _PARTIAL),
                413: problem(
                    "`batch_too_large` (more than 1,000 events), `body_too_large`, `too_wide`, `batch_metadata_too_large`",
                    "batch_too_large",
                    "the batch holds more than 1,000 events: send them in several",
                ),
                422: reply("All rejected", CollectReply, _ALL_REJECTED),
                **_problems_of_bodies(
                    "`malformed_body`, `empty_body`, `bad_compression`, `not_a_batch` (neither of the two forms), `empty_batch`, "
                    "or what is wrong beside the events"
                ),
            },
        ),
    ]


def _route(
    hot: dict[tuple[str, str], ASGIApp],
    path: str,
    endpoint: Callable[..., Coroutine[Any, Any, Any]],
    *,
    bodies: dict[str, Any],
    responses: dict[int | str, dict[str, Any]],
    **more: Any,
) -> APIRoute:
    route = APIRoute(
        path,
        endpoint,
        methods=["POST"],
        tags=["events"],
        responses=dict(sorted(responses.items(), key=lambda entry: str(entry[0]))),
        response_model=None,
        openapi_extra={"requestBody": {"content": bodies}},
        **more,
    )
    route.app = hot[("POST", path)]
    return route
