"""Health is a property of the dependencies: what an orchestrator and an operator read from it."""

from __future__ import annotations

import asyncio

import pytest

from event_core import health
from event_core.errors import DatabaseUnavailable
from event_core.health import FakePing, Health


class Stuck:
    """A dependency that does not answer before it is released."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.released = asyncio.Event()

    async def ping(self) -> None:
        await self.released.wait()


async def test_with_every_dependency_up_the_service_is_healthy() -> None:
    ready, body = await Health("s", "1.2.3", [FakePing("kafka"), FakePing("postgres")]).report()
    assert ready
    assert (body["status"], body["service"], body["version"]) == ("healthy", "s", "1.2.3")
    assert {name: check["status"] for name, check in body["checks"].items()} == {"kafka": "up", "postgres": "up"}
    assert (body["kafka_connected"], body["postgres_connected"]) == (True, True)
    assert all(check["latency_ms"] >= 0 for check in body["checks"].values())


async def test_a_service_without_dependencies_is_healthy() -> None:
    ready, body = await Health("s", "1", []).report()
    assert (ready, body["status"], body["checks"]) == (True, "healthy", {})


@pytest.mark.parametrize(
    ("problem", "shown"),
    [
        (DatabaseUnavailable("PostgreSQL is away"), "PostgreSQL is away"),
        (RuntimeError("unforeseen"), "unforeseen"),
        (OSError(111, "Connection refused"), "[Errno 111] Connection refused"),
        (KeyError(), "KeyError"),
        (AssertionError(), "AssertionError"),
    ],
)
async def test_one_dependency_that_fails_makes_the_service_unready_and_is_named_with_its_reason(
    problem: Exception, shown: str
) -> None:
    ready, body = await Health("s", "1", [FakePing("kafka"), FakePing("postgres", problem)]).report()
    assert not ready
    assert body["status"] == "unhealthy"
    assert body["checks"]["kafka"]["status"] == "up"
    assert body["checks"]["postgres"] == {"status": "down", "error": shown}
    assert (body["kafka_connected"], body["postgres_connected"]) == (True, False)


async def test_dependencies_that_do_not_answer_are_given_up_after_one_time_limit_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "PING_TIMEOUT_SECONDS", 0.2)
    stuck = [Stuck(f"stuck{number}") for number in range(50)]
    async with asyncio.timeout(5):  # one after the other they would need ten seconds
        ready, body = await Health("s", "1", [*stuck, FakePing("kafka")]).report()
    assert not ready
    assert body["checks"]["kafka"]["status"] == "up"
    assert body["checks"]["stuck0"] == {"status": "down", "error": "no answer within 0.2 s"}


async def test_a_dependency_that_was_stuck_is_up_once_it_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PING_TIMEOUT_SECONDS", 0.05)
    stuck = Stuck("postgres")
    asked = Health("s", "1", [stuck])
    assert not (await asked.report())[0]
    stuck.released.set()
    monkeypatch.setattr(health, "PING_TIMEOUT_SECONDS", 5.0)
    assert (await asked.report())[0]


async def test_a_dependency_that_comes_back_makes_the_service_ready_again() -> None:
    ping = FakePing("kafka", RuntimeError("away"))
    asked = Health("s", "1", [ping])
    assert not (await asked.report())[0]
    ping.problem = None
    assert (await asked.report())[0]
