"""Which positions of a lane a file holds: runs of them, in order. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Run(NamedTuple):
    """The positions from ``start`` to before ``end``; ``skipped`` positions before them were never acknowledged."""

    start: int
    end: int
    skipped: int = 0


class Runs:
    """Runs in ascending order; almost always one."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: list[Run] = []

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, start: int, end: int, *, skipped: int = 0) -> None:
        """Adds positions behind those that are there; what is there already is left out."""
        start = max(start, self.end)
        if start >= end:
            return
        if self._runs and self._runs[-1].end == start:
            self._runs[-1] = self._runs[-1]._replace(end=end)
        else:
            self._runs.append(Run(start, end, skipped))

    @property
    def start(self) -> int:
        return self._runs[0].start if self._runs else 0

    @property
    def end(self) -> int:
        return self._runs[-1].end if self._runs else 0

    @property
    def count(self) -> int:
        return sum(end - start for start, end, _ in self._runs)

    def count_between(self, low: int, high: int) -> int:
        """How many positions from ``low`` to before ``high`` it holds."""
        return sum(max(0, min(end, high) - max(start, low)) for start, end, _ in self._runs)

    def following(self, position: int) -> Run | None:
        """What there is of the first run at or behind ``position``, from there on."""
        for run in self._runs:
            if run.end > position:
                return run if run.start >= position else Run(position, run.end)
        return None

    def without(self, other: Runs) -> Runs:
        """Those positions that ``other`` does not hold."""
        left = Runs()
        for start, end, skipped in self._runs:
            at = start
            for low, high, _ in other:
                if high > at and low < end:
                    left.add(at, low, skipped=skipped if at == start else 0)
                    at = high
            left.add(at, end, skipped=skipped if at == start else 0)
        return left
