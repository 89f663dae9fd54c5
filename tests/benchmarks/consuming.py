"""One start of a consumer beside a filled topic, watched from outside: from the first stored row to the last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from statistics import mean
from typing import NamedTuple

import httpx
import psycopg

from tests.benchmarks.figures import Figures
from tests.benchmarks.machine import cpu_seconds, loop_ms, memory_peak_mib, postgres_cpu_seconds, wal_bytes
from tests.benchmarks.preload import Preloaded
from tests.benchmarks.servers import Program, Round, Servers
from tests.benchmarks.storage import check
from tests.support.process import Service

LONGEST_SECONDS = 300.0
"""Of one start; the rows of a run that is slower are an error."""
POLL_SECONDS = 0.05
SPEED_SECONDS = 1.0
"""How often the machine's speed is looked at, which takes a hundredth of a core."""
UNDER_WAY = 0.02
"""The share of the records after which the second consumer is started."""

Connection = psycopg.Connection[tuple[object, ...]]

_OURS = "select coalesce(sum(next_offset), 0)::bigint from consumer_offsets where topic = %s"
_NAIVE = "select count(*) from events where %s <> ''"


class _Point(NamedTuple):
    """A moment: rows seen so far, and what was used until then."""

    seen: int
    moment: float
    cpu: float
    postgres_cpu: float
    wal: int


class _Watch:
    """Sees rows become more, and how fast the machine is; ``check`` raises where the process that stores them has ended."""

    def __init__(
        self, connection: Connection, query: str, topic: str, records: int, check: Callable[[], None], poll: float
    ) -> None:
        self._connection = connection
        self._query = query
        self._topic = topic
        self.records = records
        self._check = check
        self._poll = poll
        self._deadline = time.monotonic() + LONGEST_SECONDS
        self._speeds: list[float] = []
        self._looked_at_speed = 0.0

    def seen(self) -> int:
        """Raises RuntimeError where it has taken too long or nobody is left who could go on."""
        row = self._connection.execute(self._query.encode(), [self._topic]).fetchone()
        assert row is not None
        found = int(str(row[0]))
        self._check()
        if found < self.records and time.monotonic() > self._deadline:
            raise RuntimeError(f"{found:,} of {self.records:,} records were done after {LONGEST_SECONDS:g} s")
        return found

    def until(self, least: int) -> int:
        while (found := self.seen()) < least:
            if time.monotonic() - self._looked_at_speed >= SPEED_SECONDS:
                self._looked_at_speed = time.monotonic()
                self._speeds.append(loop_ms(1))
            time.sleep(self._poll)
        return found

    def figures(self, first: _Point, pids: list[int]) -> Figures:
        """From ``first`` to the last row."""
        self._speeds = [loop_ms(1)]
        last = self.point(self.until(self.records), pids)
        loop, found = mean(self._speeds), _figures(first, last)
        used = found["cpu_us_per_row"] + found["postgres_cpu_us_per_row"]
        return {
            **found,
            "memory_peak_mib": max(map(memory_peak_mib, pids)),
            "loop_ms": round(loop, 2),
            "rows_per_loop": round(loop * 1000 / used, 2),  # with the CPU time, theirs together, that the loop takes
        }

    def point(self, seen: int, pids: list[int]) -> _Point:
        moment = time.perf_counter()
        cpu = sum(cpu_seconds(pid) for pid in pids)
        return _Point(seen, moment, cpu, postgres_cpu_seconds(self._connection), wal_bytes(self._connection))


def ours(servers: Servers, own: Round, preloaded: Preloaded, *, ledger: int) -> Figures:
    """The platform's consumer alone. The rows of the first look are not counted: their beginning was not seen.

    Raises:
        RuntimeError: it ended, took too long, or what is stored is not what was preloaded.
        AssertionError: it did not start.
    """
    with _service(servers, own, "consumer") as service, _connected(own) as connection:
        watch = _Watch(connection, _OURS, own.topic, preloaded.records, lambda: _running(service), POLL_SECONDS)
        service.start(ready=False)
        first = watch.point(watch.until(1), [service.pid])
        figures = watch.figures(first, [service.pid])
    check(own, preloaded, ledger)
    return figures


