"""What the analytics benchmark asks: each question of the API, the SQL behind it, and that of an analyst without rollups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote, urlencode

from tests.benchmarks import analytics_plain as plain
from tests.benchmarks.analytics_events import DAYS, EXPERIMENT, NAMES, Plan, user_id

COUNTED_MS = 20.0
CACHED_MS = 5.0
UNIQUES_MS = 300.0
RETENTION_MS = 300.0
FUNNEL_MS = 1_500.0
LEAST_RATIO = 10.0
STEPS = ("product_view", "add_to_cart", "purchase")
WEEK = timedelta(days=7)

Values = Mapping[str, object]


class Data(NamedTuple):
    """What is there to be asked about: the loaded days, and some of the ids."""

    first: datetime
    last: datetime
    ids: Sequence[str]
    users: int

    @classmethod
    def of(cls, plan: Plan, ids: Sequence[str]) -> Data:
        day = plan.first_day
        first = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return cls(first, first + timedelta(days=DAYS), ids, plan.users)


class Variant(NamedTuple):
    """One request, and the values of its SQL."""

    target: str
    """Path and query."""
    values: Values


class Asked(NamedTuple):
    """A question with as many variants as one likes; after some they may repeat."""

    name: str
    variant: Callable[[Data, int], Variant]
    sql: str
    """Of the schema analytics; values by name."""
    plain: str
    """The same from the table events alone."""
    target_ms: float | None = None
    """Of p99, with 10 million events and nothing cached."""
    rollup: bool = False
    """Rollups serve it, so it must be ``LEAST_RATIO`` times as fast as the plain SQL."""
    grows: bool = False
    """Measured with other numbers of events too."""
    same: bool = False
    """The first value of both SQLs is the same number."""


def _asked(path: str, values: Values, **more: object) -> Variant:
    """``values`` with from_ts and to_ts; ``more`` are parameters of the request beside them."""
    times = {name: value.isoformat() for name, value in values.items() if isinstance(value, datetime)}
    return Variant(f"/analytics/{path}?{urlencode({**times, **more}, doseq=True)}", values)


def _quarters(data: Data, number: int) -> Values:
    """Nearly all of the days, from another quarter of an hour each time."""
    return {"from_ts": data.first + timedelta(minutes=15) * (number % 960), "to_ts": data.last}


def _ragged(data: Data, number: int) -> Values:
    """The same with ends that no quarter has."""
    moved = timedelta(seconds=61 * (number % 9_000))
    return {"from_ts": data.first + timedelta(seconds=433.25) + moved, "to_ts": data.last - timedelta(seconds=187.5)}


def _week(data: Data, number: int) -> Values:
    """Seven whole days."""
    start = data.first + timedelta(days=number % (DAYS - 6))
    return {"from_ts": start, "to_ts": start + WEEK}


def _ragged_week(data: Data, number: int) -> Values:
    start = data.first + timedelta(seconds=977 * (number % 2_000) + 11.5)
    return {"from_ts": start, "to_ts": start + WEEK}


def _month(data: Data, _: int) -> Values:
    return {"from_ts": data.first, "to_ts": data.last}


def _series(width: str, interval: str, zone: str, breakdown: str | None = None) -> Callable[[Data, int], Variant]:
    def variant(data: Data, number: int) -> Variant:
        values = {**_quarters(data, number), "width": interval, "zone": zone, "breakdown": breakdown}
        more = {"breakdown": breakdown} if breakdown else {}
        return _asked("timeseries", values, bucket=width, zone=zone, **more)

    return variant


def _named(data: Data, number: int) -> Variant:
    name = NAMES[number % len(NAMES)]
    values = {**_quarters(data, number), "name": name, "filters": f'{{"event_name": ["{name}"]}}'}
    return _asked("events/count", values, event_name=name)


def _funnel(data: Data, number: int) -> Variant:
    return _asked("funnel", {**_week(data, number), "steps": list(STEPS)}, step=STEPS, window="1d")


def _experiment(data: Data, number: int) -> Variant:
    values = {**_week(data, number), "experiment": EXPERIMENT, "goal": "purchase"}
    return _asked(f"experiments/{EXPERIMENT}", values, goal="purchase", window="1d")


def _user(data: Data, number: int) -> Variant:
    """From the most active users to the least."""
    user = user_id(number * 37 % data.users)
    values = {**_month(data, number), "user": user, "filters": f'{{"user_id": ["{user}"]}}'}
    return _asked(f"users/{quote(user)}/events", values, limit=100)


def _event(data: Data, number: int) -> Variant:
    event_id = data.ids[number % len(data.ids)]
    return Variant(f"/analytics/events/{event_id}", {"event_id": event_id})


_COUNT = "select * from analytics.count_events(%(from_ts)s, %(to_ts)s{})"
_SERIES = (
    "select * from analytics.timeseries(%(from_ts)s, %(to_ts)s, %(width)s::interval, %(zone)s, '{}', %(breakdown)s, 10)"
)
_UNIQUE = "select users from analytics.unique_users_auto(%(from_ts)s, %(to_ts)s)"

QUESTIONS = (
    Asked(
        "count, 30 days",
        lambda data, number: _asked("events/count", _quarters(data, number)),
        _COUNT.format(""),
        plain.COUNT,
        COUNTED_MS,
        rollup=True,
        grows=True,
        same=True,
    ),
    Asked(
        "count, ragged ends",
        lambda data, number: _asked("events/count", _ragged(data, number)),
        _COUNT.format(""),
        plain.COUNT,
        COUNTED_MS,
        rollup=True,
        same=True,
    ),
    Asked(
        "count of one name",
        _named,
        _COUNT.format(", %(filters)s::jsonb"),
        plain.COUNT_NAME,
        COUNTED_MS,
        rollup=True,
        same=True,
    ),
    *(
        Asked(
            f"timeseries, {width} {zone}",
            _series(width, interval, zone),
            _SERIES,
            plain.TIMESERIES.replace("{unit}", unit),
            COUNTED_MS,
            rollup=True,
            grows=width == "1d" and zone == "UTC",
        )
        for zone in ("UTC", "Europe/Berlin")
        for width, interval, unit in (("1d", "1 day", "day"), ("1h", "1 hour", "hour"))
    ),
    Asked(
        "timeseries, 1d by name",
        _series("1d", "1 day", "UTC", "event_name"),
        _SERIES,
        plain.TIMESERIES_NAMES,
        COUNTED_MS,
        rollup=True,
    ),
    Asked(
        "top 10 names",
        lambda data, number: _asked("top", _quarters(data, number), by="event_name", limit=10),
        "select * from analytics.top(%(from_ts)s, %(to_ts)s, 'event_name', 10)",
        plain.TOP,
        COUNTED_MS,
        rollup=True,
        grows=True,
    ),
    Asked(
        "uniques, 7 days",
        lambda data, number: _asked("users/unique", _week(data, number)),
        _UNIQUE,
        plain.UNIQUES,
        UNIQUES_MS,
        rollup=True,
        grows=True,
        same=True,
    ),
    Asked(
        "uniques, 7 days, ragged",
        lambda data, number: _asked("users/unique", _ragged_week(data, number)),
        _UNIQUE,
        plain.UNIQUES,
        UNIQUES_MS,
        same=True,
    ),
    Asked(
        "uniques, 30 days",
        lambda data, number: _asked("users/unique", _month(data, number)),
        _UNIQUE,
        plain.UNIQUES,
        rollup=True,
        same=True,
    ),
    Asked(
        "retention, 30 x 30 days",
        lambda data, number: _asked("retention", _month(data, number), bucket="1d", periods=30),
        "select * from analytics.retention(%(from_ts)s, %(to_ts)s, '1 day', 'UTC', 30)",
        plain.RETENTION,
        RETENTION_MS,
        rollup=True,
        grows=True,
    ),
    Asked(
        "funnel, 3 steps, 7 days",
        _funnel,
        "select * from analytics.funnel(%(from_ts)s, %(to_ts)s, %(steps)s, '1 day')",
        plain.FUNNEL,
        FUNNEL_MS,
    ),
    Asked(
        "experiment, 7 days",
        _experiment,
        "select * from analytics.experiment(%(experiment)s, %(goal)s, %(from_ts)s, %(to_ts)s, '1 day')",
        plain.EXPERIMENT,
    ),
    Asked(
        "a user's events",
        _user,
        "select * from analytics.list_events(%(from_ts)s, %(to_ts)s, %(filters)s::jsonb)",
        plain.USER,
    ),
    Asked("where is an event", _event, "select * from analytics.where_is_event(%(event_id)s::uuid)", plain.EVENT),
)
