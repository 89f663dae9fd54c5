"""The forms that clients send and get. They document /docs too. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from event_core.event import Name


class EventIn(BaseModel):
    """An event in the ``event_name`` form. Fields beside these are kept in the event's ``context``."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "user_id": "user_123",
                    "event_name": "page_view",
                    "metadata": {"page": "/checkout", "price": 12.5},
                    "timestamp": "2023-01-01T00:00:00Z",
                }
            ]
        },
    )

    user_id: Annotated[Name, Field(description="Whose event it is; events of one user keep their order")]
    event_name: Annotated[Name, Field(description="What happened")]
    metadata: Annotated[
        dict[str, Any] | None, Field(description="Any JSON object; the whole body up to 64 levels deep")
    ] = None
    timestamp: Annotated[
        datetime | None,
        Field(description="When it happened: RFC 3339 (no zone means UTC) or epoch seconds; now where it is absent"),
    ] = None
    event_id: Annotated[
        UUID | None,
        Field(description="The event's identity: sending it again with the same id is safe. Made where it is absent"),
    ] = None


class Accepted(BaseModel):
    """The event is durable in Kafka."""

    status: Literal["accepted"]
    event_id: UUID


class ErrorReply(BaseModel):
    """The one shape of every error."""

    error_code: Annotated[str, Field(description="Stable and machine-readable")]
    error_message: Annotated[str, Field(description="For people; names the remedy")]
    timestamp: datetime
    request_id: Annotated[str, Field(description="The request's X-Request-ID, or one that was made for it")]
    retryable: Annotated[bool, Field(description="Whether sending the same again can succeed")]
    details: Annotated[dict[str, Any] | None, Field(description="What exactly is wrong, by field")] = None
