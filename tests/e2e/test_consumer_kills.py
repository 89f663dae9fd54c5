"""Row 16 of the fault matrix: the consumer killed wherever it hurts, above all between Postgres' commit and Kafka's."""

from __future__ import annotations

import signal

import psycopg
import pytest

from tests.conftest import Platform
from tests.e2e.books import (
    assert_books,
    assert_kafka_is_not_ahead,
    assert_stored_once,
    event,
    put,
    sessions,
    topics_made,
)
from tests.e2e.load import assert_each_once, events_flow, load
from tests.e2e.oracle import Ledger
from tests.support.failpoints import AFTER_THE_DATABASES_COMMIT, ANSWERS_LOST, BEFORE_KAFKAS_COMMIT
from tests.support.process import Service
from tests.support.wait import count, until

pytestmark = pytest.mark.e2e

ALL = [pytest.mark.exhaustive, pytest.mark.timeout(3600)]
COPYING = "wait_event_type = 'Lock' and query ilike 'copy %events%'"


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=ALL)])
def test_killed_between_the_databases_commit_and_kafkas(platform: Platform, kills: int) -> None:
    topics_made(platform)
    consumer = platform.start("event_consumer", CONSUMER_BATCH_SIZE="50")
    ledger, sent = Ledger(), 0
    for _ in range(kills):
        consumer.kill()
        sent += put(platform, ledger, map(event, range(120)), 0, 1)
        assert consumer.run("tests.support.failpoints", BEFORE_KAFKAS_COMMIT) == -signal.SIGKILL
        assert_kafka_is_not_ahead(platform)
    assert count(platform.database_url) > 0, "killed after commits"
    consumer.start()
    assert_stored_once(platform, ledger, sent)
    assert consumer.metric("consumer_events_duplicate_total") == 0, "nothing that was committed was read again"


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=ALL)])
def test_killed_before_it_knows_that_its_batch_is_committed(platform: Platform, kills: int) -> None:
    topics_made(platform)
    consumer = platform.start("event_consumer", CONSUMER_BATCH_SIZE="50")
    ledger, sent, before = Ledger(), 0, 0
    for _ in range(kills):
        consumer.kill()
        sent += put(platform, ledger, map(event, range(120)), 0, 1)
        assert consumer.run("tests.support.failpoints", AFTER_THE_DATABASES_COMMIT) == -signal.SIGKILL
        assert_kafka_is_not_ahead(platform)
        before, known = count(platform.database_url), before
        assert before > known, "its batch was committed"
    consumer.start()
    assert_stored_once(platform, ledger, sent)
    assert consumer.metric("consumer_events_duplicate_total") == 0


def test_the_answer_to_a_commit_is_lost(platform: Platform) -> None:
    topics_made(platform)
    consumer = platform.start("event_consumer", CONSUMER_BATCH_SIZE="50")
    consumer.kill()
    ledger = Ledger()
    sent = put(platform, ledger, map(event, range(500)), 0, 1, 2)
    consumer.start(instead=["tests.support.failpoints", ANSWERS_LOST])
    assert_stored_once(platform, ledger, sent)
    assert consumer.metric("consumer_fence_lost_total") > 0, "the same batch again meets its own offsets"
    assert consumer.metric("consumer_events_duplicate_total") == 0


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=ALL)])
def test_killed_again_and_again_under_load(platform: Platform, kills: int) -> None:
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
    assert_books(platform)


def kill_within_a_transaction(platform: Platform, consumer: Service) -> None:
    """SIGKILL while the consumer's transaction has moved the offsets and waits to copy the rows."""
    with psycopg.connect(platform.database_url) as blocker:
        blocker.execute("lock table events in share mode")
        until("the consumer waits within its transaction", lambda: bool(sessions(platform, COPYING)))
        consumer.kill()
        blocker.rollback()
    until("its transaction is gone", lambda: not sessions(platform))
