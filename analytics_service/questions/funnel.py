"""How many users come how far. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from analytics_service.errors import InvalidQuery
from analytics_service.questions.base import Answer, Cost, Ranged, Reply, Row, name, one_or_more
from analytics_service.times import later, parse_duration
from event_core.sqlfiles import load_sql

MIN_STEPS = 2
MAX_STEPS = 10
MAX_WINDOW = timedelta(days=90)


class FunnelQuestion(Ranged):
    """How many users take the steps one after the other."""

    KIND: ClassVar[str] = "funnel"
    ROWS: ClassVar[str] = load_sql("analytics_service.sql", "funnel")
    COLUMNS: ClassVar[tuple[str, ...]] = ("step", "event_name", "users", "still_open")

    step: Annotated[
        list[str],
        BeforeValidator(one_or_more),
        Field(
            description=f"The name of a step's event, in their order, {MIN_STEPS} to {MAX_STEPS}; a name may come again",
            examples=[["page_view", "add_to_cart", "purchase"]],
        ),
    ]
    window: Annotated[
        str, Field(description="How long all steps together may take: 30m, 12h, 7d, 2w; at most 90d", examples=["1d"])
    ] = "7d"
    per_step: Annotated[
        bool, Field(description="The window is for each step, counted from the one before, not for all together")
    ] = False

    @model_validator(mode="after")
    def _sensible(self) -> FunnelQuestion:
        if self.event_name is not None:
            raise InvalidQuery("event_name: leave it out: the steps name the events")
        if not MIN_STEPS <= len(self.step) <= MAX_STEPS:
            raise InvalidQuery(
                f"step: a funnel has {MIN_STEPS} to {MAX_STEPS} steps: send step=NAME for each, in order"
            )
        for each in self.step:
            name(each, "step")
        if parse_duration(self.window, "window") > MAX_WINDOW:
            raise InvalidQuery(f"window: {self.window} is longer than {MAX_WINDOW.days}d")
        return self

    @cached_property
    def _duration(self) -> timedelta:
        return parse_duration(self.window, "window")

    def settles(self) -> datetime:
        """When the last window is over: before it, the answer also depends on how far the stored events reach."""
        whole = self._duration * (len(self.step) - 1 if self.per_step else 1)
        return later(self.to_ts, whole)

    def arguments(self) -> tuple[object, ...]:
        return self.from_ts, self.to_ts, self.step, self._duration, self.per_step, self.filters_json()

    def touched(self) -> tuple[datetime, datetime]:
        return self.from_ts, self.settles()

    def cost(self) -> Cost:
        return Cost(self.from_ts, self.settles(), {**self.filters, "event_name": list(dict.fromkeys(self.step))})

    def semantics(self) -> str:
        within = (
            f"each within {self.window} of the step before"
            if self.per_step
            else f"all within {self.window} of the entry"
        )
        return (
            f"a user (of a tenant) enters with an event {self.step[0]} in [from_ts, to_ts) and takes each later step with an"
            f" event that is strictly later than the step before, {within}, also past to_ts; a user counts once, by the furthest"
            " of all entries, in that step and those before it; filters apply to the events of every step; still_open: users"
            " who got no further than this step, but still could: a window of theirs was not over at the watermark"
        )

    def answer(self, rows: Sequence[Row]) -> Answer:
        steps = []
        entered = before = rows[0]["users"]
        for row in rows:
            users = row["users"]
            steps.append(
                {
                    "step": row["step"],
                    "event_name": row["event_name"],
                    "users": users,
                    "conversion": _share(users, entered),
                    "conversion_from_previous": _share(users, before),
                    "still_open": row["still_open"],
                }
            )
            before = users
        fields = {"steps": steps, "window_seconds": int(self._duration.total_seconds()), "per_step": self.per_step}
        return Answer(fields, [(self.from_ts, self.settles())])


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


class FunnelStep(BaseModel):
    """A step and who came as far."""

    step: Annotated[int, Field(description="1: the entry")]
    event_name: str
    users: Annotated[int, Field(description="Users who came to this step, or further")]
    conversion: Annotated[float | None, Field(description="Their share of those who entered; null: nobody did")]
    conversion_from_previous: Annotated[float | None, Field(description="Their share of the step before")]
    still_open: Annotated[
        int, Field(description="Users at this step, no further, whose window was not over at the watermark")
    ]


class FunnelReply(Reply):
    """How many users came how far."""

    steps: list[FunnelStep]
    window_seconds: int
    per_step: bool
