"""Acknowledged = in Kafka + on disk, by the collector's own counters, while Kafka is killed and comes back."""

from __future__ import annotations

import time

import pytest

from tests.conftest import Platform
from tests.e2e.load import learner_events, load, mixed_events
from tests.support.backend import Backend
from tests.support.process import Service
from tests.support.topics import scan
from tests.support.wait import until

pytestmark = pytest.mark.e2e


def at_rest(service: Service) -> bool:
    return bool(
        service.get("/api/v1/metrics").json()["buffer_events_count"] == 0
        and service.get("/api/v1/health").json()["status"] == "healthy"
    )


def test_what_was_acknowledged_was_made_durable_through_an_outage(platform: Platform, backend: Backend) -> None:
    ingestion = platform.start("ingestion_service")
    with (
        load(ingestion, mixed_events, rate=200),
        load(ingestion, learner_events, batches_of=50, rate=1_000, workers=2),
    ):
        time.sleep(2)
        backend.kill_kafka()
        try:
            time.sleep(3)
        finally:
            backend.start_kafka()
        until("Kafka takes all again", lambda: at_rest(ingestion))
        time.sleep(1)
    until("nothing is on its way", lambda: at_rest(ingestion))
    accepted = [ingestion.metric("ingestion_events_accepted_total", stored=where) for where in ("kafka", "disk")]
    assert min(accepted) > 0
    assert ingestion.metric("ingestion_spool_events_total") > 0
    assert ingestion.metric("ingestion_unaccounted_records") == 0
    arrived = 0

    def see(_: object) -> None:
        nonlocal arrived
        arrived += 1

    for topic in (platform.topic, platform.product_topic):
        scan(backend.kafka, topic, see)
    assert arrived >= sum(accepted)
