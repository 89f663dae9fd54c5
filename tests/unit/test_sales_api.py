"""GET /stats and POST /shutdown, with a MongoDB whose health the test decides. All of it runs on a real one elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from event_consumer.app import Deps, create_app
from event_consumer.progress import Progress
from event_consumer.sales.api import Desk, sales_routers
from event_consumer.sales.collection import Facts
from event_consumer.sales.metrics import SalesMetrics
from event_consumer.sales.settings import SalesSettings
from event_core.clock import monotonic, utc_now
from event_core.errors import DatabaseUnavailable
from event_core.health import FakePing, Health
from event_core.settings import load

KEY = "0123456789abcdef"


class Server(FakePing):
    """A MongoDB that answers, or whose health does and whose facts do not come."""

    facts_problem: Exception | None = None

    async def facts(self) -> Facts:
        if self.facts_problem is not None:
            raise self.facts_problem
        return Facts("7.0.0", 42)


class Asked:
    def __init__(self, key: str | None = KEY) -> None:
        self.server = Server("mongodb")
        self.kafka = FakePing("kafka")
        self.metrics = SalesMetrics(monotonic)
        self.stopped = asyncio.Event()
        health = Health("sales", "1", [self.kafka, self.server])
        desk = Desk(load(SalesSettings), self.metrics, Progress(utc_now), health, self.server)
        routers = sales_routers(desk, SecretStr(key) if key else None, self.stopped.set)
        self._app = create_app("sales", Deps(self._pipeline, [], self.metrics, lambda _: None, routers))

    async def _pipeline(self, _: object) -> None:
        raise AssertionError("no pipeline runs without the lifespan")

    async def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)


async def test_statistics_before_anything_was_read() -> None:
    stats = (await Asked()("GET", "/stats")).json()
    assert stats["events"] == {
        "stored": 0,
        "duplicates": 0,
        "dead_letters": {},
        "per_second": 0,
        "window_seconds": 60,
    }
    assert (stats["kafka"]["lag_milliseconds"], stats["kafka"]["partitions"]) == (None, [])
    assert (stats["mongodb"]["documents"], stats["mongodb"]["server_version"]) == (42, "7.0.0")


async def test_statistics_come_while_both_are_away() -> None:
    asked = Asked()
    asked.kafka.problem = asked.server.problem = DatabaseUnavailable("nobody there")
    stats = (await asked("GET", "/stats")).json()
    assert (stats["kafka"]["status"], stats["mongodb"]["status"]) == ("down", "down")
    assert stats["mongodb"] | {"documents": None, "problem": "nobody there"} == stats["mongodb"]


async def test_a_server_that_answers_a_ping_and_no_more_is_down() -> None:
    asked = Asked()
    asked.server.facts_problem = DatabaseUnavailable("not now")
    mongodb = (await asked("GET", "/stats")).json()["mongodb"]
    assert (mongodb["status"], mongodb["problem"], mongodb["documents"]) == ("down", "not now", None)


@pytest.mark.parametrize(
    ("key", "sent", "status"), [(None, KEY, 403), (KEY, "", 401), (KEY, "wrong", 401), (KEY, KEY, 202)]
)
async def test_only_the_admin_key_shuts_down(key: str | None, sent: str, status: int) -> None:
    asked = Asked(key)
    assert (await asked("POST", "/shutdown", headers={"X-API-Key": sent})).status_code == status
    await asyncio.sleep(0.2)
    assert asked.stopped.is_set() is (status == 202)
    assert (await asked("GET", "/shutdown")).status_code == 405
