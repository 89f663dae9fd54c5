"""The ingestion service without a server and without Kafka, for the tests of its HTTP side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from starlette.types import ASGIApp, Message

from event_core.codec import Record
from event_core.event import Event
from event_core.telemetry import Tracing
from ingestion_service.app import Deps, create_app
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import MemoryPublisher
from ingestion_service.settings import IngestionSettings
from tests.unit.decoded import decode

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
GOOD = b'{"user_id":"u","event_name":"e","metadata":{"page":"/"},"timestamp":"2026-01-31T11:59:59Z"}'
ERROR_KEYS = {"error_code", "error_message", "timestamp", "request_id", "retryable"}


class BrokenPublisher(MemoryPublisher):
    """Fails with a fault of its own."""

    def publish(self, topic: str, records: object) -> Any:
        raise RuntimeError("secret: hunter2")


@dataclass
class Ingestion:
    """The app, the fakes around it, and ways to ask it."""

    publisher: MemoryPublisher = field(default_factory=MemoryPublisher)
    settings: IngestionSettings = field(default_factory=IngestionSettings)
    tracing: Tracing = field(default_factory=lambda: Tracing(None))
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.app: ASGIApp = create_app(
            self.settings, Deps(self.publisher, [self.publisher], self.metrics, self.tracing, clock=lambda: NOW)
        )

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    async def post(self, body: bytes, **headers: str) -> httpx.Response:
        """POST /events; ``x_request_id="a"`` becomes the header X-Request-ID."""
        async with self.client() as client:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.post("/events", content=body, headers=given)

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.request(method, path, **options)

    def events(self) -> list[Event]:
        """What was published, as a consumer reads it."""
        return [decode(record.value) for record in self.records()]

    def records(self, *topics: str) -> list[Record]:
        """What was published to ``topics``, by default those of the events."""
        wanted = topics or (self.settings.kafka_topic, self.settings.kafka_product_topic)
        return [record for topic, record in self.publisher.sent if topic in wanted]

    def dead_letters(self) -> list[Record]:
        return self.records(self.settings.dlq_topic)

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def rejected(self) -> dict[str, float]:
        """Reason -> refused events."""
        return {
            sample.labels["reason"]: sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "ingestion_events_rejected_total"
        }


def error_of(response: httpx.Response, *, details: bool | None = None) -> dict[str, Any]:
    """The error in the one shape; ``details`` says whether there must be some."""
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = json.loads(response.content, parse_constant=lambda name: 1 / 0)
    assert set(body) - {"details"} == ERROR_KEYS
    if details is not None:
        assert ("details" in body) is details
    assert all(isinstance(body[key], str) and body[key] for key in ERROR_KEYS - {"retryable"})
    assert isinstance(body["retryable"], bool)
    assert body["timestamp"].endswith("Z")
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None
    assert response.headers["x-request-id"] == body["request_id"]
    return body


async def call(app: ASGIApp, messages: Iterable[Message], headers: Iterable[tuple[bytes, bytes]] = ()) -> list[Message]:
    """What ``app`` sends in answer to a POST /events whose body comes as ``messages`` and then never ends."""
    sent: list[Message] = []
    waiting = iter(messages)

    async def receive() -> Message:
        for message in waiting:
            return message
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # never done

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/events",
        "raw_path": b"/events",
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    async with asyncio.timeout(5):
        await app(scope, receive, send)
    return sent


def chunk(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def answer(sent: list[Message]) -> httpx.Response:
    """The response that the ``sent`` messages make."""
    start, *bodies = sent
    return httpx.Response(start["status"], headers=start["headers"], content=b"".join(m["body"] for m in bodies))
