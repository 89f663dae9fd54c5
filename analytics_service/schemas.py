"""What the API answers. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field


class EventCount(BaseModel):
    """How many events happened in a range."""

    count: Annotated[int, Field(ge=0, examples=[300])]
    from_ts: Annotated[datetime, Field(description="Start of the range, inclusive, in UTC")]
    to_ts: Annotated[datetime, Field(description="End of the range, exclusive, in UTC")]
    event_name: str | None = None
    user_id: str | None = None
    semantics: Annotated[str, Field(description="What exactly was counted")]
    approximate: Annotated[bool, Field(description="false: the count is exact")] = False


class ErrorReply(BaseModel):
    """The one shape of every error."""

    error_code: str
    error_message: str
    timestamp: datetime
    request_id: str
    retryable: bool
    details: dict[str, Any] | None = None
