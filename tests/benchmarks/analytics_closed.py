"""One client, one question at a time: through the service with nothing cached and again, and the SQL by itself."""

from __future__ import annotations

import contextlib
import http.client
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import psycopg

from tests.benchmarks.analytics_questions import Asked, Data
from tests.benchmarks.figures import Figures, quantiles
from tests.benchmarks.servers import Round, Servers
from tests.support.process import Service

MOST = 200
"""Requests of one kind for one question."""
LEAST = 5
SECONDS = 8.0
"""After which no further request of a kind begins, where there were ``LEAST``."""
PLAIN_MOST = 3
TIMEOUT_SECONDS = 300.0
QUANTILES = {"p50_ms": 0.5, "p99_ms": 0.99}
UNCACHED = {"ANALYTICS_CACHE_MB": "0"}
SETTINGS = {"ANALYTICS_STATEMENT_TIMEOUT_SECONDS": "60"}
"""A question that takes longer than it may is to be seen with its time, not as an error."""

Say = Callable[[str], None]


class Client:
    """One keep-alive connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)

    def get(self, target: str) -> float:
        """Seconds until the whole answer was there. Raises RuntimeError where it is not 200."""
        began = time.perf_counter()
        self._connection.request("GET", target)
        reply = self._connection.getresponse()
        body = reply.read()
        took = time.perf_counter() - began
        if reply.status != 200:
            raise RuntimeError(f"GET {target} was answered with {reply.status}: {body[:400]!r}")
        return took

    def close(self) -> None:
        self._connection.close()


def measure(
    servers: Servers, own: Round, data: Data, questions: Sequence[Asked], errors: list[str], say: Say
) -> Iterator[tuple[str, Figures]]:
    """Names and figures. A question that fails, or is answered otherwise than by plain SQL, leaves a line in ``errors``."""
    with (
        service(servers, own, "uncached", UNCACHED) as uncached,
        service(servers, own, "cached", {}) as cached,
        psycopg.connect(own.database_url, autocommit=True) as connection,
    ):
        connection.prepare_threshold = None  # each question is planned for its own values, as the service has it
        for asked in questions:
            try:
                figures = _question(asked, data, uncached.url, cached.url, connection)
            except (RuntimeError, OSError, psycopg.Error) as error:
                errors.append(f"analytics {asked.name}: {error}")
                say(f"ERROR: {errors[-1]}")
                continue
            say(
                f"analytics {asked.name:28} cold p50 {figures['cold_p50_ms']:7.1f} p99 {figures['cold_p99_ms']:7.1f}  "
                f"cached p99 {figures['cached_p99_ms']:5.1f}  database {figures['database_p50_ms']:7.1f}  "
                f"plain {figures['plain_p50_ms']:8.1f} ms  ratio {figures['plain_ratio']:6.1f}"
            )
            yield asked.name, figures


@contextlib.contextmanager
def service(servers: Servers, own: Round, name: str, more: dict[str, str]) -> Generator[Service]:
    """The analytics service with settings of its own, ready."""
    log = servers.logs / f"analytics-{name}-{own.group}.log"
    running = Service("analytics_service", {**own.settings, **SETTINGS, **more}, log)
    try:
        yield running.start()
    finally:
        if running.running():
            running.stop()


def _question(
    asked: Asked, data: Data, uncached: str, cached: str, connection: psycopg.Connection[tuple[Any, ...]]
) -> Figures:
    cold, warm = Client(uncached), Client(cached)
    try:
        # The first of each is thrown away: what a connection or a plan does but once is no part of the question.
        cold_times = _repeat(lambda number: cold.get(asked.variant(data, number).target))
        cached_times = _repeat(lambda _: warm.get(asked.variant(data, 0).target))
    finally:
        cold.close()
        warm.close()

    def timed(query: str) -> Callable[[int], float]:
        return lambda number: _execute(connection, query, asked, data, number)[0]

    database, plain = _repeat(timed(asked.sql)), _repeat(timed(asked.plain), PLAIN_MOST)
    if asked.same:
        ours, theirs = (_execute(connection, query, asked, data, 1)[1] for query in (asked.sql, asked.plain))
        if ours != theirs:
            raise RuntimeError(f"{asked.name}: the answer is {ours}, by plain SQL it is {theirs}")
    figures: Figures = {}
    for name, times in (("cold", cold_times), ("cached", cached_times), ("database", database), ("plain", plain)):
        figures |= {f"{name}_{which}": value for which, value in quantiles(times, QUANTILES).items()}
        figures[f"{name}_requests"] = len(times)
    ratio = figures["plain_p50_ms"] / figures["database_p50_ms"] if figures["database_p50_ms"] else math.nan
    return {**figures, "plain_ratio": round(ratio, 1)}


def _repeat(once: Callable[[int], float], most: int = MOST) -> list[float]:
    """Milliseconds of each but the first, which takes part only where it took all the time there is."""
    first = once(0)
    if first > SECONDS:
        return [first * 1e3]
    began = time.perf_counter()
    times: list[float] = []
    while len(times) < most and (len(times) < min(LEAST, most) or time.perf_counter() - began < SECONDS):
        times.append(once(len(times) + 1) * 1e3)
    return times


def _execute(
    connection: psycopg.Connection[tuple[Any, ...]], query: str, asked: Asked, data: Data, number: int
) -> tuple[float, object]:
    """The seconds it took, and the first value of the first row."""
    values = asked.variant(data, number).values
    began = time.perf_counter()
    row = connection.execute(query.encode(), dict(values)).fetchone()
    return time.perf_counter() - began, row[0] if row else None
