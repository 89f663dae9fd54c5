"""What looks at several variants at once. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import special


def sample_ratio_p_value(users: Sequence[int], weights: Sequence[float]) -> float:
    """The chi-square test of goodness of fit: were the users split by ``weights``?

    X² = Σ (observed - expected)² / expected, and p = P(χ² with one degree of freedom less than variants > X²). Needs two variants
    at least, positive weights, and some users; below 5 expected in a variant the approximation is poor (Cochran's rule).

    Source: Fabijan et al.: Diagnosing Sample Ratio Mismatch in Online Controlled Experiments (KDD 2019); gbstats' check_srm.
    """
    total, parts = sum(users), sum(weights)
    expected = [total * weight / parts for weight in weights]
    statistic = sum((seen - meant) ** 2 / meant for seen, meant in zip(users, expected, strict=True))
    return float(special.chdtrc(len(users) - 1, statistic))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, corrected: the chance that any true "no difference" is rejected at alpha stays at most alpha.

    The i-th smallest of m becomes the largest of (m - j + 1) p_j over j ≤ i, at most 1. It needs no independence, and
    p-values that are valid at any time stay so.

    Source: Holm: A Simple Sequentially Rejective Multiple Test Procedure (Scandinavian Journal of Statistics 6, 1979).
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
