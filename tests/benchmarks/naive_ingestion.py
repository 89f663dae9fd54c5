"""The baseline for ingestion: what FastAPI's and aiokafka's tutorials lead to, with the same durability.

A body model, a JSON dump, ``send_and_wait`` per request; idempotent, acks=all; uvicorn with uvloop and httptools.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from aiokafka import AIOKafkaProducer
from fastapi import FastAPI
from pydantic import BaseModel, Field

from tests.benchmarks.baseline import serve

TOPIC = os.environ.get("KAFKA_TOPIC", "events")


class Event(BaseModel):
    """The same form that the platform takes."""

    event_id: UUID = Field(default_factory=uuid4)
    user_id: str = Field(min_length=1, max_length=256)
    event_name: str = Field(min_length=1, max_length=256)
    metadata: dict[str, Any] = Field(default_factory=dict)
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Accepted(BaseModel):
    """The reply."""

    status: str
    event_id: UUID


class _Kafka:
    producer: AIOKafkaProducer


@contextlib.asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    _Kafka.producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"], acks="all", enable_idempotence=True
    )
    await _Kafka.producer.start()
    yield
    await _Kafka.producer.stop()


app = FastAPI(lifespan=_lifespan)


@app.get("/health")
async def health() -> dict[str, str]:
    """200 once the producer is connected."""
    return {"status": "ok"}


@app.post("/events", status_code=202)
async def post_event(event: Event) -> Accepted:
    """Answers once Kafka has acknowledged the event."""
    value = {**event.model_dump(mode="json"), "received_at": datetime.now(UTC).isoformat()}
    await _Kafka.producer.send_and_wait(TOPIC, json.dumps(value).encode(), key=event.user_id.encode())
    return Accepted(status="accepted", event_id=event.event_id)


if __name__ == "__main__":
    serve(app)
