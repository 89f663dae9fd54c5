"""A dashboard's questions at a fixed rate, whatever the answers take, while the consumer stores events."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import aiohttp
import psycopg
import uvloop
from yarl import URL

from tests.benchmarks.analytics_closed import service
from tests.benchmarks.analytics_questions import QUESTIONS, Data
from tests.benchmarks.figures import Figures, quantiles
from tests.benchmarks.machine import cpu_seconds, memory_peak_mib, postgres_cpu_seconds
from tests.benchmarks.paced import Paced
from tests.benchmarks.servers import Round, Servers
from tests.support.process import Service

RATE = 100
EVENTS_PER_SECOND = 5_000
EVENTS_PER_REQUEST = 100
WARM_UP_SECONDS = 5.0
LONGEST_SECONDS = 30.0
CONNECTIONS = 64
QUANTILES = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
LIVE = {
    "count, last 7 days until now": 25,
    "timeseries, last 24 hours until now": 20,
    "top 10 names, last 7 days until now": 10,
    "uniques, last 7 days until now": 1,
}
"""Out of 100 requests. They reach to the present, which changes with every batch that the consumer stores."""
CLOSED = {
    "timeseries, 1d Europe/Berlin": 10,
    "uniques, 7 days": 8,
    "retention, 30 x 30 days": 4,
    "funnel, 3 steps, 7 days": 4,
    "experiment, 7 days": 4,
    "a user's events": 8,
    "where is an event": 6,
}
"""The others: about complete days in one of ``VARIANTS``, but for the last two, which are about another user or event each."""
VARIANTS = 4
_STORED = "select coalesce(sum(stored), 0)::bigint from consumer_offsets where topic = %s"


def run(servers: Servers, own: Round, data: Data, seconds: float, say: Callable[[str], None]) -> Figures:
    """Figures of the measured seconds; what was refused or not answered is among them. AssertionError: no service started."""
    with contextlib.ExitStack() as stack:
        running = {}
        for name in ("ingestion_service", "event_consumer"):
            running[name] = Service(name, own.settings, servers.logs / f"analytics-{name}-{own.group}.log")
            stack.callback(running[name].stop)
            running[name].start()
        running["analytics_service"] = stack.enter_context(service(servers, own, "open", {}))
        connection = stack.enter_context(psycopg.connect(own.database_url, autocommit=True))
        load = Paced(
            running["ingestion_service"].url,
            servers.logs / f"analytics-{own.group}.samples",
            form="learner",
            events=EVENTS_PER_REQUEST,
            rate=EVENTS_PER_SECOND / EVENTS_PER_REQUEST,
            connections=8,
        )
        try:
            asking = _Asking(running["analytics_service"].url, data)
            uvloop.run(asking.run(WARM_UP_SECONDS))
            asking = _Asking(running["analytics_service"].url, data, seed=2)
            before = _used(connection, running, own.topic)
            began = time.perf_counter()
            uvloop.run(asking.run(seconds))
            took = time.perf_counter() - began
            after = _used(connection, running, own.topic)
            if asking.refused:
                say(f"analytics open loop: {asking.refused}")
            peak = memory_peak_mib(running["analytics_service"].pid)
        finally:
            report = load.stop()
        if report.refused:
            say(f"analytics open loop: {report.refused} batches of events were refused {report.first_refusal}")
    used = {name: (after[name] - before[name]) / took for name in after}
    return {
        **asking.figures(took),
        "rows_stored_per_second": round(used.pop("stored"), 1),
        **{f"{name}_cpu_share": round(share, 3) for name, share in used.items()},
        "refused_batches": report.refused,
        "generator_cpu_share": report.cpu_share,
        "memory_peak_mib": peak,
    }


def _used(
    connection: psycopg.Connection[tuple[object, ...]], running: dict[str, Service], topic: str
) -> dict[str, float]:
    """CPU seconds of each process until now, and rows stored."""
    row = connection.execute(_STORED, [topic]).fetchone()
    assert row is not None
    found = {name: cpu_seconds(one.pid) for name, one in running.items()}
    return {**found, "postgres": postgres_cpu_seconds(connection), "stored": float(str(row[0]))}


class _Asking:
    """The requests of one phase. Latency runs from when a request was due."""

    def __init__(self, url: str, data: Data, seed: int = 1) -> None:
        self._url = url
        self._data = data
        self._rng = random.Random(seed)
        self._by_name = {asked.name: asked for asked in QUESTIONS}
        self._latencies: dict[str, list[float]] = {}
        self._late: list[float] = []
        self._statuses: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Asks for so long, and waits for the last answers."""
        weights = {**LIVE, **CLOSED}
        names = self._rng.choices(list(weights), list(weights.values()), k=round(seconds * RATE))
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        timeout = aiohttp.ClientTimeout(LONGEST_SECONDS)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            began = time.perf_counter()
            for number, name in enumerate(names):
                due = began + number / RATE
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                self._late.append((time.perf_counter() - due) * 1e3)
                group.create_task(self._ask(session, name, self._target(name, number), due))

    async def _ask(self, session: aiohttp.ClientSession, name: str, target: str, due: float) -> None:
        try:
            async with session.get(URL(self._url + target, encoded=True)) as reply:
                await reply.read()
                status = str(reply.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            status = type(error).__name__
        self._statuses[status] += 1
        self._latencies.setdefault(name, []).append((time.perf_counter() - due) * 1e3)

    def _target(self, name: str, number: int) -> str:
        if name in LIVE:
            return _live(name)
        fresh = name in ("a user's events", "where is an event")
        return self._by_name[name].variant(self._data, number if fresh else self._rng.randrange(VARIANTS)).target

    def figures(self, seconds: float) -> Figures:
        everything = [one for latencies in self._latencies.values() for one in latencies]
        found = {
            **quantiles(everything, QUANTILES),
            "requests": len(everything),
            "errors": len(everything) - self._statuses["200"],
            "requests_per_second": round(len(everything) / seconds, 1),
            "latest_request_ms": round(max(self._late), 2),
        }
        for name, latencies in sorted(self._latencies.items()):
            found |= {f"{name}: {which}": value for which, value in quantiles(latencies, QUANTILES).items()}
        return found

    @property
    def refused(self) -> dict[str, int]:
        """How often an answer was something else than 200."""
        return {status: times for status, times in self._statuses.items() if status != "200"}


def _live(name: str) -> str:
    """A question that reaches to the present."""
    now = datetime.now(UTC)
    range_: dict[str, object] = {"from_ts": (now - timedelta(days=7)).isoformat(), "to_ts": now.isoformat()}
    if name.startswith("count"):
        return f"/analytics/events/count?{urlencode(range_)}"
    if name.startswith("timeseries"):
        range_["from_ts"] = (now - timedelta(hours=24)).isoformat()
        return f"/analytics/timeseries?{urlencode({**range_, 'bucket': '1h', 'zone': 'Europe/Berlin'})}"
    if name.startswith("top"):
        return f"/analytics/top?{urlencode({**range_, 'by': 'event_name', 'limit': 10})}"
    return f"/analytics/users/unique?{urlencode(range_)}"
