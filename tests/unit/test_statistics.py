"""Statistics agree with GrowthBook's, with closed forms, and with what happens when nothing differs."""

from __future__ import annotations

import json
from math import exp, lgamma, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from analytics_service.statistics import (
    MISMATCH,
    Arm,
    Outcome,
    fixed_horizon,
    holm,
    posterior,
    sample_ratio_p_value,
    sequential,
    untestable,
)
from tests.oracles.growthbook import Compared, Effect, Split

_GOLDEN = json.loads((Path(__file__).parent / "golden" / "growthbook.json").read_bytes())
COMPARED = [Compared(*case) for case in _GOLDEN["compared"]]
SPLITS = [Split(*case) for case in _GOLDEN["splits"]]
ALPHAS = (0.001, 0.01, 0.05, 0.2)


@st.composite
def arms(draw: st.DrawFn, least: int = 2, most: int = 1_000_000) -> Arm:
    """Users of whom some converted and some did not."""
    users = draw(st.integers(least, 100) | st.integers(least, most))
    return Arm(users, draw(st.integers(1, users - 1)))


def close(ours: float, theirs: float, within: float = 1e-6) -> bool:
    return abs(ours - theirs) <= within * max(1.0, abs(theirs))


# --- tests of no difference


def agrees(ours: Outcome, difference: Effect, lift: Effect) -> bool:
    """Whether estimates, intervals and the p-value of no difference are the same to 1e-6."""
    pairs = zip((*ours.difference, ours.p_value, *ours.lift), (*difference, *lift), strict=False)
    return all(close(mine, theirs) for mine, theirs in pairs)


def test_the_test_for_one_look_is_growthbooks() -> None:
    for case in COMPARED:
        ours = fixed_horizon(Arm(*case.control), Arm(*case.treated), case.alpha)
        assert agrees(ours, case.fixed_difference, case.fixed_lift), case


def test_the_test_for_many_looks_is_growthbooks() -> None:
    for case in COMPARED:
        ours = sequential(Arm(*case.control), Arm(*case.treated), case.alpha, case.tuning)
        assert agrees(ours, case.sequential_difference, case.sequential_lift), case


@settings(deadline=None, max_examples=300)
@given(arms(), arms(), st.sampled_from(ALPHAS))
def test_an_interval_leaves_out_zero_just_where_the_p_value_is_below_alpha(
    control: Arm, treated: Arm, alpha: float
) -> None:
    for result in (fixed_horizon(control, treated, alpha), sequential(control, treated, alpha)):
        inside = result.difference.low <= 0 <= result.difference.high
        assert inside == (result.p_value >= alpha) or close(result.p_value, alpha, 1e-9)


@pytest.mark.parametrize(
    ("control", "treated", "reason"),
    [
        (Arm(0, 0), Arm(10, 5), "the control has no users"),
        (Arm(10, 5), Arm(0, 0), "the variant has no users"),
        (Arm(10, 0), Arm(10, 5), "no user of the control converted"),
        (Arm(10, 5), Arm(1, 1), "every user of the variant converted"),
        (Arm(2, 1), Arm(2, 1), None),
    ],
)
def test_what_cannot_be_tested_has_a_reason(control: Arm, treated: Arm, reason: str | None) -> None:
    assert untestable(control, treated) == reason


# --- when nothing differs


