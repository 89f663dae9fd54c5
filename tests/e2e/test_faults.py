"""Kill things under load, then hold what was acknowledged against what is stored: 0 lost, 0 twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import psycopg
import pytest

from tests.conftest import Platform
from tests.e2e.load import assert_each_once, drained, events_flow, load, mixed_events
from tests.support.backend import Backend
from tests.support.process import ROOT, Service
from tests.support.wait import query, until

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


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=[pytest.mark.exhaustive, pytest.mark.timeout(1800)])])
def test_the_consumer_killed_again_and_again_in_mid_batch(platform: Platform, kills: int) -> None:
    ingestion = platform.start("ingestion_service")
    consumer = platform.start("event_consumer", CONSUMER_BATCH_SIZE="100")
    with load(ingestion) as work:
        for number in range(kills):
            events_flow(platform)
            if number % 2:
                consumer.kill()
            else:
                kill_within_a_transaction(platform, consumer)
            consumer.start(ready=False)
    assert_each_once(platform, work.ledger, work.posted)


def kill_within_a_transaction(platform: Platform, consumer: Service) -> None:
    """SIGKILL while the consumer's transaction has moved the offsets and waits to insert the rows."""
    with psycopg.connect(platform.database_url) as blocker:
        blocker.execute("lock table events in share mode")
        until("the consumer waits within its transaction", lambda: inserting(platform))
        consumer.kill()
        blocker.rollback()
    until("its transaction is gone", lambda: not inserting(platform))


def inserting(platform: Platform) -> bool:
    rows = query(
        platform.database_url,
        "select 1 from pg_stat_activity where datname = current_database() and application_name = 'event_consumer'"
        " and wait_event_type = 'Lock' and query ilike '%insert into public.events%'",
    )
    return bool(rows)


def test_postgres_killed_under_load(platform: Platform, backend: Backend) -> None:
    ingestion = platform.start("ingestion_service")
    platform.start("event_consumer", CONSUMER_BATCH_SIZE="200")
    with load(ingestion) as work:
        for _ in range(2):
            events_flow(platform)
            backend.kill_postgres()
            time.sleep(2)
            backend.start_postgres()
    assert_each_once(platform, work.ledger, work.posted)


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


def test_two_consumers_share_the_partitions_and_take_over_from_each_other(platform: Platform) -> None:
    ingestion = platform.start("ingestion_service")
    own = {"KAFKA_GROUP_INSTANCE_ID": "", "CONSUMER_BATCH_SIZE": "100"}
    first = platform.start("event_consumer", **own)
    with load(ingestion) as work:
        events_flow(platform)
        second = platform.start("event_consumer", **own)
        until("both store", lambda: min(stored_by(first), stored_by(second)) > 0)
        first.kill()
        first.start(ready=False)
        until("both store again", lambda: min(stored_by(first), stored_by(second)) > 0)
        assert second.stop() == 0
    assert_each_once(platform, work.ledger, work.posted)


def stored_by(consumer: Service) -> float:
    return consumer.metric("consumer_events_stored_total")
