"""Which variant of an experiment does better. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, Field, model_validator

from analytics_service.errors import InvalidQuery
from analytics_service.questions.base import Answer, Cost, Names, Ranged, Reply, Row, name
from analytics_service.statistics import MISMATCH, Arm, analyse
from analytics_service.times import later, parse_duration
from event_core.event import EARLIEST
from event_core.sqlfiles import load_sql

MAX_WEIGHT = 1e6
STRAY = 0.01
"""Where nobody says which variants there are, one with a smaller share of the users is a mistake of somebody's, not a variant."""
_FEW = f"{STRAY * 100:g} %"


def _weight(text: str) -> tuple[str, float]:
    variant, colon, number = text.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not colon or not 0 < weight <= MAX_WEIGHT:
        raise InvalidQuery(f"ratio: {text[:64]!r} is no share: send ratio=A:1&ratio=B:1, each above 0")
    return name(variant, "ratio"), weight


class ExperimentParameters(Ranged):
    """All that is asked about an experiment, but which."""

    goal: Annotated[str, Field(description="The name of the event that is a conversion", examples=["purchase"])]
    window: Annotated[
        str,
        Field(description="How long after the first exposure a conversion counts: 30m, 12h, 7d, 2w", examples=["7d"]),
    ] = "7d"
    control: Annotated[
        str | None,
        Field(description="The variant to compare with; else the first in alphabetical order", examples=["A"]),
    ] = None
    ratio: Annotated[
        Names | None,
        Field(description="How users were meant to be split, a share for each variant: `A:1`, `B:1`; else evenly"),
    ] = None
    alpha: Annotated[
        float, Field(ge=0.001, le=0.2, description="Accepted chance of seeing a difference where there is none")
    ] = 0.05

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for field in ("experiment_id", "variant"):
            if getattr(self, field) is not None:
                raise InvalidQuery(f"{field}: leave it out: the experiment says which events are exposures")
        if self.event_name is not None:
            raise InvalidQuery("event_name: leave it out: the goal names the conversions")
        name(self.goal, "goal")
        parse_duration(self.window, "window")
        if self.control is not None:
            name(self.control, "control")
        if len(self._weights) < len(self.ratio or ()):
            raise InvalidQuery("ratio: a variant has two shares: send one for each")
        if self._weights and self.control is not None and self.control not in self._weights:
            raise InvalidQuery(f"control: {self.control[:64]!r} has no share in ratio")
        return self

    @cached_property
    def _weights(self) -> dict[str, float]:
        return dict(_weight(text) for text in self.ratio or ())

    @cached_property
    def _duration(self) -> timedelta:
        return parse_duration(self.window, "window")


class ExperimentQuestion(ExperimentParameters):
    """Which variant of an experiment does better at a goal."""

    KIND: ClassVar[str] = "experiment"
    ROWS: ClassVar[str] = load_sql("analytics_service.sql", "experiment")
    COLUMNS: ClassVar[tuple[str, ...]] = ("variant", "users", "conversions", "still_open")

    experiment: Annotated[
        str, Field(description="The experiment's id: experiment_id of its events", examples=["exp_1"])
    ]

    @model_validator(mode="after")
    def _possible_experiment(self) -> Self:
        name(self.experiment, "experiment")
        return self

    def settles(self) -> datetime:
        """When the last window is over: before it, the answer also depends on how far the stored events reach."""
        return later(self.to_ts, self._duration)

    def arguments(self) -> tuple[object, ...]:
        return self.experiment, self.goal, self.from_ts, self.to_ts, self._duration, self.filters_json()

    def touched(self) -> tuple[datetime, datetime]:
        # An exposure of any earlier day, stored late, moves a user out of the range.
        return EARLIEST, self.settles()

    def cost(self) -> Cost | None:
        whose = {field: self.filters[field] for field in ("tenant_id",) if field in self.filters}
        return Cost(self.from_ts, self.settles(), {**whose, "event_name": [self.goal]})

    def semantics(self) -> str:
        return (
            f"a user (of a tenant) counts once, by the first exposure: the first event of {self.experiment} with a variant, of"
            " all time; it must lie in [from_ts, to_ts); users with several variants before to_ts are excluded; a user converts"
            f" with an event {self.goal} after the first exposure and at most {self.window} later, also past to_ts; tenant_id"
            " and user_id choose users, other filters choose conversions. sequential holds however often one looks and decides"
            " the conclusion, fixed_horizon holds for one look at a time set before; p_value is not corrected for several"
            " variants, p_value_corrected is (Holm)"
            + (
                ""
                if self._weights
                else f"; without ratio, variants with less than {_FEW} of the users are strays, not compared"
            )
        )

    def answer(self, rows: Sequence[Row]) -> Answer:
        counted = {row["variant"]: row for row in rows}
        excluded = counted.pop(None, None)
        strays = [{"variant": variant, "users": counted.pop(variant)["users"]} for variant in self._strays(counted)]
        variants = {
            variant: Arm(counted[variant]["users"], counted[variant]["conversions"])
            if variant in counted
            else Arm(0, 0)
            for variant in sorted(counted.keys() | self._weights.keys())
        }
        still_open = {variant: row["still_open"] for variant, row in counted.items()}
        analysis = analyse(variants, self.control, self._weights, self.alpha)
        if strays:
            analysis["conclusion"] += f"; {len(strays)} left out with less than {_FEW} of the users: see stray_variants"
        if waiting := sum(still_open.values()):
            analysis["conclusion"] += f"; {waiting} windows are still open"
        return Answer(
            {
                "experiment": self.experiment,
                "goal": self.goal,
                "window": self.window,
                "alpha": self.alpha,
                "excluded_users": excluded["users"] if excluded is not None else 0,
                "variants": [
                    {
                        "variant": variant,
                        "users": arm.users,
                        "conversions": arm.conversions,
                        "rate": arm.rate if arm.users else None,
                        "still_open": still_open.get(variant, 0),
                    }
                    for variant, arm in variants.items()
                ],
                "stray_variants": strays,
                **analysis,
            },
            [(self.from_ts, self.to_ts)],
        )

    def _strays(self, counted: Mapping[str, Row]) -> list[str]:
        """The variants that are none, by name."""
        least = STRAY * sum(row["users"] for row in counted.values())
        few = sorted(variant for variant, row in counted.items() if row["users"] < least and variant != self.control)
        # A hundred small variants are what was meant.
        return few if not self._weights and len(few) < len(counted) else []