def simulated(experiments: int, users: int, looks: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """A/A experiments: the conversions of both arms at each look, of ``users`` in each arm at the last."""
    random = np.random.default_rng(20261101)
    return random.binomial(users // looks, 0.1, size=(experiments, 2, looks)).cumsum(axis=2)


def rate_within(hits: int, experiments: int, rate: float) -> bool:
    """Whether so many hits are what ``rate`` gives: less extreme than once in 1000 times, either way."""
    return bool(stats.binom.ppf(0.0005, experiments, rate) <= hits <= stats.binom.ppf(0.9995, experiments, rate))


def test_one_look_at_experiments_without_a_difference_is_wrong_as_often_as_alpha_says() -> None:
    conversions = simulated(5000, 5000, 1)[:, :, 0]
    wrong = sum(fixed_horizon(Arm(5000, int(a)), Arm(5000, int(b)), 0.05).p_value < 0.05 for a, b in conversions)
    assert rate_within(wrong, 5000, 0.05)


def test_many_looks_are_wrong_too_often_unless_the_test_is_made_for_them() -> None:
    experiments, looks, step = 2000, 20, 500
    peeked = {"fixed_horizon": 0, "sequential": 0}
    for a, b in simulated(experiments, looks * step, looks):
        seen = [(Arm(step * (i + 1), int(a[i])), Arm(step * (i + 1), int(b[i]))) for i in range(looks)]
        peeked["fixed_horizon"] += any(fixed_horizon(*arms, 0.05).p_value < 0.05 for arms in seen)
        peeked["sequential"] += any(sequential(*arms, 0.05).p_value < 0.05 for arms in seen)
    assert peeked["fixed_horizon"] > 0.15 * experiments
    assert 0 < peeked["sequential"] <= 0.05 * experiments


def test_a_real_difference_is_found_by_both() -> None:
    random = np.random.default_rng(20261102)
    pairs = zip(random.binomial(10_000, 0.10, 500), random.binomial(10_000, 0.12, 500), strict=True)
    arms = [(Arm(10_000, int(a)), Arm(10_000, int(b))) for a, b in pairs]
    assert sum(fixed_horizon(*both, 0.05).p_value < 0.05 for both in arms) > 0.98 * 500
    assert sum(sequential(*both, 0.05).p_value < 0.05 for both in arms) > 0.85 * 500


# --- the split


def test_the_check_of_the_split_is_growthbooks() -> None:
    for case in SPLITS:
        assert close(sample_ratio_p_value(case.users, case.weights), case.p_value, 1e-9), case
    assert min(case.p_value for case in SPLITS) < MISMATCH < 0.5 < max(case.p_value for case in SPLITS)


def test_a_split_as_meant_is_hardly_ever_called_a_mismatch() -> None:
    random = np.random.default_rng(20261103)
    splits = random.multinomial(3000, (0.25, 0.25, 0.5), size=50_000).tolist()
    wrong = sum(sample_ratio_p_value(users, (1, 1, 2)) < MISMATCH for users in splits)
    assert rate_within(wrong, 50_000, MISMATCH)


def test_a_split_that_lost_users_is_noticed() -> None:
    assert sample_ratio_p_value((50_000, 48_500), (1, 1)) < MISMATCH


# --- several comparisons


def test_holm_corrects_as_in_his_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_steps_reject(p_values: list[float]) -> None:
    for alpha in (0.05, 0.3):
        rejected = set()
        for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[place] * (len(p_values) - rank) > alpha:
                break
            rejected.add(place)
        assert {place for place, corrected in enumerate(holm(p_values)) if corrected <= alpha} == rejected


# --- belief


def chance_in_closed_form(control: Arm, treated: Arm) -> float:
    """P(p_t > p_c) as a sum over Beta functions (Evan Miller: Formulas for Bayesian A/B Testing, equation 6)."""

    def log_beta(a: float, b: float) -> float:
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    a, b = 1 + control.conversions, 1 + control.users - control.conversions
    c, d = 1 + treated.conversions, 1 + treated.users - treated.conversions
    return sum(exp(log_beta(a + i, b + d) - log(d + i) - log_beta(1 + i, d) - log_beta(a, b)) for i in range(c))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_the_chance_to_win_is_the_closed_forms(c: int, more_c: int, t: int, more_t: int) -> None:
    control, treated = Arm(c + more_c, c), Arm(t + more_t, t)
    believed = posterior(control, treated, 0.05)
    assert close(believed.chance_to_win, chance_in_closed_form(control, treated), 1e-10)
    assert close(believed.chance_to_win + posterior(treated, control, 0.05).chance_to_win, 1, 1e-10)


def test_without_any_user_two_uniform_rates_are_compared() -> None:
    believed = posterior(Arm(0, 0), Arm(0, 0), 0.05)
    assert believed.chance_to_win == pytest.approx(1 / 2)
    assert [believed.loss_if_chosen, believed.loss_if_not] == pytest.approx([1 / 6, 1 / 6])
    # The ratio of two uniform variables is below r with r / 2 up to 1, and above it with 1 / (2 r) from there.
    assert list(believed.lift) == pytest.approx([0, 0.05 - 1, 20 - 1], abs=1e-9)


@pytest.mark.parametrize(
    ("control", "treated"),
    [
        (Arm(10, 2), Arm(12, 5)),
        (Arm(200, 0), Arm(150, 3)),
        (Arm(1000, 100), Arm(1000, 130)),
        (Arm(50, 50), Arm(40, 39)),
        (Arm(30, 10), Arm(20_000, 7_000)),
        (Arm(20_000, 7_000), Arm(30, 10)),
    ],
)
def test_losses_and_lift_are_what_integrating_step_by_step_gives(control: Arm, treated: Arm) -> None:
    believed = posterior(control, treated, 0.1)
    before, after = (stats.beta(1 + arm.conversions, 1 + arm.users - arm.conversions) for arm in (control, treated))
    x = np.linspace(0, 1, 200_001)
    # E[max(X - Y, 0)] = ∫ P(Y < x < X) dx for independent X and Y.
    assert close(believed.loss_if_chosen, float(integrate.simpson(after.cdf(x) * before.sf(x), x=x)), 1e-9)
    assert close(believed.loss_if_not, float(integrate.simpson(before.cdf(x) * after.sf(x), x=x)), 1e-9)
    for lift, probability in zip(believed.lift, (0.5, 0.05, 0.95), strict=True):
        below = float(integrate.simpson(before.pdf(x) * after.cdf(np.minimum(x * (1 + lift), 1)), x=x))
        assert below == pytest.approx(probability, abs=1e-8)


def test_with_many_conversions_belief_is_growthbooks_gaussian() -> None:
    many = [case for case in COMPARED if min(case.control[1], case.treated[1]) >= 3000]
    assert len(many) > 90
    for case in many:
        believed = posterior(Arm(*case.control), Arm(*case.treated), case.alpha)
        chance, low, high = case.belief
        assert believed.chance_to_win == pytest.approx(chance, abs=0.01)
        assert believed.lift.low == pytest.approx(low, abs=0.05 * (high - low))
        assert believed.lift.high == pytest.approx(high, abs=0.05 * (high - low))
        assert believed.loss_if_not == pytest.approx(case.losses[0], rel=0.05, abs=1e-5)
        assert believed.loss_if_chosen == pytest.approx(case.losses[1], rel=0.05, abs=1e-5)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**9), st.floats(0, 1), st.integers(0, 10**9), st.floats(0, 1), st.sampled_from(ALPHAS))
def test_belief_makes_sense_for_any_counts(n: int, p: float, m: int, q: float, alpha: float) -> None:
    control, treated = Arm(n, round(n * p)), Arm(m, round(m * q))
    believed = posterior(control, treated, alpha)
    assert 0 <= believed.chance_to_win <= 1
    assert believed.lift.low < believed.lift.estimate < believed.lift.high
    assert believed.lift.low >= -1
    means = [(1 + arm.conversions) / (2 + arm.users) for arm in (control, treated)]
    assert close(believed.loss_if_not - believed.loss_if_chosen, means[1] - means[0], 1e-7)
    assert believed == posterior(control, treated, alpha)
