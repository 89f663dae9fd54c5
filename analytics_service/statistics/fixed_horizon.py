"""The test for one look at a time set before. Pure."""

from __future__ import annotations

from math import sqrt

from scipy import special

from analytics_service.statistics.proportions import Arm, Outcome, difference, lift


def fixed_horizon(control: Arm, treated: Arm, alpha: float) -> Outcome:
    """Welch's two-sided test of p_t = p_c, with intervals at 1 - alpha. The two must not be ``untestable``.

    t = (p_t - p_c) / s with s² the variance of the difference; the p-value is 2 P(T > |t|), the interval ± s t_{1-alpha/2},
    both with Welch-Satterthwaite's degrees of freedom; with more than some hundred users that is the z-test. The lift's
    interval is the delta method's. Looking several times and stopping at the first p < alpha is wrong far more often than
    alpha: use ``sequential``.

    Source: gbstats' TwoSidedTTest (growthbook/growthbook, packages/stats).
    """
    degrees = _degrees(control, treated)
    effect = difference(control, treated)
    relative = lift(control, treated)
    quantile = -float(special.stdtrit(degrees, alpha / 2))
    return Outcome(
        effect.give_or_take(quantile * sqrt(effect.variance)),
        relative.give_or_take(quantile * sqrt(relative.variance)),
        2 * float(special.stdtr(degrees, -abs(effect.estimate) / sqrt(effect.variance))),
    )


def _degrees(control: Arm, treated: Arm) -> float:
    """Welch-Satterthwaite's degrees of freedom: (Σ v/n)² / Σ (v/n)² / (n - 1)."""
    parts = [(arm.variance / arm.users, arm.users - 1) for arm in (control, treated)]
    return float(sum(part for part, _ in parts) ** 2 / sum(part**2 / free for part, free in parts))
