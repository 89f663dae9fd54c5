"""The one table of errors to HTTP statuses."""

from __future__ import annotations

from typing import ClassVar, Final

from event_core.errors import PlatformError, Unavailable


class InvalidQuery(PlatformError):
    """The question makes no sense as asked; the message says what to change."""

    code: ClassVar[str] = "invalid_query"


class QueryTooSlow(PlatformError):
    """The database stopped the query at its time limit."""

    code: ClassVar[str] = "query_too_slow"


STATUSES: Final[dict[type[PlatformError], int]] = {InvalidQuery: 422, QueryTooSlow: 422, Unavailable: 503}