class VariantCounts(BaseModel):
    """One variant's users."""

    variant: str
    users: int
    conversions: Annotated[int, Field(description="Users who reached the goal in their window; each once")]
    rate: Annotated[float | None, Field(description="conversions / users; null: no users")]
    still_open: Annotated[int, Field(description="Users whose window was not over at the watermark")]


class StrayVariant(BaseModel):
    """A variant that so few users saw that it is taken for a mistake."""

    variant: str
    users: int


class IntervalReply(BaseModel):
    """An estimate between two bounds."""

    estimate: float
    low: float
    high: float


class OutcomeReply(BaseModel):
    """What a test says of a variant against the control, with intervals at 1 - alpha."""

    difference: Annotated[IntervalReply, Field(description="Of the rates")]
    lift: Annotated[IntervalReply, Field(description="Relative to the control's rate: 0.1 is 10 % more")]
    p_value: Annotated[float, Field(description="Of no difference, two-sided, for this variant alone")]
    p_value_corrected: Annotated[float, Field(description="For all variants together, by Holm")]


class BayesianReply(BaseModel):
    """What is to be believed of a variant against the control, after a uniform prior."""

    chance_to_win: Annotated[
        float, Field(description="Probability that the variant's rate is higher than the control's")
    ]
    loss_if_chosen: Annotated[float, Field(description="Expected conversions per user lost by choosing the variant")]
    loss_if_not: Annotated[float, Field(description="Expected conversions per user lost by keeping the control")]
    lift: Annotated[IntervalReply, Field(description="Median and credible interval at 1 - alpha")]


class Comparison(BaseModel):
    """A variant against the control."""

    variant: str
    fixed_horizon: Annotated[OutcomeReply | None, Field(description="Holds for one look at a time set before")]
    sequential: Annotated[OutcomeReply | None, Field(description="Holds however often one looks")]
    bayesian: BayesianReply | None
    reason: Annotated[str | None, Field(description="Why there is no test")]


class SampleRatio(BaseModel):
    """Whether users were split as meant."""

    p_value: Annotated[float | None, Field(description="Chi-square test of goodness of fit; null: reason says why")]
    mismatch: Annotated[bool, Field(description=f"p_value below {MISMATCH}: no comparison can be trusted")]
    expected: Annotated[dict[str, float], Field(description="The share meant for each variant")]
    reason: str | None


class ExperimentReply(Reply):
    """Which variant of an experiment does better at a goal."""

    experiment: str
    goal: str
    window: str
    alpha: float
    control: Annotated[str | None, Field(description="The variant that the others are compared with")]
    excluded_users: Annotated[int, Field(description="Users left out, as they saw several variants")]
    sample_ratio: SampleRatio
    variants: list[VariantCounts]
    stray_variants: Annotated[
        list[StrayVariant],
        Field(
            description=f"Without `ratio`: what less than {_FEW} of the users saw, but for `control`. Neither compared"
            " nor part of sample_ratio; name it in `ratio` if it is a variant"
        ),
    ]
    comparisons: list[Comparison]
    better: Annotated[list[str], Field(description="Variants that do better than the control")]
    worse: Annotated[list[str], Field(description="Variants that do worse")]
    conclusion: Annotated[str, Field(description="The same in words")]
