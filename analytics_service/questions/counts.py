"""How many: in total, over time, by the most frequent values. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import BaseModel, Field, model_validator

from analytics_service.errors import InvalidQuery
from analytics_service.questions.base import Answer, Cost, Ranged, Reply, Row, Zone, dimension
from analytics_service.times import (
    MINUTES_OF_A_QUARTER,
    QUARTERS_SINCE,
    SLACK,
    UTC_ZONES,
    Width,
    check_room,
    parse_width,
    parse_zone,
)
from event_core.sqlfiles import load_sql

MAX_BUCKETS = 10_000
MAX_SERIES = 100
MAX_VALUES = 10_000

_STORED_ONCE = "events stored once each; duplicates and dead letters do not count"
_SERVED = frozenset({"event_name", "tenant_id"})


class Counting(Ranged):
    """A question that analytics.event_counts answers where it can."""

    def broken_down_by(self) -> str | None:
        """The dimension, where there is one."""
        return None

    def in_quarters(self) -> bool:
        """Whether buckets begin with a quarter of an hour (UTC), where there are some."""
        return True

    def cost(self) -> Cost | None:
        if self.filters.keys() <= _SERVED and self.broken_down_by() in (None, *_SERVED) and self.in_quarters():
            return None
        return Cost(self.from_ts, self.to_ts, self.filters)


class CountQuestion(Counting):
    """How many events there are."""

    KIND: ClassVar[str] = "count"
    ROWS: ClassVar[str] = load_sql("analytics_service.sql", "count")
    COLUMNS: ClassVar[tuple[str, ...]] = ("events",)

    def arguments(self) -> tuple[object, ...]:
        return self.from_ts, self.to_ts, self.filters_json()

    def semantics(self) -> str:
        return f"{_STORED_ONCE}; an event belongs to the range by its own timestamp: [from_ts, to_ts)"

    def answer(self, rows: Sequence[Row]) -> Answer:
        return Answer({"count": rows[0]["events"]}, [(self.from_ts, self.to_ts)])


class CountReply(Reply):
    """How many events there are."""

    count: Annotated[int, Field(ge=0)]


class TimeseriesQuestion(Counting):
    """How many events there are in each bucket of time."""

    KIND: ClassVar[str] = "timeseries"
    ROWS: ClassVar[str] = load_sql("analytics_service.sql", "timeseries")
    COLUMNS: ClassVar[tuple[str, ...]] = ("bucket", "until", "value", "other", "events")

    bucket: Annotated[
        str,
        Field(
            description="Width of a bucket: minutes or hours that divide a day, days, weeks or a month", examples=["1h"]
        ),
    ] = "1d"
    zone: Zone = "UTC"
    breakdown: Annotated[
        str | None,
        Field(description="A series for each value of this: event_name, user_id, …, or metadata.PATH"),
    ] = None
    limit: Annotated[int, Field(ge=1, le=MAX_SERIES, description="Series at most; the rest are one more, `other`")] = 10

    @model_validator(mode="after")
    def _sensible(self) -> TimeseriesQuestion:
        parse_zone(self.zone)
        if self.breakdown is not None:
            dimension(self.breakdown, "breakdown")
        check_buckets(self.from_ts, self.to_ts, self.width(), 1 if self.breakdown is None else self.limit + 1)
        return self

    def broken_down_by(self) -> str | None:
        return self.breakdown

    def width(self) -> Width:
        """Of the buckets."""
        return parse_width(self.bucket)

    def in_quarters(self) -> bool:
        whole = self.width().minutes % MINUTES_OF_A_QUARTER == 0
        return whole and (self.zone in UTC_ZONES or self.from_ts >= QUARTERS_SINCE)

    def arguments(self) -> tuple[object, ...]:
        interval = self.width().interval
        return self.from_ts, self.to_ts, interval, self.zone, self.filters_json(), self.breakdown, self.limit

    def semantics(self) -> str:
        return (
            f"{_STORED_ONCE}; an event belongs to the bucket of its own timestamp, buckets begin by the clocks of {self.zone}"
            " (weeks on Monday); the first and the last bucket hold only what lies in [from_ts, to_ts)"
        )

    def answer(self, rows: Sequence[Row]) -> Answer:
        spans = list(dict.fromkeys((row["bucket"], row["until"]) for row in rows))
        if self.breakdown is None:
            points = [{"bucket": row["bucket"], "events": row["events"]} for row in rows]
            return Answer({"bucket": self.bucket, "zone": self.zone, "points": points}, spans)
        series: list[dict[str, object]] = []
        for place in range(0, len(rows), max(1, len(spans))):
            of = rows[place : place + len(spans)]
            points = [{"bucket": row["bucket"], "events": row["events"]} for row in of]
            series.append({"value": of[0]["value"], "other": of[0]["other"], "points": points})
        fields = {"bucket": self.bucket, "zone": self.zone, "breakdown": self.breakdown, "series": series}
        return Answer(fields, spans or [(self.from_ts, self.to_ts)])


def check_buckets(from_ts: datetime, to_ts: datetime, width: Width, series: int = 1) -> None:
    """Refuses more numbers than anybody can look at, and buckets that leave the calendar.

    Raises:
        InvalidQuery: the range has too many buckets of this width, or comes too close to an end of the years 1-9999.
    """
    number = int((to_ts - from_ts) / width.least) * series
    if number > MAX_BUCKETS:
        raise InvalidQuery(
            f"bucket: about {number:,} numbers, at most {MAX_BUCKETS:,}: take wider buckets or a shorter range"
        )
    check_room(from_ts, to_ts, width.most + SLACK, width.most + SLACK)


class Point(BaseModel):
    """A bucket and its events."""

    bucket: Annotated[datetime, Field(description="When it begins")]
    events: int


class Series(BaseModel):
    """The events of one value over time."""

    value: Annotated[str | None, Field(description="null: events that have none, or `other`")]
    other: Annotated[bool, Field(description="All values beyond the limit together")]
    points: list[Point]


class TimeseriesReply(Reply):
    """How many events there are in each bucket of time."""

    bucket: str
    zone: str
    points: Annotated[list[Point] | None, Field(description="Without a breakdown")] = None
    breakdown: str | None = None
    series: Annotated[list[Series] | None, Field(description="With a breakdown, the largest first")] = None


class TopQuestion(Counting):
    """Which values are the most frequent."""

    KIND: ClassVar[str] = "top"
    ROWS: ClassVar[str] = load_sql("analytics_service.sql", "top")
    COLUMNS: ClassVar[tuple[str, ...]] = ("value", "events", "total")

    by: Annotated[str, Field(description="event_name, user_id, …, or metadata.PATH", examples=["metadata.plan"])] = (
        "event_name"
    )
    limit: Annotated[int, Field(ge=1, le=MAX_VALUES, description="Values at most")] = 10

    @model_validator(mode="after")
    def _sensible(self) -> TopQuestion:
        dimension(self.by, "by")
        return self

    def broken_down_by(self) -> str:
        return self.by

    def arguments(self) -> tuple[object, ...]:
        return self.from_ts, self.to_ts, self.by, self.limit, self.filters_json()

    def semantics(self) -> str:
        return f"{_STORED_ONCE}; by their own timestamp in [from_ts, to_ts); value null: events that have none; ties by value"

    def answer(self, rows: Sequence[Row]) -> Answer:
        total = rows[0]["total"] if rows else 0
        top = [
            {"value": row["value"], "events": row["events"], "share": round(row["events"] / total, 6)} for row in rows
        ]
        return Answer({"by": self.by, "top": top, "total": total}, [(self.from_ts, self.to_ts)])


class Frequent(BaseModel):
    """A value and its events."""

    value: str | None
    events: int
    share: Annotated[float, Field(description="Of all events of the question")]


class TopReply(Reply):
    """Which values are the most frequent."""

    by: str
    top: list[Frequent]
    total: Annotated[int, Field(description="Events of all values")]
