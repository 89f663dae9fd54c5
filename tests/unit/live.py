"""A live view with a database that the test plays, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Collection
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from analytics_service.live import Listener, Live, Pulse, Topic
from tests.unit.virtual_time import now

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Database:
    """Answers the poller."""

    def __init__(self) -> None:
        self.stored: dict[str, int] = {}
        self.rows: list[dict[str, Any]] = []
        self.problem: Exception | None = None
        self.frozen = False
        self.asked: list[tuple[float, set[Topic]]] = []

    def store(self, number: int = 1, tenant: str = "default", **fields: Any) -> list[str]:
        """New events, each newer than all before; their ids, newest first."""
        ids: list[str] = []
        for _ in range(number):
            event_id = UUID(int=len(self.rows) + 1)
            row = {
                "event_id": event_id, "tenant_id": tenant, "user_id": "u", "event_name": "e",
                "timestamp": START + timedelta(milliseconds=len(self.rows)), "received_at": START, "processed_at": START,
                "source": None, "experiment_id": None, "variant": None, "metadata": "x" * 1000, **fields,
            }  # fmt: skip
            self.rows.append(row)
            ids.insert(0, str(event_id))
        self.stored[tenant] = self.stored.get(tenant, 0) + number
        return ids

    async def ask(self, topics: Collection[Topic]) -> Pulse:
        self.asked.append((now(), set(topics)))
        while self.frozen:
            await asyncio.sleep(0.1)
        if self.problem is not None:
            raise self.problem
        at = START + timedelta(seconds=now())
        newest = sorted(self.rows, key=lambda row: row["timestamp"], reverse=True)
        return Pulse(
            at,
            at - timedelta(seconds=2),
            {None: sum(self.stored.values()), **{topic: self.stored.get(topic, 0) for topic in topics if topic}},
            {topic: [row for row in newest if topic in (None, row["tenant_id"])][:200] for topic in topics},
        )


class Watcher:
    """Reads a listener's messages, as a browser would."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.ended = False
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.listener.messages():
            fields = dict(line.split(": ", 1) for line in message.decode().strip().split("\n"))
            if "event" in fields:
                self.told.append((fields["event"], json.loads(fields["data"])))
        self.ended = True

    def of(self, event: str) -> list[dict[str, Any]]:
        return [data for name, data in self.told if name == event]

    @property
    def shown(self) -> list[list[str]]:
        """The ids of each message of events."""
        return [[event["event_id"] for event in data["events"]] for data in self.of("events")]

    @property
    def rates(self) -> list[float | None]:
        return [data["per_second"] for data in self.of("counts")]


class Scene:
    def __init__(self) -> None:
        self.database = Database()
        self.stop = asyncio.Event()
        self.live = Live(self.database.ask, self.stop)

    def watch(self, topic: Topic = None) -> Watcher:
        return Watcher(self.live.join(topic))


@contextlib.asynccontextmanager
async def scene() -> AsyncGenerator[Scene]:
    this = Scene()
    try:
        yield this
    finally:
        await this.live.close()
