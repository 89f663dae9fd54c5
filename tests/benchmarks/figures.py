"""Rounds, medians and ratios. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

Figures = dict[str, float]
"""What one round measured, by name."""


@dataclass
class Side:
    """One program's rounds."""

    rounds: list[Figures] = field(default_factory=list)

    @property
    def medians(self) -> Figures:
        """Of each figure over the rounds; empty where there was none."""
        if not self.rounds:
            return {}
        return {name: round(median(one[name] for one in self.rounds), 3) for name in self.rounds[0]}

    def spread(self, name: str) -> tuple[float, float]:
        """Least and greatest of the rounds."""
        values = [one[name] for one in self.rounds]
        return min(values), max(values)

    def as_json(self) -> dict[str, object]:
        return {"median": self.medians, "rounds": self.rounds}


@dataclass
class Comparison:
    """Ours and what it is compared with, in rounds that alternate. A side may have no rounds.

    ``naive`` is what tutorials lead to, ``bare`` the least that can be done: the one should be slower, the other is faster.
    ``plain`` is ours too, without what makes the case.
    """

    ours: Side = field(default_factory=Side)
    naive: Side = field(default_factory=Side)
    bare: Side = field(default_factory=Side)
    plain: Side = field(default_factory=Side)

    def ratio(self, name: str, beside: str = "naive") -> float:
        """The median of ours/other of each pair of neighbouring rounds, so that a drifting machine cancels out."""
        other: Side = getattr(self, beside)
        pairs = [(a[name], b[name]) for a, b in zip(self.ours.rounds, other.rounds, strict=False)]
        ratios = [a / b for a, b in pairs if b]
        return round(median(ratios), 2) if ratios else math.nan

    def as_json(self, ratios: Sequence[str]) -> dict[str, object]:
        found: dict[str, object] = {"ours": self.ours.as_json()}
        for beside, title in (("naive", "ratio"), ("bare", "ratio_to_bare"), ("plain", "ratio_to_plain")):
            other: Side = getattr(self, beside)
            if other.rounds:
                found[beside] = other.as_json()
                found[title] = {name: self.ratio(name, beside) for name in ratios}
        return found


def quantiles(values: Sequence[float], wanted: Mapping[str, float]) -> Figures:
    """By nearest rank. Raises ValueError where there are no values."""
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return {name: round(ordered[max(0, math.ceil(q * len(ordered)) - 1)], 2) for name, q in wanted.items()}
