"""The live view on a real Postgres, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from analytics_service.live import Live, asker
from analytics_service.live_routes import live_router
from analytics_service.metrics import Metrics
from analytics_service.settings import AnalyticsSettings
from analytics_service.store import PostgresStore, open_reader
from event_core.postgres import opened
from event_core.telemetry import Tracing
from tests.conftest import Platform
from tests.oracles.events import Event, store_events
from tests.support.backend import Backend
from tests.support.serving import Served, served

pytestmark = pytest.mark.integration


class Scene:
    """The live view of one database, and who writes there."""

    def __init__(self, url: str, server: Served, live: Live) -> None:
        self.server = server
        self.live = live
        self._url = url

    def store(
        self, number: int = 1, tenant: str = "default", age: timedelta = timedelta(), **fields: Any
    ) -> list[UUID]:
        """New events, and what the consumer notes of them; their ids, newest first."""
        now = datetime.now(UTC) - age
        some = [Event(now + timedelta(milliseconds=n), tenant_id=tenant, **fields) for n in range(number)]
        with psycopg.connect(self._url) as connection:
            ids = store_events(connection, some)
            connection.execute(
                """insert into consumer_offsets as c (consumer_group, topic, partition, next_offset, stored, caught_up_at)
                   values ('g', 't', 0, %(n)s, %(n)s, now()) on conflict (consumer_group, topic, partition)
                   do update set stored = c.stored + %(n)s, updated_at = now(), caught_up_at = now()""",
                {"n": number},
            )
            connection.execute(
                """insert into tenant_intake as i (tenant_id, day, slot, stored) values (%s, current_date, 1, %s)
                   on conflict (tenant_id, day, slot) do update set stored = i.stored + excluded.stored""",
                (tenant, number),
            )
        return ids[::-1]

    @contextlib.asynccontextmanager
    async def watching(self, **params: str) -> AsyncGenerator[Watcher]:
        async with self.server.client.stream("GET", "/analytics/stream", params=params) as response:
            watcher = Watcher(response)
            try:
                yield watcher
            finally:
                await watcher.close()


class Watcher:
    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.ended = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        event = ""
        async for line in self.response.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: "):
                self.told.append((event, json.loads(line.removeprefix("data: "))))
        self.ended.set()

    def of(self, event: str) -> list[dict[str, Any]]:
        return [data for name, data in self.told if name == event]

    @property
    def shown(self) -> list[str]:
        return [event["event_id"] for data in self.of("events") for event in data["events"]]

    async def until(self, true: Callable[[Watcher], object], seconds: float = 20) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not true(self):
                    await asyncio.sleep(0.02)
        assert true(self), self.told

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait({self._reading})


@pytest.fixture
async def scene(database_url: str) -> AsyncIterator[Scene]:
    settings = AnalyticsSettings(database_url=database_url, database_timeout_seconds=5)
    pool = open_reader(settings)
    store = PostgresStore(pool, settings, Metrics(), Tracing(None))
    stop = asyncio.Event()
    live = Live(asker(store.fetch), stop)
    app = FastAPI()
    app.include_router(live_router(live))
    async with opened(pool), served(app, stop) as server:
        yield Scene(database_url, server, live)
        stop.set()
        await live.close()


async def test_what_is_stored_shows_within_a_second_or_two(scene: Scene) -> None:
    old = scene.store(3)
    async with scene.watching() as watcher:
        assert watcher.response.headers["content-type"].startswith("text/event-stream")
        await watcher.until(lambda w: w.shown)
        assert watcher.shown == [str(event) for event in old]
        assert watcher.of("counts")[0]["stored_total"] == 3
        assert watcher.of("counts")[0]["per_second"] is None
        new = scene.store(7, metadata={"blob": "x" * 250_000})
        await watcher.until(lambda w: len(w.shown) == 10, 3)
        assert watcher.shown[3:] == [str(event) for event in new]
        await watcher.until(lambda w: w.of("counts")[-1]["stored_total"] == 10)
        await watcher.until(lambda w: w.of("counts")[-1]["per_second"] == 0)
        assert sum(count["per_second"] or 0 for count in watcher.of("counts")) == pytest.approx(7, rel=0.2)
        assert all(count["freshness"]["age_seconds"] < 60 for count in watcher.of("counts"))
        assert len(json.dumps(watcher.told)) < 50_000, "no metadata"


async def test_an_event_of_long_ago_or_of_next_year_is_counted_but_is_not_news(scene: Scene) -> None:
    scene.store(1, age=timedelta(minutes=11))
    scene.store(1, age=timedelta(days=-365))
    (late,) = scene.store(1, age=timedelta(minutes=9))
    (ahead,) = scene.store(1, age=timedelta(seconds=-30))
    async with scene.watching() as watcher:
        await watcher.until(lambda w: w.shown)
        assert watcher.shown == [str(ahead), str(late)]
        assert watcher.of("counts")[0]["stored_total"] == 4


async def test_a_tenant_sees_its_own(scene: Scene) -> None:
    scene.store(30, "large")
    (own,) = scene.store(1, "small", age=timedelta(minutes=1))
    async with scene.watching(tenant_id="small") as small, scene.watching(tenant_id="none'; drop") as nobody:
        await small.until(lambda w: w.shown)
        await nobody.until(lambda w: len(w.of("counts")) > 1)
        assert small.shown == [str(own)]
        assert (small.of("counts")[0]["stored_total"], nobody.of("counts")[0]["stored_total"]) == (1, 0)
        scene.store(5, "large")
        (second,) = scene.store(1, "small")
        await small.until(lambda w: len(w.shown) == 2)
        assert small.shown == [str(own), str(second)]
        assert nobody.shown == []


async def test_many_listeners_cost_the_database_what_one_does_and_none_costs_nothing(scene: Scene) -> None:
    scene.store(5)
    async with contextlib.AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(scene.watching()) for _ in range(20)]
        for watcher in watchers:
            await watcher.until(lambda w: len(w.of("counts")) >= 3)
        assert len({tuple(watcher.shown) for watcher in watchers}) == 1
        assert len(scene.live) == 20
    async with asyncio.timeout(5):
        while len(scene.live) or scene.live.polling:
            await asyncio.sleep(0.05)


async def test_an_outage_is_told_and_the_stream_goes_on(scene: Scene, backend: Backend) -> None:
    scene.store(2)
    async with scene.watching() as watcher:
        await watcher.until(lambda w: len(w.of("counts")) > 1)
        await asyncio.to_thread(backend.kill_postgres)
        try:
            await watcher.until(lambda w: w.of("problem"))
        finally:
            await asyncio.to_thread(backend.start_postgres)
        before = len(watcher.of("counts"))
        (problem,) = watcher.of("problem")
        assert problem["error_code"] == "database_unavailable"
        assert "postgres:postgres" not in str(problem)
        (new,) = scene.store(1)
        await watcher.until(lambda w: str(new) in w.shown, 30)
        assert len(watcher.of("counts")) > before
        assert len(watcher.of("problem")) == 1
        assert len(watcher.shown) == len(set(watcher.shown)) == 3


async def test_asked_to_end_the_service_ends_its_streams_and_itself_at_once(scene: Scene) -> None:
    async with scene.watching() as one, scene.watching(tenant_id="t") as other:
        await one.until(lambda w: w.told)
        await other.until(lambda w: w.told)
        scene.server.stop.set()
        async with asyncio.timeout(3):
            await one.ended.wait()
            await other.ended.wait()
        await scene.server.ended(3)


async def test_a_frozen_database_is_told_and_does_not_keep_the_service_from_ending(
    scene: Scene, backend: Backend
) -> None:
    async with scene.watching() as watcher:
        await watcher.until(lambda w: w.told)
        await asyncio.to_thread(backend.pause_postgres)
        try:
            await watcher.until(lambda w: w.of("problem"))
            scene.server.stop.set()
            async with asyncio.timeout(4):
                await watcher.ended.wait()
            await scene.server.ended(4)
        finally:
            await asyncio.to_thread(backend.resume_postgres)


def test_the_service_itself_streams_and_ends_at_once_when_it_is_asked_to(platform: Platform) -> None:
    service = platform.start("analytics_service")
    with httpx.stream("GET", f"{service.url}/analytics/stream", timeout=20) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith("event: ")) == "event: counts"
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 6
        assert all(line or True for line in lines), "and the stream has its end"
