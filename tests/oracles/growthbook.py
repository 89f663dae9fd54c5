"""What GrowthBook's statistics say of random experiments, kept in tests/unit/golden/growthbook.json.

gbstats needs old versions of pandas and numpy, which newer Pythons cannot install: it is no dependency. Anew, by Python 3.11:
``uv run --no-project --with gbstats==0.8.0 -m tests.oracles.growthbook > tests/unit/golden/growthbook.json``
"""

from __future__ import annotations

import json
from random import Random
from typing import Any, NamedTuple

Effect = tuple[float, float, float, float]
"""Estimate, lower and upper bound of the interval, p-value."""


class Compared(NamedTuple):
    """Two variants, and what gbstats says of them."""

    control: tuple[int, int]
    """Users and conversions."""
    treated: tuple[int, int]
    alpha: float
    tuning: float
    fixed_difference: Effect
    fixed_lift: Effect
    sequential_difference: Effect
    sequential_lift: Effect
    belief: tuple[float, float, float]
    """The chance to win, and the lift's credible interval."""
    losses: tuple[float, float]
    """In conversions per user: of keeping the control, of choosing the variant."""


class Split(NamedTuple):
    """Users of each variant, how they were meant to be split, and gbstats' p-value."""

    users: list[int]
    weights: list[float]
    p_value: float


def _arm(random: Random, rate: float, digits: tuple[float, float]) -> tuple[int, int]:
    users = int(10 ** random.uniform(*digits))
    return users, min(users - 1, max(1, round(random.gauss(users * rate, (users * rate * (1 - rate)) ** 0.5))))


def _compared(random: Random, *, large: bool) -> Compared:
    from gbstats.bayesian.tests import EffectBayesianABTest, EffectBayesianConfig
    from gbstats.frequentist.tests import FrequentistConfig, SequentialConfig, SequentialTwoSidedTTest, TwoSidedTTest
    from gbstats.models.statistics import ProportionStatistic

    rate = 10 ** random.uniform(-1.2 if large else -3, -0.05)
    digits = (5.0, 6.5) if large else (0.4, 6.0)
    factor = random.choice((1, 1, 1.005, 0.99) if large else (1, 1.02, 1.2, 0.5))
    control, treated = _arm(random, rate, digits), _arm(random, min(0.95, rate * factor), digits)
    alpha, tuning = random.choice((0.001, 0.01, 0.05, 0.2)), random.choice((500.0, 5000.0, 50_000.0))
    arms = [ProportionStatistic(n=users, sum=conversions) for users, conversions in (control, treated)]

    def effect(result: Any) -> Effect:
        return float(result.expected), float(result.ci[0]), float(result.ci[1]), float(result.p_value)

    def fixed(kind: str) -> Effect:
        return effect(TwoSidedTTest(*arms, FrequentistConfig(alpha=alpha, difference_type=kind)).compute_result())

    def sequential(kind: str) -> Effect:
        config = SequentialConfig(alpha=alpha, difference_type=kind, sequential_tuning_parameter=tuning)
        return effect(SequentialTwoSidedTTest(*arms, config).compute_result())

    def belief(kind: str) -> Any:
        return EffectBayesianABTest(*arms, EffectBayesianConfig(alpha=alpha, difference_type=kind)).compute_result()

    believed, losses = belief("relative"), belief("absolute").risk
    return Compared(
        control,
        treated,
        alpha,
        tuning,
        fixed("absolute"),
        fixed("relative"),
        sequential("absolute"),
        sequential("relative"),
        (float(believed.chance_to_win), float(believed.ci[0]), float(believed.ci[1])),
        (float(losses[0]), float(losses[1])),
    )


def _split(random: Random) -> Split:
    from gbstats.utils import check_srm

    weights = [random.choice((0.5, 1.0, 3.0)) for _ in range(random.randint(2, 5))]
    users = [round(random.gauss(1000 * weight, (1000 * weight) ** 0.5 * 1.5)) for weight in weights]
    return Split(users, weights, float(check_srm(users, weights)))


def main() -> None:
    """Prints the file."""
    random = Random(20261101)
    compared = [_compared(random, large=number % 3 == 0) for number in range(300)]
    splits = [_split(random) for _ in range(100)]
    lines = [json.dumps(one, separators=(",", ":")) for one in (*compared, *splits)]
    print('{"compared":[\n' + ",\n".join(lines[:300]) + '\n],"splits":[\n' + ",\n".join(lines[300:]) + "\n]}")


if __name__ == "__main__":
    main()
