"""How many different users: in total, over time, by value. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from analytics_service.errors import InvalidQuery
from analytics_service.questions.base import Answer, Cost, Ranged, Reply, Row, Zone, dimension
from analytics_service.questions.counts import check_buckets
from analytics_service.times import UTC_ZONES, Width, parse_width, parse_zone
from event_core.sqlfiles import load_sql

MAX_VALUES = 1_000
MOST_READ = 1_000_000
"""Events beyond which ``auto`` sketches; analytics.unique_users_auto() has the same number."""

_TOTAL = load_sql("analytics_service.sql", "uniques")
_BY = load_sql("analytics_service.sql", "uniques_by")
_PER = load_sql("analytics_service.sql", "uniques_per")
_DAY = timedelta(days=1)


class UniquesQuestion(Ranged):
    """How many different users had events."""

    KIND: ClassVar[str] = "uniques"

    bucket: Annotated[
        str | None,
        Field(description="Users of each bucket of time: `1h`, `1d`, `1w`, `1mo`; not with breakdown", examples=["1d"]),
    ] = None
    zone: Zone = "UTC"
    breakdown: Annotated[
        str | None,
        Field(description="Users of each value of this: event_name, user_id, …, or metadata.PATH; not with bucket"),
    ] = None
    limit: Annotated[int, Field(ge=1, le=MAX_VALUES, description="Values of the breakdown at most")] = 10
    method: Annotated[
        Literal["auto", "exact", "sketch"],
        Field(
            description="exact; sketch: about, in little memory; auto: exact, but a total that takes reading more than"
            f" {MOST_READ:,} events is sketched"
        ),
    ] = "auto"

    @model_validator(mode="after")
    def _sensible(self) -> UniquesQuestion:
        parse_zone(self.zone)
        if self.bucket is not None and self.breakdown is not None:
            raise InvalidQuery("bucket and breakdown exclude each other: send one of them")
        if self.method == "sketch" and (self.bucket is not None or self.breakdown is not None):
            raise InvalidQuery("method: buckets and breakdowns are exact: only a total can be sketched")
        if self.breakdown is not None:
            dimension(self.breakdown, "breakdown")
        if (width := self.width()) is not None:
            check_buckets(self.from_ts, self.to_ts, width)
        return self

    def width(self) -> Width | None:
        """Of the buckets, where there are some."""
        return None if self.bucket is None else parse_width(self.bucket)

    def statement(self) -> str:
        if self.bucket is not None:
            return _BY
        return _TOTAL if self.breakdown is None else _PER

    def columns(self) -> tuple[str, ...]:
        if self.bucket is not None:
            return "bucket", "until", "users"
        return ("users", "approximate", "error") if self.breakdown is None else ("value", "users")

    def arguments(self) -> tuple[object, ...]:
        if (width := self.width()) is not None:
            return self.from_ts, self.to_ts, width.interval, self.zone, self.filters_json()
        if self.breakdown is not None:
            return self.from_ts, self.to_ts, self.breakdown, self.filters_json(), self.limit
        return self.from_ts, self.to_ts, self.filters_json(), self.method

    def cost(self) -> Cost | None:
        everything = Cost(self.from_ts, self.to_ts, self.filters)
        if self.filters.keys() - {"tenant_id"} or self.breakdown not in (None, "tenant_id") or self.method == "sketch":
            return everything
        if (width := self.width()) is None:
            midnight = datetime.combine(self.from_ts.date(), time(), UTC)
            whole_days = (self.to_ts - midnight) // _DAY - (self.from_ts > midnight)
            return None if whole_days > 0 else everything
        if width.least >= _DAY and self.zone in UTC_ZONES:
            return None
        if width.least <= 2 * _DAY:
            return everything
        # Each bound cuts a day of UTC in two.
        length = self.to_ts - self.from_ts
        return Cost(self.from_ts, self.from_ts + min(length, (length // width.least + 2) * _DAY), self.filters)

    def semantics(self) -> str:
        meant = "different users (a user_id within a tenant) with at least one event, by its own timestamp in [from_ts, to_ts)"
        if self.bucket is not None:
            return (
                f"{meant}, in each bucket: a user of several buckets counts in each, so they do not add up; buckets begin by the"
                f" clocks of {self.zone} (weeks on Monday), the first and the last hold only what lies in [from_ts, to_ts)"
            )
        if self.breakdown is not None:
            return (
                f"{meant}, for each value of {self.breakdown}: a user with several values counts for each, so they do not add up;"
                " value null: events that have none; ties by value"
            )
        return (
            f"{meant}, each counted once"
            + {
                "auto": f"; estimated (HyperLogLog) where more than {MOST_READ:,} events would have to be read: see approximate",
                "exact": "",
                "sketch": "; estimated (HyperLogLog)",
            }[self.method]
        )

    def answer(self, rows: Sequence[Row]) -> Answer:
        if self.bucket is not None:
            points = [{"bucket": row["bucket"], "users": row["users"]} for row in rows]
            spans = [(row["bucket"], row["until"]) for row in rows]
            return Answer({"bucket": self.bucket, "zone": self.zone, "points": points}, spans)
        whole = [(self.from_ts, self.to_ts)]
        if self.breakdown is not None:
            top = [{"value": row["value"], "users": row["users"]} for row in rows]
            return Answer({"breakdown": self.breakdown, "top": top}, whole)
        [row] = rows
        return Answer({"users": row["users"]}, whole, row["approximate"], row["error"])


class UsersOfBucket(BaseModel):
    """A bucket and its users."""

    bucket: Annotated[datetime, Field(description="When it begins")]
    users: int


class UsersOfValue(BaseModel):
    """A value and its users."""

    value: Annotated[str | None, Field(description="null: events that have none")]
    users: int


class UniquesReply(Reply):
    """How many different users had events."""

    users: Annotated[int | None, Field(description="Without bucket and breakdown")] = None
    bucket: str | None = None
    zone: str | None = None
    points: Annotated[list[UsersOfBucket] | None, Field(description="With a bucket")] = None
    breakdown: str | None = None
    top: Annotated[list[UsersOfValue] | None, Field(description="With a breakdown, the most users first")] = None
