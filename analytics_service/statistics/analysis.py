"""All of an experiment's variants against its control, and what follows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analytics_service.statistics.bayesian import Posterior, posterior
from analytics_service.statistics.fixed_horizon import fixed_horizon
from analytics_service.statistics.proportions import Arm, Outcome, untestable
from analytics_service.statistics.sequential import sequential
from analytics_service.statistics.several import holm, sample_ratio_p_value

MISMATCH = 0.001
"""A sample ratio less probable than this is no accident."""
LEAST_EXPECTED = 5
"""Users that the split must expect in each variant for its test to hold (Cochran's rule)."""
LEAST_SAID = 1e-300
"""A smaller p-value is below what floats can tell apart from none."""
MAX_VARIANTS = 20
"""More are counted, but not compared."""


def analyse(
    variants: Mapping[str, Arm], control: str | None, weights: Mapping[str, float], alpha: float
) -> dict[str, Any]:
    """What a reply says of the variants: control, sample_ratio, comparisons, better, worse, conclusion.

    Args:
        variants: By name, in the order of the reply.
        control: None: the first.
        weights: How users were meant to be split; empty: evenly.
        alpha: Of each test; better and worse go by the sequential one, corrected for several comparisons.
    """
    control = control if control is not None else next(iter(variants), None)
    ratio = _sample_ratio(variants, weights)
    comparisons = _comparisons(variants, control, alpha)
    better, worse = _decided(comparisons, alpha) if not ratio["mismatch"] else ([], [])
    return {
        "control": control,
        "sample_ratio": ratio,
        "comparisons": comparisons,
        "better": better,
        "worse": worse,
        "conclusion": _conclusion(ratio, comparisons, better, worse, control, len(variants)),
    }


def _sample_ratio(variants: Mapping[str, Arm], weights: Mapping[str, float]) -> dict[str, Any]:
    users = {variant: arm.users for variant, arm in variants.items()}
    expected = dict(weights) or dict.fromkeys(users, 1.0)
    shares = {variant: weight / sum(expected.values()) for variant, weight in expected.items()}
    unmeant = [variant for variant in users if variant not in expected]
    p_value: float | None = None
    reason: str | None = None
    if unmeant:
        p_value, reason = 0.0, f"users saw {', '.join(unmeant[:5])}, which ratio does not name"
    elif len(users) < 2:
        reason = "there are not two variants"
    elif min(shares.values()) * sum(users.values()) < LEAST_EXPECTED:
        reason = f"too few users: the test needs {LEAST_EXPECTED} expected in each variant"
    else:
        p_value = sample_ratio_p_value([users[variant] for variant in expected], list(expected.values()))
    return {
        "p_value": p_value,
        "mismatch": p_value is not None and p_value < MISMATCH,
        "expected": shares,
        "reason": reason,
    }


def _comparisons(variants: Mapping[str, Arm], control: str | None, alpha: float) -> list[dict[str, Any]]:
    """Each variant against the control."""
    if control is None or control not in variants or len(variants) > MAX_VARIANTS:
        return []
    base = variants[control]
    compared = [_comparison(variant, base, arm, alpha) for variant, arm in variants.items() if variant != control]
    for test in ("fixed_horizon", "sequential"):
        results = [comparison[test] for comparison in compared if comparison[test] is not None]
        for result, corrected in zip(results, holm([result["p_value"] for result in results]), strict=True):
            result["p_value_corrected"] = corrected
    return compared


def _comparison(variant: str, control: Arm, treated: Arm, alpha: float) -> dict[str, Any]:
    reason = untestable(control, treated)
    believed = posterior(control, treated, alpha) if control.users and treated.users else None
    return {
        "variant": variant,
        "fixed_horizon": _tested(fixed_horizon(control, treated, alpha)) if reason is None else None,
        "sequential": _tested(sequential(control, treated, alpha)) if reason is None else None,
        "bayesian": _believed(believed) if believed is not None else None,
        "reason": reason,
    }


def _tested(result: Outcome) -> dict[str, Any]:
    return {
        "difference": result.difference._asdict(),
        "lift": result.lift._asdict(),
        "p_value": result.p_value,
    }


def _believed(result: Posterior) -> dict[str, Any]:
    return {**result._asdict(), "lift": result.lift._asdict()}


def _decided(comparisons: Sequence[Mapping[str, Any]], alpha: float) -> tuple[list[str], list[str]]:
    """The variants that are better than the control, and those that are worse, as the sequential test has it."""
    decided = [
        (comparison["variant"], comparison["sequential"]["difference"]["estimate"] > 0)
        for comparison in comparisons
        if comparison["sequential"] is not None and comparison["sequential"]["p_value_corrected"] < alpha
    ]
    return [variant for variant, up in decided if up], [variant for variant, up in decided if not up]


def _conclusion(
    ratio: Mapping[str, Any],
    comparisons: Sequence[Mapping[str, Any]],
    better: Sequence[str],
    worse: Sequence[str],
    control: str | None,
    variants: int,
) -> str:
    if ratio["mismatch"]:
        why = ratio["reason"] or (
            f"p = {ratio['p_value']:.1e}" if ratio["p_value"] >= LEAST_SAID else f"p < {LEAST_SAID:.0e}"
        )
        return f"sample ratio mismatch: {why}; find out why before trusting any comparison"
    if not variants:
        return "no users were exposed in the range"
    if variants > MAX_VARIANTS:
        return f"not compared: {variants} variants, at most {MAX_VARIANTS} are"
    if not comparisons:
        return "nothing to compare with: there is one variant" if variants == 1 else f"nobody saw the control {control}"
    if not better and not worse:
        reasons = [comparison["reason"] for comparison in comparisons if comparison["reason"]]
        if len(reasons) == len(comparisons):
            return f"not tested: {reasons[0]}"
        return f"no difference from {control} shown so far"
    parts = [
        f"{', '.join(names)} {'does' if len(names) == 1 else 'do'} {word} than {control}"
        for names, word in ((better, "better"), (worse, "worse"))
        if names
    ]
    return "; ".join(parts)
