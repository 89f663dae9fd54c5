"""The errors of this service, and the one table of errors to HTTP statuses."""

from __future__ import annotations

from typing import ClassVar, Final

from event_core.errors import PlatformError, Unavailable


class InvalidQuery(PlatformError):
    """The question makes no sense as asked; the message says what to change."""

    code: ClassVar[str] = "invalid_query"


class QueryTooCostly(PlatformError):
    """The answer would have to read more events than the budget allows; the message says how many, and what to change."""

    code: ClassVar[str] = "query_too_costly"


class QueryTooSlow(PlatformError):
    """The database stopped the query at its time limit."""

    code: ClassVar[str] = "query_too_slow"


class FormatUnavailable(PlatformError):
    """The answer's format needs a package that is not installed."""

    code: ClassVar[str] = "format_unavailable"


STATUSES: Final[dict[type[PlatformError], int]] = {
    InvalidQuery: 422,
    QueryTooCostly: 422,
    QueryTooSlow: 422,
    FormatUnavailable: 501,
    Unavailable: 503,
}
