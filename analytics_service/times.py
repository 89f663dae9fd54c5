"""Times, zones and widths of buckets as people write them. Pure."""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple

from analytics_service.errors import InvalidQuery
from event_core.event import EARLIEST, LATEST, as_utc

_MILLISECONDS_FROM = 1e11
"""A number from here on is milliseconds: as seconds it would lie after the year 5138."""
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")
_COMPACT_DATE = re.compile(r"(19|20)[0-9]{2}([0-9]{2}([0-9]{2})?)?")
_WIDTH = re.compile(r"([1-9][0-9]{0,4})?(m|h|d|w|mo|minute|hour|day|week|month)")
_DURATION = re.compile(r"([1-9][0-9]{0,5})(m|h|d|w)")
_MONTH = "1 month"
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_DAY_MINUTES = 24 * 60
MAX_WINDOW = timedelta(days=366)
MAX_DAYS = 31
MINUTES_OF_A_QUARTER = 15
"""Of an hour: the buckets of the stored counts."""
QUARTERS_SINCE = datetime(1980, 1, 1, tzinfo=UTC)
"""Since then the clocks of every zone differ from UTC's by whole quarters of an hour."""
UTC_ZONES = frozenset(
    {"UTC", "UCT", "Universal", "Zulu", "GMT", "GMT0", "GMT+0", "GMT-0", "Greenwich"}
    | {
        "Etc/UTC",
        "Etc/UCT",
        "Etc/Universal",
        "Etc/Zulu",
        "Etc/GMT",
        "Etc/GMT0",
        "Etc/GMT+0",
        "Etc/GMT-0",
        "Etc/Greenwich",
    }
)
"""The zones whose clocks always show UTC."""
SLACK = timedelta(days=2)
"""Clocks differ from UTC's, and a day may last longer, by less than this."""


class Width(NamedTuple):
    """How wide a bucket is."""

    interval: str
    """As PostgreSQL reads it."""
    least: timedelta
    """No bucket is narrower, but for a change of the clocks."""

    @property
    def minutes(self) -> int:
        """As in ``least``."""
        return self.least // timedelta(minutes=1)

    @property
    def most(self) -> timedelta:
        """No bucket is wider, but for a change of the clocks."""
        return timedelta(days=31) if self.interval == _MONTH else self.least


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
        raise ValueError("2026, 202601 and 20260131 are meant as dates, not as seconds of 1970")
    number = float(text)
    return datetime.fromtimestamp(number / 1000 if abs(number) >= _MILLISECONDS_FROM else number, UTC)


def _mended(text: str) -> str:
    # RFC 3339, 5.6: T and Z may be in lower case.
    text = text.replace("t", "T").replace("z", "Z")
    # An unescaped + in a query string arrives as a space before the zone's digits.
    return re.sub(r" (\d{2}:?\d{2})$", r"+\1", text) if text.count(":") > 2 or "T" in text else text


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones()) - {"localtime", "Factory"}


def parse_zone(name: str) -> str:
    """A time zone's name, which must be one of IANA's: PostgreSQL would take much else for one.

    Raises:
        InvalidQuery: it is none.
    """
    if name not in _zones():
        raise InvalidQuery(f"zone: {name[:64]!r} is no IANA time zone: send one like Europe/Berlin or UTC")
    return name


def parse_width(text: str) -> Width:
    """A bucket's width: 1m, 15m, 1h, 6h, 1d, 1w, 1mo; minutes and hours must divide a day.

    Raises:
        InvalidQuery: it is none of these.
    """
    match = _WIDTH.fullmatch(text)
    if match is None:
        raise InvalidQuery(f"bucket: {text[:64]!r} is no width: send one like 5m, 1h, 1d, 1w or 1mo")
    number, unit = int(match[1] or 1), match[2]
    if unit in ("m", "minute", "h", "hour"):
        minutes = number * (60 if unit[0] == "h" else 1)
        if minutes > _DAY_MINUTES or _DAY_MINUTES % minutes:
            raise InvalidQuery(f"bucket: {text} does not divide a day evenly")
        if minutes < _DAY_MINUTES:
            return Width(f"{minutes} minutes", timedelta(minutes=minutes))
        number, unit = 1, "d"
    if unit in ("mo", "month"):
        if number > 1:
            raise InvalidQuery("bucket: a bucket is at most one month: send 1mo")
        return Width(_MONTH, timedelta(days=28))
    days = number * (7 if unit[0] == "w" else 1)
    if days > MAX_DAYS:
        raise InvalidQuery(f"bucket: a bucket is at most {MAX_DAYS} days, or 1mo")
    return Width(f"{days} days", timedelta(days=days))


def parse_duration(text: str, field: str) -> timedelta:
    """How long: 30m, 12h, 7d, 2w; a day is 24 hours.

    Raises:
        InvalidQuery: it is none of these, or longer than MAX_WINDOW.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidQuery(f"{field}: {text[:64]!r} is no duration: send one like 30m, 12h, 7d or 2w")
    duration = int(match[1]) * _UNITS[match[2]]
    if duration > MAX_WINDOW:
        raise InvalidQuery(f"{field}: {text} is longer than {MAX_WINDOW.days}d")
    return duration


def later(moment: datetime, by: timedelta) -> datetime:
    """``moment`` and ``by``, or the last moment that there is."""
    return moment + by if moment < LATEST - by else LATEST


def check_room(from_ts: datetime, to_ts: datetime, before: timedelta, after: timedelta) -> None:
    """The buckets that the range cuts reach out of it: their bounds must be moments too.

    Raises:
        InvalidQuery: the range comes too close to an end of the years 1-9999.
    """
    first, last = EARLIEST + before, LATEST - after
    if from_ts < first or to_ts > last:
        raise InvalidQuery(
            "from_ts, to_ts: the buckets do not fit between the years 1 and 9999: send from_ts from"
            f" {first.date().isoformat()} on and to_ts up to {last.date().isoformat()}"
        )