def shared(servers: Servers, own: Round, preloaded: Preloaded) -> Figures:
    """A second consumer joins the first. The rate is that of the two, since the second stored its first row.

    Raises:
        RuntimeError, AssertionError: as ``ours`` does; also where the first had read everything by then.
    """
    with (
        _service(servers, own, "consumer") as first,
        _service(servers, own, "second") as second,
        _connected(own) as connection,
    ):
        watch = _Watch(connection, _OURS, own.topic, preloaded.records, lambda: _running(first), POLL_SECONDS)
        first.start(ready=False)
        watch.until(round(preloaded.records * UNDER_WAY))
        started = time.perf_counter()
        second.start(ready=False)
        while not _stored_by(second):
            if watch.seen() >= preloaded.records:
                raise RuntimeError("the second consumer stored nothing before the first had read everything")
            time.sleep(POLL_SECONDS)
        pids = [first.pid, second.pid]
        joined = watch.point(watch.seen(), pids)
        by_second = _stored_by(second)
        figures = watch.figures(joined, pids)
        _running(second)
        figures["seconds_to_share"] = round(joined.moment - started, 2)
        figures["share_of_second"] = round((_stored_by(second) - by_second) / figures["records_measured"], 3)
    check(own, preloaded, 0)
    return figures


def naive(servers: Servers, own: Round, preloaded: Preloaded) -> Figures:
    """The baseline, which counts and checks nothing."""
    program = Program("tests.benchmarks.naive_consumer", own.settings, servers.logs / f"naive-{own.group}.log")
    try:
        with _connected(own) as connection:
            watch = _Watch(connection, _NAIVE, own.topic, preloaded.records, program.check, 2 * POLL_SECONDS)
            first = watch.point(watch.until(1), [program.pid])
            figures = watch.figures(first, [program.pid])
            if watch.seen() != preloaded.distinct:
                raise RuntimeError(f"{watch.seen():,} rows are stored, {preloaded.distinct:,} were preloaded")
    finally:
        program.stop()
    return figures


def _figures(first: _Point, last: _Point) -> Figures:
    records, seconds = last.seen - first.seen, last.moment - first.moment
    if not records:
        raise RuntimeError(f"all {last.seen:,} records were done at once: give more of them")
    cpu, postgres = max(last.cpu - first.cpu, 0.01), max(last.postgres_cpu - first.postgres_cpu, 0.01)
    return {
        "rows_per_second": round(records / seconds, 1),
        "rows_per_cpu_second": round(records / cpu, 1),
        "rows_per_postgres_cpu_second": round(records / postgres, 1),
        "cpu_us_per_row": round(cpu / records * 1e6, 2),
        "postgres_cpu_us_per_row": round(postgres / records * 1e6, 2),
        "wal_bytes_per_row": round((last.wal - first.wal) / records, 1),
        "cpu_share": round(cpu / seconds, 3),
        "postgres_cpu_share": round(postgres / seconds, 3),
        "seconds": round(seconds, 3),
        "records_measured": records,
    }


@contextlib.contextmanager
def _service(servers: Servers, own: Round, name: str) -> Generator[Service]:
    """Not started yet; stopped in any case."""
    service = Service("event_consumer", own.settings, servers.logs / f"{name}-{own.group}.log")
    try:
        yield service
    finally:
        if service.running():
            service.stop()


def _connected(own: Round) -> Connection:
    return psycopg.connect(own.database_url, autocommit=True)


def _running(service: Service) -> None:
    if not service.running():
        raise RuntimeError(f"the consumer has ended:\n{service.tail()}")


def _stored_by(service: Service) -> float:
    """Rows that this consumer stored itself, by its own counter; 0 while it does not answer."""
    try:
        return service.metric("consumer_events_stored_total")
    except httpx.TransportError:
        return 0.0
