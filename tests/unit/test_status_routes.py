"""What the collector says of itself: /, /api/v1/health, /api/v1/metrics; and the events it makes to be tried with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args
from uuid import UUID

import httpx
import pytest

from event_core.errors import BrokerUnavailable
from event_core.health import FakePing, Ping
from event_core.telemetry import Tracing
from ingestion_service import __version__
from ingestion_service.app import Deps, create_app
from ingestion_service.delivery import Stored
from ingestion_service.errors import BufferFull
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import MemoryPublisher, PublisherStatus
from ingestion_service.schemas import LearnerEventType, Priority
from ingestion_service.settings import IngestionSettings
from tests.unit.ingestion import NOW, Ingestion, error_of

HEALTH_FIELDS = {"status", "kafka_connected", "buffer_status", "throughput_metrics", "uptime_seconds"}
METRICS_FIELDS = {
    "events_processed_total",
    "events_per_second",
    "kafka_writes_total",
    "dlq_events_total",
    "buffer_events_count",
    "avg_processing_time_ms",
    "p99_processing_time_ms",
}
REPLY_FIELDS = {
    "batch_id",
    "accepted_count",
    "rejected_count",
    "processing_time_ms",
    "kafka_partition",
    "dlq_events",
    "warnings",
    "results",
}
DOWN = RuntimeError("gone")


class ToldPublisher(MemoryPublisher):
    """Says of itself what the test decides."""

    def __init__(self, said: PublisherStatus) -> None:
        super().__init__()
        self.said = said

    def status(self) -> PublisherStatus:
        return self.said


async def get(said: PublisherStatus, path: str, pings: Sequence[Ping] = ()) -> httpx.Response:
    """What a collector whose publisher says ``said`` answers."""
    publisher = ToldPublisher(said)
    deps = Deps(publisher, [*pings] or [publisher], Metrics(), Tracing(None), clock=lambda: NOW)
    transport = httpx.ASGITransport(create_app(IngestionSettings(), deps))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path)


def learner_event(**fields: Any) -> dict[str, Any]:
    return {"learner_id": "learner_001", "event_type": "interaction", **fields}


# --- /


async def test_the_root_says_what_the_service_is_and_leads_to_everything_else() -> None:
    ingestion = Ingestion()

    said = (await ingestion.request("GET", "/")).json()

    assert said["version"] == __version__
    for path in said["links"].values():
        assert (await ingestion.request("GET", path)).status_code == 200, path
    documented = (await ingestion.request("GET", "/openapi.json")).json()["paths"]
    assert set(said["endpoints"]) == {
        f"{method.upper()} {path}" for path, operations in documented.items() for method in operations
    }
    assert {"POST /events", "POST /api/v1/collect", "POST /api/v1/test/events"} <= set(said["endpoints"])
    assert all(said["endpoints"].values())


async def test_the_root_is_a_page_for_browsers() -> None:
    accept = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}

    reply = await Ingestion().request("GET", "/", headers=accept)

    assert reply.headers["content-type"].startswith("text/html")
    assert reply.headers["vary"] == "Accept"
    assert '<a href="/docs">' in reply.text
    assert "POST /api/v1/collect" in reply.text


# --- /api/v1/health


async def test_health_has_the_documented_fields_and_no_others() -> None:
    reply = await Ingestion().request("GET", "/api/v1/health")

    said = reply.json()
    assert reply.status_code == 200
    assert set(said) == HEALTH_FIELDS
    assert (said["status"], said["kafka_connected"]) == ("healthy", True)
    assert said["buffer_status"] == {"buffered_batches": 0, "buffer_size_mb": 0.0}
    assert said["throughput_metrics"] == {"events_per_second": 0.0, "avg_processing_time_ms": 0.0}
    assert said["uptime_seconds"] >= 0


async def test_health_is_degraded_but_200_while_kafka_is_away_and_the_disk_is_there() -> None:
    said = PublisherStatus(
        kafka_connected=False, spooling=True, buffered_events=500, buffered_batches=3, buffer_bytes=5 << 19
    )

    reply = await get(said, "/api/v1/health", [FakePing("kafka", DOWN), FakePing("buffer")])

    health = reply.json()
    assert reply.status_code == 200
    assert (health["status"], health["kafka_connected"]) == ("degraded", False)
    assert health["buffer_status"] == {"buffered_batches": 3, "buffer_size_mb": 2.5}


@pytest.mark.parametrize(
    "said",
    [
        PublisherStatus(kafka_connected=True, spooling=True),
        PublisherStatus(kafka_connected=True, spooling=False, buffered_events=1, buffered_batches=1),
    ],
    ids=["new ones go to disk first", "some still wait"],
)
async def test_health_is_degraded_until_the_disk_is_drained(said: PublisherStatus) -> None:
    reply = await get(said, "/api/v1/health", [FakePing("kafka"), FakePing("buffer")])

    assert reply.status_code == 200
    assert (reply.json()["status"], reply.json()["kafka_connected"]) == ("degraded", True)


async def test_health_is_degraded_while_the_disk_takes_nothing_and_kafka_does() -> None:
    said = PublisherStatus(kafka_connected=True, spooling=False)

    reply = await get(said, "/api/v1/health", [FakePing("kafka"), FakePing("buffer", DOWN)])

    assert (reply.status_code, reply.json()["status"]) == (200, "degraded")


async def test_health_is_503_where_events_have_nowhere_to_go() -> None:
    said = PublisherStatus(kafka_connected=False, spooling=True, buffered_events=9)

    reply = await get(said, "/api/v1/health", [FakePing("kafka", DOWN), FakePing("buffer", DOWN)])

    assert (reply.status_code, reply.json()["status"]) == (503, "unhealthy")
    assert set(reply.json()) == HEALTH_FIELDS


async def test_a_broker_that_does_not_answer_is_not_connected_whatever_the_publisher_thinks() -> None:
    said = PublisherStatus(kafka_connected=True, spooling=False)

    reply = await get(said, "/api/v1/health", [FakePing("kafka", DOWN), FakePing("buffer")])

    assert reply.json()["kafka_connected"] is False


# --- /api/v1/metrics


async def test_metrics_count_what_was_accepted_duplicates_included_and_what_became_a_dead_letter() -> None:
    ingestion = Ingestion()
    twice = learner_event(event_id="123e4567-e89b-12d3-a456-426614174000")
    sent = [twice, twice, learner_event(), learner_event(event_type="unheard_of")]
    await ingestion.request("POST", "/api/v1/collect", json=sent)
    await ingestion.post(b'{"user_id":"u","event_name":"e"}')
    await ingestion.post(b'{"user_id":"u"}')

    reply = await ingestion.request("GET", "/api/v1/metrics")

    said = reply.json()
    assert reply.status_code == 200
    assert set(said) == METRICS_FIELDS
    assert said["events_processed_total"] == 4
    assert said["dlq_events_total"] == 2
    assert said["dlq_events_total"] == len(ingestion.dead_letters())
    assert 0 < said["events_per_second"] <= 6
    assert 0 < said["avg_processing_time_ms"] <= said["p99_processing_time_ms"]


async def test_metrics_say_how_many_batches_kafka_has_and_how_many_events_wait_on_disk() -> None:
    said = PublisherStatus(kafka_connected=True, spooling=True, buffered_events=70, buffered_batches=2, kafka_writes=15)

    metrics = (await get(said, "/api/v1/metrics")).json()

    assert (metrics["kafka_writes_total"], metrics["buffer_events_count"]) == (15, 70)


# --- /api/v1/test/events


@pytest.mark.parametrize(("path", "count"), [("/api/v1/test/events", 1), ("/api/v1/test/events?count=1000", 1000)])
async def test_test_events_are_new_learner_events_that_go_the_usual_way(path: str, count: int) -> None:
    ingestion = Ingestion()

    reply = await ingestion.request("POST", path)

    said, events = reply.json(), ingestion.events()
    assert reply.status_code == 200
    assert set(said) == REPLY_FIELDS
    assert (said["accepted_count"], said["rejected_count"], said["results"]) == (count, 0, [])
    assert UUID(said["batch_id"])
    assert len({event["event_id"] for event in events}) == len(events) == count
    assert {event["tenant_id"] for event in events} == {"test"}
    assert {event["source"] for event in events} == {"event-collector-test"}
    assert {event["timestamp"] for event in events} == {NOW}
    assert {event["event_name"] for event in events} <= set(get_args(LearnerEventType))
    assert {event["context"]["priority"] for event in events} <= set(get_args(Priority))
    assert [event["user_id"] for event in events][:2] == ["learner_001", "learner_002"][:count]
    assert {record.key.decode() for record in ingestion.records()} == {event["user_id"] for event in events}


async def test_test_events_are_counted_as_any_other() -> None:
    ingestion = Ingestion()

    await ingestion.request("POST", "/api/v1/test/events?count=20")

    assert ingestion.metric("ingestion_events_accepted_total", stored="kafka") == 20
    assert ingestion.metric("ingestion_requests_total", status="200") == 1
    metrics = (await ingestion.request("GET", "/api/v1/metrics")).json()
    assert metrics["events_processed_total"] == 20
    assert metrics["events_per_second"] > 0


@pytest.mark.parametrize("count", ["0", "-1", "1001", "many", "1.5", ""])
async def test_a_count_out_of_range_is_refused_and_nothing_is_sent(count: str) -> None:
    ingestion = Ingestion()

    reply = await ingestion.request("POST", f"/api/v1/test/events?count={count}")

    assert reply.status_code == 422
    assert error_of(reply, details=True)["error_code"] == "invalid_request"
    assert ingestion.publisher.sent == []


async def test_no_test_events_in_production() -> None:
    ingestion = Ingestion(settings=IngestionSettings(environment="production"))

    reply = await ingestion.request("POST", "/api/v1/test/events")

    assert reply.status_code == 403
    assert error_of(reply, details=False)["error_code"] == "forbidden"
    assert ingestion.publisher.sent == []


async def test_test_events_say_when_they_are_on_disk_only() -> None:
    reply = await Ingestion(publisher=MemoryPublisher(stored=Stored.DISK)).request("POST", "/api/v1/test/events")

    assert reply.status_code == 200
    assert len(reply.json()["warnings"]) == 1


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (BrokerUnavailable("gone", retry_after=2), "broker_unavailable"),
        (BufferFull("full", retry_after=9), "buffer_full"),
    ],
)
async def test_test_events_that_cannot_be_stored_are_503_with_retry_after(
    problem: BrokerUnavailable | BufferFull, code: str
) -> None:
    ingestion = Ingestion(publisher=MemoryPublisher(problem))

    reply = await ingestion.request("POST", "/api/v1/test/events")

    assert reply.status_code == 503
    assert reply.headers["retry-after"] == str(problem.retry_after)
    assert json.loads(reply.content)["error_code"] == code
    assert error_of(reply)["retryable"] is True
