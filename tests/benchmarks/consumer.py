"""Rows per second from a filled topic into Postgres: the plain case, what makes it harder, and the baseline, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.benchmarks import consuming
from tests.benchmarks.figures import Comparison, Figures, Side
from tests.benchmarks.preload import Kind, Preloaded, preload
from tests.benchmarks.servers import TEMPLATE, Servers
from tests.benchmarks.storage import LEDGER, fill_ledger

PARTITIONS = 4
SHARED_LEAST = 400_000
"""Records that the first consumer gets when a second is to join: else it is done before."""
RATIOS = (
    *("rows_per_second", "rows_per_loop"),
    *("rows_per_cpu_second", "rows_per_postgres_cpu_second", "wal_bytes_per_row"),
)

Say = Callable[[str], None]


class Case(NamedTuple):
    """``ledger``: many ids are there before; ``second``: another consumer joins."""

    name: str
    kind: Kind
    ledger: bool = False
    second: bool = False


PLAIN = Case("plain", Kind.PLATFORM)
NAIVE = Case("naive", Kind.PLATFORM)
CASES = (
    Case("duplicates", Kind.DUPLICATES),
    Case("poison", Kind.POISON),
    Case("refused", Kind.REFUSED),
    Case("ledger", Kind.PLATFORM, ledger=True),
    Case("ledger-random", Kind.CLIENT, ledger=True),
    Case("share", Kind.PLATFORM, second=True),
)


@dataclass
class Consumed:
    """``cases`` stand beside the plain runs next to them; ``errors`` says which runs gave no figures, and why."""

    plain: Side = field(default_factory=Side)
    cases: dict[str, Comparison] = field(default_factory=dict)
    naive: Comparison = field(default_factory=Comparison)
    value_bytes: float = 0.0
    preload_seconds: float = 0.0
    ledger_rows: int = 0
    errors: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        return {
            "value_bytes": round(self.value_bytes, 1),
            "preload_seconds": round(self.preload_seconds, 1),
            "ledger_rows": self.ledger_rows,
            "errors": self.errors,
            "plain": self.plain.as_json(),
            "cases": {name: one.as_json(RATIOS) for name, one in self.cases.items()},
            "naive": self.naive.as_json(RATIOS),
        }


class Asked(NamedTuple):
    """What the command line asks for. ``names`` are of cases; empty: all. After ``minutes`` no further turn begins."""

    rounds: int
    rows: int
    naive_rows: int
    ledger_rows: int
    names: Sequence[str]
    minutes: float


def run(servers: Servers, asked: Asked, say: Say) -> Consumed:
    """A run that fails leaves a line in ``errors``, and the others go on."""
    return _Run(servers, asked, say).run()


class _Run:
    """A turn is one plain run between two cases; each second round goes through it backwards."""

    def __init__(self, servers: Servers, asked: Asked, say: Say) -> None:
        self._servers = servers
        self._asked = asked
        self._say = say
        self._topics: dict[Case, Preloaded] = {}
        self._found = Consumed(ledger_rows=asked.ledger_rows)

    def run(self) -> Consumed:
        began, longest = time.monotonic(), 0.0
        cases = self._prepare()
        turns = [cases[number : number + 2] for number in range(0, len(cases), 2)] or [[]]
        for number in range(self._asked.rounds):
            for turn in turns:
                start = time.monotonic()
                if longest and start + longest - began > self._asked.minutes * 60:
                    self._say(f"consumer: {self._asked.minutes:g} minutes are over, round {number + 1} stays undone")
                    return self._found
                self._turn(turn, backwards=bool(number % 2), title=f"consumer {number + 1}/{self._asked.rounds}")
                longest = max(longest, time.monotonic() - start)
        return self._found

    def _prepare(self) -> list[Case]:
        """Topics and ledger. The cases to be measured, the baseline among them."""
        asked = self._asked
        cases = [case for case in CASES if not asked.names or case.name in asked.names]
        if not asked.ledger_rows:
            cases = [case for case in cases if not case.ledger]
        if not asked.names or NAIVE.name in asked.names:
            cases.insert(min(3, len(cases)), NAIVE)  # beside "refused", so that the two ledgers share a turn
        made: dict[tuple[Kind, int], Preloaded] = {}
        for case in (PLAIN, *cases):
            rows = asked.rows
            if case is NAIVE:
                rows = asked.naive_rows
            elif case.second:
                rows = max(rows, SHARED_LEAST)
            if (case.kind, rows) not in made:
                began = time.monotonic()
                made[case.kind, rows] = preload(self._servers, rows, PARTITIONS, case.kind)
                seconds = time.monotonic() - began
                self._found.preload_seconds += seconds
                self._say(f"consumer: {rows:,} events preloaded, {case.kind.value}, in {seconds:.0f} s")
            self._topics[case] = made[case.kind, rows]
        self._found.value_bytes = self._topics[PLAIN].value_bytes
        if any(case.ledger for case in cases):
            try:
                fill_ledger(self._servers, asked.ledger_rows, self._say)
            except RuntimeError as error:
                self._fail("the ledger", error)
                cases = [case for case in cases if not case.ledger]
        return cases

    def _turn(self, turn: Sequence[Case], *, backwards: bool, title: str) -> None:
        order = [*turn[:1], PLAIN, *turn[1:]]
        figures = {case: self._one(case, title) for case in (reversed(order) if backwards else order)}
        plain = figures[PLAIN]
        if plain is None:
            return  # without its neighbour a run gives no ratio
        self._found.plain.rounds.append(plain)
        for case in turn:
            measured = figures[case]
            if measured is None:
                continue
            if case is NAIVE:
                self._found.naive.ours.rounds.append(plain)
                self._found.naive.naive.rounds.append(measured)
            else:
                pair = self._found.cases.setdefault(case.name, Comparison())
                pair.ours.rounds.append(measured)
                pair.plain.rounds.append(plain)

    def _one(self, case: Case, title: str) -> Figures | None:
        preloaded, servers = self._topics[case], self._servers
        template = LEDGER if case.ledger else TEMPLATE
        try:
            with servers.new_round(preloaded.topic, partitions=PARTITIONS, template=template) as own:
                if case is NAIVE:
                    figures = consuming.naive(servers, own, preloaded)
                elif case.second:
                    figures = consuming.shared(servers, own, preloaded)
                else:
                    ledger = self._asked.ledger_rows if case.ledger else 0
                    figures = consuming.ours(servers, own, preloaded, ledger=ledger)
        except (RuntimeError, AssertionError, TimeoutError) as error:
            self._fail(f"{title} {case.name}", error)
            return None
        shared = f"  the second after {figures['seconds_to_share']:.1f} s" if case.second else ""
        self._say(
            f"{title} {case.name:13} {figures['rows_per_second']:7,.0f} rows/s  {figures['cpu_us_per_row']:5.1f} µs  "
            f"PostgreSQL {figures['postgres_cpu_us_per_row']:5.1f} µs  WAL {figures['wal_bytes_per_row']:5,.0f} B  "
            f"peak {figures['memory_peak_mib']:.0f} MiB  busy {figures['cpu_share']:.0%}  "
            f"loop {figures['loop_ms']:.1f} ms{shared}"
        )
        return figures

    def _fail(self, what: str, error: Exception) -> None:
        self._found.errors.append(f"{what}: {error}")
        self._say(f"{what}: ERROR: {error}")
