"""What the sales service answers besides health and metrics: its statistics, and an order to end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, Field, SecretStr

from event_consumer import __version__
from event_consumer.admin import admin_router
from event_consumer.progress import Progress
from event_consumer.sales.collection import Facts
from event_consumer.sales.metrics import WINDOW_SECONDS, Lag, SalesMetrics
from event_consumer.sales.settings import SalesSettings
from event_core.errors import PlatformError
from event_core.health import Health
from event_core.telemetry import get_logger

log = get_logger(__name__)

ANSWER_SECONDS = 2.0


class Asked(Protocol):
    """A MongoDB server that tells of itself."""

    async def facts(self) -> Facts: ...


class Events(BaseModel):
    stored: int
    duplicates: int
    dead_letters: dict[str, int] = Field(description="By reason")
    per_second: float = Field(description="Settled per second over the window")
    window_seconds: int


class Partition(BaseModel):
    partition: int
    next_offset: int = Field(description="Everything before it is stored")
    lag_records: int
    lag_milliseconds: float | None = Field(description="Null where records wait, and it is not known since when")


class Kafka(BaseModel):
    status: Literal["up", "down"]
    problem: str | None = None
    topic: str
    dead_letter_topic: str
    group_id: str
    lag_milliseconds: float | None = Field(description="Null while it is not known where to read on")
    partitions: list[Partition] = Field(description="Those of this process")


class MongoDB(BaseModel):
    status: Literal["up", "down"]
    problem: str | None = None
    database: str
    collection: str
    documents: int | None = Field(description="The server's estimate; null while it does not answer")
    server_version: str | None


class Limits(BaseModel):
    batch_size: int
    flush_interval: float
    max_retries: int


class Statistics(BaseModel):
    """Counts are of this process, since its start."""

    service: str
    version: str
    uptime_seconds: float
    events: Events
    kafka: Kafka
    mongodb: MongoDB
    settings: Limits


class ShuttingDown(BaseModel):
    status: Literal["shutting_down"] = "shutting_down"
    message: str = "what is in hand is written and committed, then the process ends with 0"


class Desk:
    """Collects the statistics."""

    def __init__(
        self, settings: SalesSettings, metrics: SalesMetrics, progress: Progress, health: Health, mongodb: Asked
    ) -> None:
        """``health`` asks ``kafka`` and ``mongodb``."""
        self._settings = settings
        self._metrics = metrics
        self._progress = progress
        self._health = health
        self._mongodb = mongodb

    async def statistics(self) -> Statistics:
        """What is known within some seconds."""
        settings = self._settings
        _, report = await self._health.report()
        return Statistics(
            service=settings.service_name,
            version=__version__,
            uptime_seconds=round(self._metrics.uptime, 3),
            events=self._events(),
            kafka=self._kafka(report["checks"]["kafka"]),
            mongodb=await self._of_mongodb(report["checks"]["mongodb"]),
            settings=Limits(
                batch_size=settings.batch_size,
                flush_interval=settings.flush_interval,
                max_retries=settings.max_retries,
            ),
        )

    def _kafka(self, check: Mapping[str, Any]) -> Kafka:
        lag = Lag(self._progress).milliseconds
        return Kafka(
            status=check["status"],
            problem=check.get("error"),
            topic=self._settings.sales_topic,
            dead_letter_topic=self._settings.dlq_topic,
            group_id=self._settings.kafka_group_id,
            lag_milliseconds=_known(lag),
            partitions=[
                Partition(
                    partition=partition.partition,
                    next_offset=self._progress.stored[partition],
                    lag_records=records,
                    lag_milliseconds=_known(seconds * 1000),
                )
                for partition, (records, seconds) in sorted(self._progress.lags().items())
            ],
        )

    async def _of_mongodb(self, check: Mapping[str, Any]) -> MongoDB:
        facts, problem = None, check.get("error")
        if problem is None:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    facts = await self._mongodb.facts()
            except (TimeoutError, PlatformError) as error:
                problem = str(error) or f"no answer within {ANSWER_SECONDS:g} s"
        return MongoDB(
            status="down" if problem else "up",
            problem=problem,
            database=self._settings.mongodb_database,
            collection=self._settings.mongodb_collection,
            documents=facts.documents if facts else None,
            server_version=facts.version if facts else None,
        )

    def _events(self) -> Events:
        dead: dict[str, int] = {}
        for family in self._metrics.dead_letters.collect():
            for sample in family.samples:
                if sample.name.endswith("_total") and sample.value:
                    dead[sample.labels["reason"]] = int(sample.value)
        value = self._metrics.registry.get_sample_value
        return Events(
            stored=int(value("sales_events_processed_total", {"status": "stored"}) or 0),
            duplicates=int(value("sales_events_processed_total", {"status": "duplicate"}) or 0),
            dead_letters=dead,
            per_second=round(self._metrics.per_second, 3),
            window_seconds=WINDOW_SECONDS,
        )


def _known(milliseconds: float) -> float | None:
    return None if math.isnan(milliseconds) else round(milliseconds, 3)


def sales_routers(desk: Desk, admin_api_key: SecretStr | None, shut_down: Callable[[], Any]) -> list[APIRouter]:
    """GET /stats for all, POST /shutdown for whoever has the admin key."""
    open_to_all = APIRouter(tags=["operations"])
    guarded = admin_router(admin_api_key, tag="operations", errors={})

    @open_to_all.get("/stats", summary="What this process has done, and how Kafka and MongoDB are")
    async def stats() -> Statistics:
        return await desk.statistics()

    @guarded.post("/shutdown", status_code=202, summary="End in order: write what is in hand, commit, exit with 0")
    async def shutdown() -> ShuttingDown:
        log.info("asked to shut down over HTTP")
        asyncio.get_running_loop().call_later(0.1, shut_down)  # after this reply
        return ShuttingDown()

    return [open_to_all, guarded]
