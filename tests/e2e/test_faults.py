"""Kill Kafka and the ingestion service under load, then hold what was acknowledged against what is stored: 0 lost, 0 twice.

The consumer and Postgres have files of their own: test_consumer_*.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from tests.conftest import Platform
from tests.e2e.load import assert_each_once, drained, events_flow, load, mixed_events
from tests.support.backend import Backend
from tests.support.process import ROOT
from tests.support.wait import query

pytestmark = pytest.mark.e2e


def test_kafka_killed_and_restarted_under_load(platform: Platform, backend: Backend) -> None:
    ingestion = platform.start("ingestion_service", KAFKA_PUBLISH_TIMEOUT_SECONDS="2")
    platform.start("event_consumer")
    outages = []
    with load(ingestion, mixed_events) as work:
        for _ in range(2):
            events_flow(platform, 200)
            killed = time.monotonic()
            backend.kill_kafka()
            time.sleep(3)
            outages.append((killed, time.monotonic()))
            backend.start_kafka()
    assert work.posted.statuses() == {202}, "while Kafka is away events are taken to disk"
    for killed, ended in outages:
        assert work.posted.seconds(killed, ended, share=1.0) < 8, "the breaker opens"
        assert work.posted.seconds(killed + 2.7, ended) < 1, "once it is open, nobody waits for Kafka"
    assert ingestion.metric("ingestion_events_accepted_total", stored="disk") > 0
    assert_each_once(platform, work.ledger, work.posted)


def test_kafka_killed_under_the_load_of_send_events(platform: Platform, backend: Backend) -> None:
    ingestion = platform.start("ingestion_service", KAFKA_PUBLISH_TIMEOUT_SECONDS="2")
    platform.start("event_consumer")
    analytics = platform.start("analytics_service")
    options = "--events 1500 --rate 150 --max-wait 120 --json-summary --quiet"
    sending = subprocess.Popen(
        [sys.executable, "tools/send_events.py", "--url", f"{ingestion.url}/events", *options.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    events_flow(platform, 100)
    backend.kill_kafka()
    time.sleep(3)
    backend.start_kafka()
    output, _ = sending.communicate(timeout=200)
    assert sending.returncode == 0, output
    summary = json.loads(output.splitlines()[-1])
    assert (summary["sent"], summary["acknowledged"]) == (1500, 1500)
    drained(platform, 1500)
    ids = {str(event_id) for (event_id,) in query(platform.database_url, "select event_id from events")}
    assert ids == set(summary["event_ids"])
    reply = analytics.get("/analytics/events/count", from_ts=summary["from_ts"], to_ts=summary["to_ts"])
    assert reply.json()["count"] == 1500


def test_ingestion_ended_and_killed_under_load(platform: Platform) -> None:
    ingestion = platform.start("ingestion_service")
    platform.start("event_consumer")
    with load(ingestion) as work:
        for number in range(4):
            events_flow(platform)
            if number % 2:
                ingestion.kill()
            else:
                assert ingestion.stop() == 0
            ingestion.start()
    assert_each_once(platform, work.ledger, work.posted)
