"""The analytics API and its SQL on generated events: one client, a dashboard's rate beside a busy consumer, growth."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import psycopg

from tests.benchmarks import analytics_closed, analytics_load, analytics_open
from tests.benchmarks.analytics_events import DAYS, Plan
from tests.benchmarks.analytics_questions import CACHED_MS, LEAST_RATIO, QUESTIONS, Data
from tests.benchmarks.figures import Figures
from tests.benchmarks.servers import Round, Servers

FULL = 10_000_000
"""What the targets are about."""
DISK_BYTES_PER_EVENT = 500
"""With indexes, the ledger, and what the log takes in passing; and as much again stays free."""
IDS = 500

Say = Callable[[str], None]


class Asked(NamedTuple):
    """What the command line asks for."""

    events: int
    growth: Sequence[int]
    open_seconds: float


@dataclass
class Analysed:
    """By numbers of events; ``errors`` says what gave no figures, and why."""

    events: int
    load_seconds: dict[int, float] = field(default_factory=dict)
    questions: dict[int, dict[str, Figures]] = field(default_factory=dict)
    """The main number's has all questions, the others' those that show growth."""
    open: Figures = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        return {
            "events": self.events,
            "load_seconds": self.load_seconds,
            "questions": self.questions,
            "open": self.open,
            "errors": self.errors,
        }

    def targets(self) -> list[tuple[str, float, float, bool]]:
        """(what, target, measured, met); those that are of 10 million events only where there were as many."""
        rows: list[tuple[str, float, float, bool]] = []
        found = self.questions.get(self.events, {})
        for asked in QUESTIONS if self.events >= FULL else ():
            figures = found.get(asked.name)
            if figures is None:
                continue
            if asked.target_ms is not None:
                measured = figures["cold_p99_ms"]
                rows.append((f"p99 in ms, {asked.name}", asked.target_ms, measured, measured <= asked.target_ms))
            if asked.rollup:
                ratio = figures["plain_ratio"]
                rows.append((f"  times as fast as plain SQL, {asked.name}", LEAST_RATIO, ratio, ratio >= LEAST_RATIO))
        if found:
            slowest = max(figures["cached_p99_ms"] for figures in found.values())
            rows.append(("p99 in ms, the slowest cached answer", CACHED_MS, slowest, slowest <= CACHED_MS))
        if self.open:
            errors = self.open["errors"]
            rows.append((f"errors at {analytics_open.RATE} questions/s", 0.0, errors, not errors))
        return rows


def run(servers: Servers, asked: Asked, say: Say) -> Analysed:
    """A number of events that fails leaves a line in ``errors``, and the others go on."""
    found = Analysed(asked.events)
    for events in sorted({*asked.growth, asked.events}):
        free = shutil.disk_usage(servers.logs).free
        if free < 2 * events * DISK_BYTES_PER_EVENT:
            say(f"analytics: {events:,} events left out: {free / 1e9:.0f} GB are free on the disk")
            continue
        try:
            with servers.new_round() as own:
                _measure(servers, own, events, asked, found, say)
        except (RuntimeError, AssertionError, TimeoutError, psycopg.Error) as error:
            found.errors.append(f"analytics of {events:,} events: {error}")
            say(f"ERROR: {found.errors[-1]}")
    return found


def _measure(servers: Servers, own: Round, events: int, asked: Asked, found: Analysed, say: Say) -> None:
    main = events == asked.events
    plan = Plan(events, datetime.now(UTC).date() - timedelta(days=DAYS))
    say(f"analytics: loading {events:,} events")
    found.load_seconds[events] = round(analytics_load.load(own.database_url, plan, say), 1)
    say(f"analytics: loaded in {found.load_seconds[events]:.0f} s")
    data = Data.of(plan, _ids(own, plan))
    questions = [question for question in QUESTIONS if main or question.grows]
    found.questions[events] = {}
    for name, figures in analytics_closed.measure(servers, own, data, questions, found.errors, say):
        found.questions[events][name] = figures
    if main:
        found.open = analytics_open.run(servers, own, data, asked.open_seconds, say)
        if found.open["refused_batches"]:
            found.errors.append(
                f"analytics open loop: {found.open['refused_batches']:.0f} batches of events were refused"
            )
        say(
            f"analytics open loop p50 {found.open['p50_ms']:.1f} p99 {found.open['p99_ms']:.1f} ms  "
            f"{found.open['requests_per_second']:.0f} requests/s, {found.open['errors']:.0f} errors  "
            f"{found.open['rows_stored_per_second']:,.0f} rows stored/s"
        )


def _ids(own: Round, plan: Plan) -> list[str]:
    """Some from the middle of the days."""
    with psycopg.connect(own.database_url) as connection:
        rows = connection.execute(
            'select event_id from public.events where "timestamp" >= %s order by "timestamp" limit %s',
            [datetime.combine(plan.days[DAYS // 2], datetime.min.time(), UTC), IDS],
        ).fetchall()
    return [str(event_id) for (event_id,) in rows]
