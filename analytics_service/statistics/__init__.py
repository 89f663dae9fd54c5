"""Statistics of experiments whose users convert or do not. Pure: numbers in, numbers out, the same each time.

``fixed_horizon`` is right when one looks once, at a time set before; ``sequential`` is right however often one looks;
``posterior`` says how probable it is that a variant is better. ``sample_ratio_p_value`` says whether the split of the users is
what was meant, without which none of them means anything; ``holm`` corrects for several comparisons. ``analyse`` does it all.
"""

from __future__ import annotations

from analytics_service.statistics.analysis import LEAST_EXPECTED, MAX_VARIANTS, MISMATCH, analyse
from analytics_service.statistics.bayesian import Posterior, posterior
from analytics_service.statistics.fixed_horizon import fixed_horizon
from analytics_service.statistics.proportions import Arm, Interval, Outcome, untestable
from analytics_service.statistics.sequential import sequential
from analytics_service.statistics.several import holm, sample_ratio_p_value

__all__ = [
    "LEAST_EXPECTED",
    "MAX_VARIANTS",
    "MISMATCH",
    "Arm",
    "Interval",
    "Outcome",
    "Posterior",
    "analyse",
    "fixed_horizon",
    "holm",
    "posterior",
    "sample_ratio_p_value",
    "sequential",
    "untestable",
]
