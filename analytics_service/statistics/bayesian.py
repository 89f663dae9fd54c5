"""How probable it is that a variant is better. Pure, and the same each time: by quadrature, without random numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from analytics_service.statistics.proportions import Arm, Interval

Floats = npt.NDArray[np.float64]

_NODES, _WEIGHTS = special.roots_legendre(16)
_TAIL = np.array([1e-16, 1e-13, 1e-10, 1e-7, 1e-5, 1e-3, 0.02, 0.1, 0.3])
"""Where the range is cut for the quadrature, as probabilities from either end: each piece is smooth enough for its 16 nodes."""


class Posterior(NamedTuple):
    """What is to be believed of a variant against the control."""

    chance_to_win: float
    """P(p_t > p_c)."""
    loss_if_chosen: float
    """E[max(p_c - p_t, 0)]: conversions per user lost, on average, by choosing the variant."""
    loss_if_not: float
    """E[max(p_t - p_c, 0)]: the same by keeping the control."""
    lift: Interval
    """p_t / p_c - 1: the median, and the quantiles alpha / 2 and 1 - alpha / 2."""


class _Beta(NamedTuple):
    """A rate's distribution: c conversions of n users after a uniform prior give Beta(1 + c, 1 + n - c)."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        return self.a / (self.a + self.b)

    def cuts(self) -> Floats:
        return np.concatenate(
            (
                special.betaincinv(self.a, self.b, _TAIL),
                special.betainccinv(self.a, self.b, np.append(0.5, _TAIL[::-1])),
            )
        )

    def quantile(self, probability: float) -> float:
        return float(special.betaincinv(self.a, self.b, probability))

    def upper_quantile(self, probability: float) -> float:
        return float(special.betainccinv(self.a, self.b, probability))


def posterior(control: Arm, treated: Arm, alpha: float) -> Posterior:
    """Compares the two rates' posterior distributions under a uniform prior, Beta(1, 1), for each.

    With f the density of p_c and F the distribution of p_t ~ Beta(a, b), mean μ:
    P(p_t > p_c) = ∫ f(x) (1 - F(x)) dx; E[max(p_c - p_t, 0)] = ∫ f(x) (x F(x) - μ F₊(x)) dx where F₊ is that of Beta(a + 1, b);
    P(p_t / p_c <= r) = ∫ f(x) F(r x) dx, solved for r at the probabilities alpha / 2, 1 / 2 and 1 - alpha / 2.
    Each integral is Gauss-Legendre's between quantiles of both distributions; the error is about 1e-10.

    Source: Evan Miller: Formulas for Bayesian A/B Testing (2015); for the loss Chris Stucchio: Bayesian A/B Testing at VWO
    (2015).
    """
    before = _Beta(1.0 + control.conversions, 1.0 + control.users - control.conversions)
    after = _Beta(1.0 + treated.conversions, 1.0 + treated.users - treated.conversions)
    x, weight = _nodes(before, after.cuts())
    below, above = special.betainc(after.a, after.b, x), special.betaincc(after.a, after.b, x)
    loss_if_chosen = weight @ (x * below - after.mean * special.betainc(after.a + 1, after.b, x))
    loss_if_not = weight @ (after.mean * special.betaincc(after.a + 1, after.b, x) - x * above)
    low, middle, high = (_ratio(before, after, probability) - 1 for probability in (alpha / 2, 0.5, 1 - alpha / 2))
    return Posterior(
        min(float(weight @ above), 1.0),
        max(float(loss_if_chosen), 0.0),
        max(float(loss_if_not), 0.0),
        Interval(middle, low, high),
    )


def _nodes(density: _Beta, others: Floats) -> tuple[Floats, Floats]:
    """Where to take the integrand of ∫ f(x) g(x) dx, and the weights, which include f; g is steep near ``others``."""
    own = density.cuts()
    cuts = np.unique(np.concatenate((own, others[(others > own[0]) & (others < own[-1])])))
    half = np.diff(cuts) / 2
    x = (half[:, None] * _NODES + (cuts[:-1] + half)[:, None]).ravel()
    logarithm = special.xlogy(density.a - 1, x) + special.xlog1py(density.b - 1, -x)
    weight = (half[:, None] * _WEIGHTS).ravel() * np.exp(logarithm - logarithm.max())
    # Together they are one: then the density's own factor cancels out, and most of the rounding.
    return x, weight / weight.sum()


def _ratio(before: _Beta, after: _Beta, probability: float) -> float:
    """The quantile of p_t / p_c."""

    def excess(log_ratio: float) -> float:
        ratio = np.exp(log_ratio)
        x, weight = _nodes(before, after.cuts() / ratio)
        return float(weight @ special.betainc(after.a, after.b, np.minimum(x * ratio, 1.0))) - probability

    # The ratio is outside these bounds only where one of the rates is in a tail of half the probability.
    least = after.quantile(probability / 2) / before.upper_quantile(probability / 2)
    most = after.upper_quantile((1 - probability) / 2) / before.quantile((1 - probability) / 2)
    return float(np.exp(optimize.brentq(excess, np.log(least), np.log(most), xtol=1e-13, rtol=1e-13)))
