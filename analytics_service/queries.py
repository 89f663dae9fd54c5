"""Questions as values: parsed, checked, ready to be asked. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from analytics_service.errors import InvalidQuery
from event_core.event import MAX_NAME, as_utc

_MILLISECONDS_FROM = 1e11
"""A number from here on is milliseconds: as seconds it would lie after the year 5138."""
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")
_COMPACT_DATE = re.compile(r"(19|20)[0-9]{6}")

COUNT_SEMANTICS = (
    "events stored once each, whose own timestamp lies in [from_ts, to_ts); duplicates and dead letters do not count"
)


@dataclass(frozen=True)
class CountQuery:
    """How many events in [from_ts, to_ts), of one name or user where given."""

    from_ts: datetime
    to_ts: datetime
    event_name: str | None = None
    user_id: str | None = None


def parse_time(text: str, field: str) -> datetime:
    """An aware UTC datetime of RFC 3339, a date (its midnight) or epoch seconds; from 1e11 on, milliseconds. No zone means UTC.

    Raises:
        InvalidQuery: none of these, or outside the years 1–9999.
    """
    try:
        return as_utc(_number(text) or datetime.fromisoformat(_mended(text)))
    except (ValueError, OverflowError, OSError):
        raise InvalidQuery(
            f"{field}: {text[:64]!r} is no time: send RFC 3339 (2026-01-31T12:00:00Z; a + as %2B) or epoch seconds"
        ) from None


def _number(text: str) -> datetime | None:
    if not _NUMBER.fullmatch(text):
        return None
    if _COMPACT_DATE.fullmatch(text):
        raise ValueError("20260131 is meant as a date, not as seconds of 1970")
    number = float(text)
    return datetime.fromtimestamp(number / 1000 if abs(number) >= _MILLISECONDS_FROM else number, UTC)


def _mended(text: str) -> str:
    # RFC 3339, 5.6: T and Z may be in lower case.
    text = text.replace("t", "T").replace("z", "Z")
    # An unescaped + in a query string arrives as a space before the zone's digits.
    return re.sub(r" (\d{2}:?\d{2})$", r"+\1", text) if text.count(":") > 2 or "T" in text else text


def count_query(from_ts: str, to_ts: str, event_name: str | None, user_id: str | None) -> CountQuery:
    """The question, checked.

    Raises:
        InvalidQuery: a time is none, the range is empty or backwards, or a filter is no possible name.
    """
    start, end = parse_time(from_ts, "from_ts"), parse_time(to_ts, "to_ts")
    if start >= end:
        raise InvalidQuery("from_ts must lie before to_ts: the range [from_ts, to_ts) is empty")
    for field, value in (("event_name", event_name), ("user_id", user_id)):
        if value is not None and (not 1 <= len(value) <= MAX_NAME or "\x00" in value):
            raise InvalidQuery(f"{field}: no event can have it: 1 to {MAX_NAME} characters, without U+0000")
    return CountQuery(start, end, event_name, user_id)
