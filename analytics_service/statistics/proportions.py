"""Two shares of converted users, and how they differ. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Arm(NamedTuple):
    """The users of one variant."""

    users: int
    conversions: int
    """How many of them; each at most once."""

    @property
    def rate(self) -> float:
        """The share of converted users; there must be one user at least."""
        return self.conversions / self.users

    @property
    def variance(self) -> float:
        """Of one user's outcome, 0 or 1: p (1 - p)."""
        return self.rate * (1 - self.rate)


class Interval(NamedTuple):
    """An estimate between two bounds."""

    estimate: float
    low: float
    high: float


class Outcome(NamedTuple):
    """What a test says of a variant against the control."""

    difference: Interval
    """rate - control's rate."""
    lift: Interval
    """rate / control's rate - 1."""
    p_value: float
    """Two-sided, of no difference."""


class Effect(NamedTuple):
    """An estimate with its variance."""

    estimate: float
    variance: float

    def give_or_take(self, width: float) -> Interval:
        return Interval(self.estimate, self.estimate - width, self.estimate + width)


def untestable(control: Arm, treated: Arm) -> str | None:
    """Why ``fixed_horizon`` and ``sequential`` cannot compare the two; None: they can.

    A share of 0 or 1 has an estimated variance of 0, so the normal approximation would be sure of what it has not seen.
    """
    for arm, name in ((control, "the control"), (treated, "the variant")):
        if arm.users == 0:
            return f"{name} has no users"
        if arm.conversions == 0:
            return f"no user of {name} converted"
        if arm.conversions == arm.users:
            return f"every user of {name} converted"
    return None


def difference(control: Arm, treated: Arm) -> Effect:
    """p_t - p_c, with the variance v_t / n_t + v_c / n_c. As gbstats' frequentist_diff and frequentist_variance."""
    return Effect(
        treated.rate - control.rate,
        treated.variance / treated.users + control.variance / control.users,
    )


def lift(control: Arm, treated: Arm) -> Effect:
    """p_t / p_c - 1, with the delta method's variance v_t / (n_t p_c²) + v_c p_t² / (n_c p_c⁴).

    Source: Deng, Knoblich, Lu: Applying the Delta Method in Metric Analytics (KDD 2018), 3.1; gbstats' frequentist_variance.
    """
    estimate = difference(control, treated).estimate / control.rate
    return Effect(
        estimate,
        treated.variance / (control.rate**2 * treated.users)
        + control.variance * treated.rate**2 / (control.rate**4 * control.users),
    )
