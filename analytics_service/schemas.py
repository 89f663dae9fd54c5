"""What the API answers. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

_TIME = (
    "RFC 3339 (`2026-01-31T12:00:00Z`; no zone means UTC; write `+` as `%2B`), a date, or epoch seconds or milliseconds"
)


class CountParameters(BaseModel):
    """The query string of the count. A name that is none of these is refused: a mistyped filter must not count everything."""

    model_config = ConfigDict(extra="forbid")

    from_ts: Annotated[str, Field(description=f"Start, inclusive: {_TIME}")]
    to_ts: Annotated[str, Field(description=f"End, exclusive: {_TIME}")]
    event_name: Annotated[str | None, Field(description="Only events of this name")] = None
    user_id: Annotated[str | None, Field(description="Only events of this user")] = None


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
