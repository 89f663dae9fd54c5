"""From a POST to a row that others can see, under open-loop load.

load_test.py sends most of the load; among it this process posts a probe every 20 ms, notes the time just before it is sent,
and asks Postgres every 5 ms which probes are committed. One in ``ANALYTICS_EVERY`` has a user of its own and is asked for
through the analytics API instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import psycopg
import uvloop

from event_core.clock import rfc3339
from tests.benchmarks.figures import Figures, Side, quantiles
from tests.benchmarks.servers import Round, Servers
from tests.support.process import ROOT, Service

RATE = 500
PROBES_PER_SECOND = 50
POLL_SECONDS = 0.005
ANALYTICS_EVERY = 25
ANALYTICS_POLL_SECONDS = 0.01
WARM_UP_SECONDS = 3.0
LONGEST_SECONDS = 30.0
QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "max_ms": 1.0}
_FIND = "select event_id from events where event_id = any($1::uuid[])"
_AGES = """
    select percentile_disc(array[0.5, 0.99]::float8[]) within group (
        order by 1000 * extract(epoch from processed_at - "timestamp")
    )
    from events
"""


def run(servers: Servers, *, rounds: int, seconds: float, say: Callable[[str], None]) -> Side:
    """Each round has its own services, topic and database."""
    found = Side()
    for number in range(1, rounds + 1):
        with servers.new_round() as own:
            figures = _round(servers, own, seconds)
        found.rounds.append(figures)
        say(
            f"latency {number}/{rounds} POST to visible p50 {figures['p50_ms']:.0f} ms  p99 {figures['p99_ms']:.0f} ms  "
            f"max {figures['max_ms']:.0f} ms  over {figures['probes']:.0f} probes"
        )
    return found


def _round(servers: Servers, own: Round, seconds: float) -> Figures:
    with contextlib.ExitStack() as stack:
        services = {}
        for name in ("ingestion_service", "event_consumer", "analytics_service"):
            service = Service(name, own.settings, servers.logs / f"{name}-{own.topic}.log")
            services[name] = service
            stack.callback(service.stop)
            service.start()
        measuring = _Measuring(services["ingestion_service"].url, services["analytics_service"].url, own.database_url)
        report = servers.logs / f"load-{own.topic}.json"
        figures = uvloop.run(measuring.run(seconds, report))
    with psycopg.connect(own.database_url) as connection:
        stored = connection.execute("select count(*) from events").fetchone()
        ages = connection.execute(_AGES).fetchone()
    assert stored is not None
    assert ages is not None
    if stored[0] != measuring.posted:
        raise RuntimeError(f"{measuring.posted} events were acknowledged, {stored[0]} are stored")
    figures["processed_at_minus_timestamp_p50_ms"], figures["processed_at_minus_timestamp_p99_ms"] = (
        round(float(value), 2) for value in ages[0]
    )
    return figures


class _Measuring:
    """One round; ``posted`` counts what was acknowledged, the load's included."""

    def __init__(self, ingestion: str, analytics: str, database_url: str) -> None:
        self._events = f"{ingestion}/events"
        self._count = f"{analytics}/analytics/events/count"
        self._database_url = database_url
        self._waiting: dict[UUID, float] = {}
        self._visible: list[float] = []
        self._answered: list[float] = []
        self._counted: list[float] = []
        self._late: list[float] = []
        self.posted = 0

    async def run(self, seconds: float, report: Path) -> Figures:
        """Warm-up and measured seconds. Raises RuntimeError where a request failed or a probe never became visible."""
        rate = RATE - PROBES_PER_SECOND
        load = await asyncio.create_subprocess_exec(
            *(sys.executable, "load_test.py", "--url", self._events, "--rate", str(rate), "--json", str(report)),
            *("--warmup", str(WARM_UP_SECONDS), "--duration", str(seconds + 1), "--connections", "64"),
            cwd=ROOT,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await asyncio.sleep(WARM_UP_SECONDS)
            connection = await asyncpg.connect(self._database_url)
            async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
                polling = group.create_task(self._poll(connection))
                await self._probe(session, group, round(seconds * PROBES_PER_SECOND))
                deadline = time.perf_counter() + LONGEST_SECONDS
                while self._waiting and time.perf_counter() < deadline:
                    await asyncio.sleep(0.01)
                polling.cancel()
            await connection.close()
            await load.wait()
        finally:
            if load.returncode is None:
                load.kill()
                await load.wait()
        if self._waiting:
            raise RuntimeError(f"{len(self._waiting)} events were not visible after {LONGEST_SECONDS:g} s")
        said = json.loads(report.read_text())
        if load.returncode or said["failed"]:
            raise RuntimeError(f"the load failed: {said['statuses']} {said['errors']}")
        self.posted += said["ok"]
        await self._settle()
        return self._figures(said)

    def _figures(self, load: dict[str, dict[str, float]]) -> Figures:
        acknowledged = quantiles(self._answered, QUANTILES)
        return {
            **quantiles(self._visible, QUANTILES),
            "probes": len(self._visible),
            **{f"acknowledged_{name}": value for name, value in acknowledged.items()},
            **{f"analytics_{name}": value for name, value in quantiles(self._counted, QUANTILES).items()},
            "analytics_probes": len(self._counted),
            "load_rate": load["measured"]["achieved_rate"] + PROBES_PER_SECOND,
            "latest_probe_ms": round(max(self._late), 2),
        }

    async def _probe(self, session: aiohttp.ClientSession, group: asyncio.TaskGroup, count: int) -> None:
        began = time.perf_counter()
        for number in range(count):
            due = began + number / PROBES_PER_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self._late.append((time.perf_counter() - due) * 1e3)
            group.create_task(self._post(session, number))

    async def _post(self, session: aiohttp.ClientSession, number: int) -> None:
        event_id, now = uuid4(), datetime.now(UTC)
        through_api = number % ANALYTICS_EVERY == ANALYTICS_EVERY - 1
        user = f"probe_{event_id.hex}" if through_api else f"probe_user_{number % 100}"
        body = {
            "event_id": str(event_id),
            "user_id": user,
            "event_name": "probe",
            "metadata": {"number": number, "page": "/probe"},
            "timestamp": rfc3339(now),
        }
        began = time.perf_counter()
        if not through_api:
            self._waiting[event_id] = began
        async with session.post(self._events, json=body) as reply:
            if reply.status != 202:
                raise RuntimeError(f"a probe was answered with {reply.status}: {await reply.text()}")
        self._answered.append((time.perf_counter() - began) * 1e3)
        self.posted += 1
        if through_api:
            await self._await_count(session, user, now, began)

    async def _await_count(self, session: aiohttp.ClientSession, user: str, now: datetime, began: float) -> None:
        margin = timedelta(minutes=1)
        asked = {"from_ts": rfc3339(now - margin), "to_ts": rfc3339(now + margin), "user_id": user}
        while True:
            async with session.get(self._count, params=asked) as reply:
                reply.raise_for_status()
                if (await reply.json())["count"] == 1:
                    self._counted.append((time.perf_counter() - began) * 1e3)
                    return
            if time.perf_counter() - began > LONGEST_SECONDS:
                raise RuntimeError(f"a probe was not counted within {LONGEST_SECONDS:g} s")
            await asyncio.sleep(ANALYTICS_POLL_SECONDS)

    async def _poll(self, connection: asyncpg.Connection) -> None:
        # The plan is made while the table is empty, when reading all of it looks cheap.
        await connection.execute("set enable_seqscan = off")
        statement = await connection.prepare(_FIND)
        while True:
            if self._waiting:
                rows = await statement.fetch(list(self._waiting))
                now = time.perf_counter()
                self._visible += [(now - self._waiting.pop(row["event_id"])) * 1e3 for row in rows]
            await asyncio.sleep(POLL_SECONDS)

    async def _settle(self) -> None:
        """Returns once every acknowledged event is stored, or stops growing the count after ``LONGEST_SECONDS``."""
        connection = await asyncpg.connect(self._database_url)
        deadline = time.perf_counter() + LONGEST_SECONDS
        while time.perf_counter() < deadline:
            if await connection.fetchval("select count(*) from events") >= self.posted:
                break
            await asyncio.sleep(0.1)
        await connection.close()
