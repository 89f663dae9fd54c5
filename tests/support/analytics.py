"""The analytics service with a database that says what a test wants it to say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from analytics_service.app import Deps, create_app
from analytics_service.exports import Column
from analytics_service.metrics import Metrics
from analytics_service.questions.base import Cost, Question, Row
from analytics_service.settings import AnalyticsSettings
from analytics_service.store import State
from event_core.errors import PlatformError
from event_core.health import FakePing
from event_core.telemetry import Tracing

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


class FakeStore:
    """Answers every question with ``found``; ``asked`` are the questions that were not answered from the cache."""

    def __init__(self) -> None:
        self.found: list[Row] = []
        self.version = "1"
        self.watermark: datetime | None = datetime(2026, 2, 1, tzinfo=UTC)
        self.asked_at = datetime(2026, 2, 1, 0, 0, 2, tzinfo=UTC)
        self.reads = 0
        self.problem: BaseException | None = None
        self.pause: asyncio.Event | None = None
        self.asked: list[Question] = []

    async def state(self, question: Question) -> State:
        if self.problem is not None:
            raise self.problem
        return State(self.version, self.watermark, self.asked_at)

    async def fetch(self, name: str, statement: str, *arguments: object) -> Sequence[Row]:
        if self.problem is not None:
            raise self.problem
        return self.found

    @contextlib.asynccontextmanager
    async def snapshot(self, question: Question) -> AsyncIterator[FakeStore]:
        yield self

    async def events_to_read(self, cost: Cost) -> int:
        return self.reads

    async def rows(self, question: Question) -> Sequence[Row]:
        self.asked.append(question)
        if self.pause is not None:
            await self.pause.wait()
        return self.found

    async def columns(self, question: Question) -> Sequence[Column]:
        return [Column(name, "text") for name in question.columns()]

    async def stream(self, question: Question) -> AsyncGenerator[Sequence[Row]]:
        self.asked.append(question)
        for row in self.found:
            yield [row]


@dataclass
class Analytics:
    """The app, the fakes around it, and a way to ask it."""

    store: FakeStore = field(default_factory=FakeStore)
    postgres: FakePing = field(default_factory=lambda: FakePing("postgres"))
    settings: AnalyticsSettings = field(default_factory=AnalyticsSettings)

    def __post_init__(self) -> None:
        deps = Deps(self.store, [self.postgres], Metrics(), Tracing(None), contextlib.AsyncExitStack(), asyncio.Event())
        self.app = create_app(self.settings, deps)

    def fails(self, problem: PlatformError) -> None:
        self.store.problem = problem

    async def request(self, method: str, path: str, **how: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **how)

    async def get(self, path: str, headers: Any = None, **params: Any) -> httpx.Response:
        return await self.request("GET", path, params=params or None, headers=headers)
