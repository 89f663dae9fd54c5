"""The bare path: the least that a durable acknowledgement costs in this language. What the platform is above it is its features.

An ASGI function; one validation, one JSON dump, one append to the partition's batch, one future for all who wait for that batch.
No limits, no request ids, no deduplication, no disk, no metrics, no deadline, and a failure is a 500.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections import deque
from datetime import UTC, datetime
from typing import Any, NotRequired
from uuid import UUID, uuid4

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from pydantic import TypeAdapter, ValidationError
from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict

from tests.benchmarks.baseline import serve

TOPIC = os.environ.get("KAFKA_TOPIC", "events")
BATCH_BYTES = 512 << 10


class Single(TypedDict):
    user_id: str
    event_name: str
    event_id: NotRequired[UUID]
    metadata: NotRequired[dict[str, Any]]
    timestamp: NotRequired[datetime]


class Learner(TypedDict):
    learner_id: str
    event_type: str
    event_id: NotRequired[UUID]
    tenant_id: NotRequired[str]
    timestamp: NotRequired[datetime]
    source_service: NotRequired[str]
    event_data: NotRequired[dict[str, Any]]
    metadata: NotRequired[dict[str, Any]]


_single = TypeAdapter(Single).validate_json
_batch = TypeAdapter(list[Learner]).validate_json


class Partition:
    """Batches that wait for the one in flight; the last is open."""

    def __init__(self, producer: AIOKafkaProducer, number: int) -> None:
        self._producer = producer
        self._number = number
        self._waiting: deque[tuple[BatchBuilder, asyncio.Future[None]]] = deque()
        self._sending: asyncio.Task[None] | None = None

    def append(self, key: bytes, value: bytes) -> asyncio.Future[None]:
        """What everybody in the same batch waits for."""
        waiting = self._waiting
        if not waiting or waiting[-1][0].append(key=key, value=value, timestamp=None) is None:
            batch = self._producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
            waiting.append((batch, asyncio.get_running_loop().create_future()))
            if self._sending is None:
                self._sending = asyncio.create_task(self._send())
        return waiting[-1][1]

    async def _send(self) -> None:
        while self._waiting:
            batch, acknowledged = self._waiting.popleft()
            try:
                await (await self._producer.send_batch(batch, TOPIC, partition=self._number))
                acknowledged.set_result(None)
            except Exception as error:
                acknowledged.set_exception(error)
        self._sending = None


class Bare:
    """The application."""

    def __init__(self) -> None:
        self._partitions: list[Partition] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        message = await receive()
        body = message.get("body", b"")
        if message.get("more_body"):
            parts = [body]
            while message.get("more_body"):
                message = await receive()
                parts.append(message["body"])
            body = b"".join(parts)
        try:
            status, reply = await self._answer(scope["path"], body)
        except ValidationError as error:
            status, reply = 422, error.json().encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    async def _answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        if path == "/events":
            single = _single(body)
            event_id = single.get("event_id") or uuid4()
            now = datetime.now(UTC)
            await self._append(
                single["user_id"],
                {
                    "event_id": event_id,
                    "user_id": single["user_id"],
                    "event_name": single["event_name"],
                    "timestamp": single.get("timestamp", now),
                    "received_at": now,
                    "metadata": single.get("metadata", {}),
                },
            )
            return 202, b'{"status":"accepted","event_id":"%s"}' % str(event_id).encode()
        if path == "/api/v1/collect":
            now = datetime.now(UTC)
            events = _batch(body)
            futures = {self._append(event["learner_id"], self._canonical(event, now)) for event in events}
            for acknowledged in futures:
                await acknowledged
            return 200, b'{"accepted_count":%d,"rejected_count":0}' % len(events)
        return 200, b'{"status":"ok"}'

    def _canonical(self, event: Learner, now: datetime) -> dict[str, Any]:
        return {
            "event_id": event.get("event_id") or uuid4(),
            "tenant_id": event.get("tenant_id"),
            "user_id": event["learner_id"],
            "event_name": event["event_type"],
            "timestamp": event.get("timestamp", now),
            "received_at": now,
            "metadata": event.get("event_data", {}),
            "context": event.get("metadata", {}),
            "source": event.get("source_service"),
        }

    def _append(self, user: str, event: dict[str, Any]) -> asyncio.Future[None]:
        key = user.encode()
        return self._partitions[zlib.crc32(key) % len(self._partitions)].append(key, orjson.dumps(event))

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        producer = AIOKafkaProducer(
            bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            acks="all",
            enable_idempotence=True,
            compression_type=os.environ.get("KAFKA_COMPRESSION_TYPE", "lz4"),
            max_batch_size=BATCH_BYTES,
        )
        await producer.start()
        self._partitions = [Partition(producer, number) for number in sorted(await producer.partitions_for(TOPIC))]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await producer.stop()
        await send({"type": "lifespan.shutdown.complete"})


if __name__ == "__main__":
    serve(Bare())
