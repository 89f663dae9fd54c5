"""How many new users come back. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Annotated, ClassVar

from pydantic import BaseModel, Field, model_validator

from analytics_service.errors import InvalidQuery
from analytics_service.questions.base import Answer, Cost, Ranged, Reply, Row, Zone
from analytics_service.questions.counts import MAX_BUCKETS
from analytics_service.times import SLACK, UTC_ZONES, Width, check_room, parse_width, parse_zone
from event_core.sqlfiles import load_sql

MAX_PERIODS = 60
MAX_COHORTS = 366
_UNITS = {"1 days": "day", "7 days": "week (from Monday)", "1 month": "month"}
_WHOSE = frozenset({"tenant_id", "user_id"})


class RetentionQuestion(Ranged):
    """How many of the users who came anew in a day, week or month are active in each one after."""

    KIND: ClassVar[str] = "retention"
    ROWS: ClassVar[str] = load_sql("analytics_service.sql", "retention")
    COLUMNS: ClassVar[tuple[str, ...]] = ("cohort", "period", "begins", "until", "users")

    bucket: Annotated[str, Field(description="Width of cohorts and of periods: 1d, 1w or 1mo", examples=["1w"])] = "1d"
    zone: Zone = "UTC"
    periods: Annotated[
        int, Field(ge=1, le=MAX_PERIODS, description="How many periods to follow each cohort, after its own")
    ] = 7

    @model_validator(mode="after")
    def _sensible(self) -> RetentionQuestion:
        parse_zone(self.zone)
        width = self._width
        if width.interval not in _UNITS:
            raise InvalidQuery(f"bucket: {self.bucket} makes no cohorts: send 1d, 1w or 1mo")
        cohorts = (self.to_ts - self.from_ts) / width.least
        if cohorts > MAX_COHORTS:
            raise InvalidQuery(
                f"bucket: about {int(cohorts):,} cohorts, at most {MAX_COHORTS}: take wider ones or a shorter range"
            )
        numbers = math.ceil(cohorts) * (self.periods + 1)
        if numbers > MAX_BUCKETS:
            raise InvalidQuery(
                f"periods: about {numbers:,} numbers, at most {MAX_BUCKETS:,}: follow fewer, or take wider cohorts or a"
                " shorter range"
            )
        # Room for every period within the times that can be told.
        check_room(self.from_ts, self.to_ts, width.most + SLACK, self._followed + width.most + SLACK)
        return self

    @property
    def _width(self) -> Width:
        return parse_width(self.bucket)

    @property
    def _followed(self) -> timedelta:
        """After to_ts, no period ends later."""
        return self._width.most * (self.periods + 1) + SLACK

    def arguments(self) -> tuple[object, ...]:
        return self.from_ts, self.to_ts, self._width.interval, self.zone, self.periods, self.filters_json()

    def touched(self) -> tuple[datetime, datetime]:
        return self.from_ts - self._width.most - SLACK, self.to_ts + self._followed

    def cost(self) -> Cost | None:
        if self.zone in UTC_ZONES and self.filters.keys() <= _WHOSE:
            return None
        return Cost(*self.touched(), self.filters)

    def semantics(self) -> str:
        unit = _UNITS[self._width.interval]
        return (
            f"a cohort: the users (of a tenant) whose first event ever, of any name, lies in one {unit} of {self.zone}; every"
            f" {unit} that [from_ts, to_ts) touches counts whole, from range_from to range_to; active[n]: how many of the"
            f" cohort had an event that passes the filters in the n-th {unit} after it; active[0]: all of the cohort; tenant_id"
            " and user_id choose the cohorts' users, other filters only the events by which they return"
        )

    def answer(self, rows: Sequence[Row]) -> Answer:
        cohorts = []
        for start, cells in groupby(rows, key=lambda row: row["cohort"]):
            active = [row["users"] for row in cells]
            size = active[0]
            cohorts.append(
                {
                    "cohort": start,
                    "users": size,
                    "active": active,
                    "rates": [round(users / size, 6) if size else None for users in active],
                }
            )
        # Ascending: the cohorts' own periods, then those that only follow.
        spans = sorted({(row["begins"], row["until"]) for row in rows})
        fields = {
            "bucket": self.bucket,
            "zone": self.zone,
            "range_from": rows[0]["cohort"],
            "range_to": max(row["until"] for row in rows if row["period"] == 0),
            "periods": [begins for begins, _ in spans],
            "cohorts": cohorts,
        }
        return Answer(fields, spans)


class Cohort(BaseModel):
    """The users who came anew in one period, and when they were active."""

    cohort: Annotated[datetime, Field(description="When their first period begins")]
    users: Annotated[int, Field(description="How many came anew")]
    active: Annotated[
        list[int],
        Field(
            description="How many were active in the n-th period after it, from 0; of cohort i that is periods[i + n]"
        ),
    ]
    rates: Annotated[list[float | None], Field(description="Their share of the cohort; null: nobody came")]


class RetentionReply(Reply):
    """Cohorts of new users, and how many came back."""

    bucket: str
    zone: str
    range_from: Annotated[datetime, Field(description="from_ts, or where its period begins")]
    range_to: Annotated[datetime, Field(description="to_ts, or where its period ends")]
    periods: Annotated[
        list[datetime],
        Field(description="Beginnings of all periods; an incomplete one is in incomplete_buckets"),
    ]
    cohorts: list[Cohort]
