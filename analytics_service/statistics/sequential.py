"""The test that stays right however often one looks. Pure."""

from __future__ import annotations

from math import exp, log, sqrt

from analytics_service.statistics.proportions import Arm, Effect, Outcome, difference, lift

TUNING = 5000.0
"""The number of users at which the interval is at its tightest, relative to one for a single look."""


def sequential(control: Arm, treated: Arm, alpha: float, tuning: float = TUNING) -> Outcome:
    """An asymptotic confidence sequence at 1 - alpha, and its always-valid p-value. The two must not be ``untestable``.

    With N users in all, V the variance of the effect and ρ² = (-2 ln α + ln(-2 ln α + 1)) / tuning, the interval is ± w with
    w² = N V · 2 (N ρ² + 1) ln(√(N ρ² + 1) / α) / (N ρ)². The p-value is 1 / E, at most 1, where the effect D has the e-value
    E = exp(ρ² N D² / (2 V (N ρ² + 1))) / √(N ρ² + 1): it is below alpha just where the interval leaves out 0.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: Time-uniform central limit theory and asymptotic confidence sequences
    (arXiv 2103.06476v7), equations 9, 155 and 161; gbstats' SequentialTwoSidedTTest.
    """
    users = control.users + treated.users
    rho2 = (-2 * log(alpha) + log(-2 * log(alpha) + 1)) / tuning
    growth = users * rho2 + 1
    scale = sqrt(2 * growth * log(sqrt(growth) / alpha) / (users * rho2))
    effect = difference(control, treated)
    relative = lift(control, treated)
    return Outcome(
        effect.give_or_take(scale * sqrt(effect.variance)),
        relative.give_or_take(scale * sqrt(relative.variance)),
        _p_value(effect, users * rho2),
    )


def _p_value(effect: Effect, growth: float) -> float:
    # In logarithms: a clear effect's e-value is larger than any float.
    evidence = growth * effect.estimate**2 / (2 * effect.variance * (growth + 1)) - log(growth + 1) / 2
    return exp(-max(evidence, 0.0))
