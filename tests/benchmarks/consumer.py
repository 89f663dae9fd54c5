"""Rows per second from a preloaded topic into Postgres, from the first stored row to the last."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from tests.benchmarks.figures import Comparison, Figures
from tests.benchmarks.machine import cpu_seconds, memory_peak_mib, postgres_cpu_seconds
from tests.benchmarks.preload import preload
from tests.benchmarks.servers import Program, Round, Servers
from tests.support.process import Service

RATIOS = ("rows_per_second", "rows_per_cpu_second", "rows_per_postgres_cpu_second")
LONGEST_SECONDS = 300.0

_OURS = "select coalesce(sum(next_offset), 0)::bigint from consumer_offsets"
_NAIVE = "select count(*) from events"


def run(
    servers: Servers, *, rounds: int, rows: int, naive_rows: int, say: Callable[[str], None]
) -> tuple[Comparison, float]:
    """(the comparison, mean bytes per message). The baseline gets fewer rows, so that it ends: rates are compared."""
    found = Comparison()
    say(f"consumer: preloading {rows:,} and {naive_rows:,} events")
    topic, size = preload(servers, rows)
    naive_topic, _ = preload(servers, naive_rows)
    for number in range(1, rounds + 1):
        for ours in (True, False):
            with servers.new_round(topic if ours else naive_topic) as own:
                figures = _ours(servers, own, rows) if ours else _naive(servers, own, naive_rows)
            (found.ours if ours else found.naive).rounds.append(figures)
            say(
                f"consumer {number}/{rounds} {'ours' if ours else 'naive':5} {figures['rows_per_second']:7,.0f} rows/s  "
                f"{figures['rows_per_cpu_second']:7,.0f}/CPU-s  peak {figures['memory_peak_mib']:.0f} MiB"
            )
    return found, size


def _ours(servers: Servers, own: Round, rows: int) -> Figures:
    service = Service("event_consumer", own.settings, servers.logs / f"consumer-{own.topic}.log")
    try:
        service.start(ready=False)
        return _measure(own, rows, service.pid, _OURS, poll_seconds=0.02, check=service.running)
    finally:
        if service.running():
            service.stop()


def _naive(servers: Servers, own: Round, rows: int) -> Figures:
    program = Program("tests.benchmarks.naive_consumer", own.settings, servers.logs / f"naive-{own.topic}.log")

    def check() -> bool:
        program.check()
        return True

    try:
        return _measure(own, rows, program.pid, _NAIVE, poll_seconds=0.1, check=check)
    finally:
        program.stop()


def _measure(own: Round, rows: int, pid: int, query: str, *, poll_seconds: float, check: Callable[[], bool]) -> Figures:
    """Watches ``query`` grow to ``rows``. The rows of the first look are not counted: their beginning was not seen.

    Raises:
        RuntimeError: the process ended, it took too long, or the table does not hold every row once.
    """
    deadline = time.monotonic() + LONGEST_SECONDS
    first = (0, 0.0, 0.0, 0.0)
    with psycopg.connect(own.database_url, autocommit=True) as connection:
        seen = 0
        while seen < rows:
            seen = _number(connection, query)
            if not first[0] and seen:
                first = (seen, time.perf_counter(), cpu_seconds(pid), postgres_cpu_seconds(connection))
            if not check() or time.monotonic() > deadline:
                raise RuntimeError(f"{seen} of {rows} rows were stored when it ended")
            if seen < rows:
                time.sleep(poll_seconds)
        ended, cpu = time.perf_counter(), cpu_seconds(pid)
        postgres = postgres_cpu_seconds(connection) - first[3]
        stored = _number(connection, _NAIVE)
        if stored != rows:
            raise RuntimeError(f"{stored} rows are stored, {rows} were preloaded")
    measured = rows - first[0]
    if not measured:
        raise RuntimeError(f"all {rows} rows were stored at once: give more of them")
    seconds, used = ended - first[1], max(cpu - first[2], 0.01)
    return {
        "rows_per_second": round(measured / seconds, 1),
        "rows_per_cpu_second": round(measured / used, 1),
        "rows_per_postgres_cpu_second": round(measured / max(postgres, 0.01), 1),
        "cpu_share": round(used / seconds, 3),
        "postgres_cpu_share": round(postgres / seconds, 3),
        "seconds": round(seconds, 3),
        "rows_measured": measured,
        "rows_stored": stored,
        "memory_peak_mib": memory_peak_mib(pid),
    }


def _number(connection: psycopg.Connection[tuple[object, ...]], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(str(row[0]))
