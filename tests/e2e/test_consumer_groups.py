"""Row 17 of the fault matrix: consumers that come, go, hang and come back, while events flow."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import Platform
from tests.e2e.books import assert_books, assert_stored_once, event, put, sessions, topics_made
from tests.e2e.load import assert_each_once, events_flow, learner_events, load
from tests.e2e.oracle import Ledger
from tests.support.process import Service
from tests.support.wait import count, query, until

pytestmark = pytest.mark.e2e

ALL = [pytest.mark.exhaustive, pytest.mark.timeout(3600)]
# Members without an identity of their own: their partitions are dealt anew as soon as they come or go.
ANONYMOUS = {"KAFKA_GROUP_INSTANCE_ID": "", "CONSUMER_BATCH_SIZE": "100"}
LAG = "consumer_lag_records"


def stored_by(consumer: Service) -> float:
    return consumer.metric("consumer_events_stored_total")


def both_store(first: Service, second: Service) -> None:
    """Returns once each of them has stored more than it has now."""
    before = [(each, stored_by(each)) for each in (first, second)]
    until("both store", lambda: all(stored_by(each) > stored for each, stored in before))


def lag(consumer: Service) -> float:
    """Of all its partitions."""
    lines = [line for line in consumer.get("/metrics").text.splitlines() if line.startswith(LAG + "{")]
    assert lines, "it has partitions"
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.parametrize("rounds", [2, pytest.param(40, marks=ALL)])
def test_a_second_consumer_comes_and_goes_every_five_seconds(platform: Platform, rounds: int) -> None:
    ingestion = platform.start("ingestion_service")
    first = platform.start("event_consumer", **ANONYMOUS)
    with load(ingestion, learner_events, batches_of=50, rate=400) as work:
        events_flow(platform)
        second = platform.start("event_consumer", **ANONYMOUS)
        for number in range(rounds):
            both_store(first, second)
            time.sleep(5)
            assert first.running()
            if number % 2:
                assert second.stop() == 0
            else:
                second.kill()
            time.sleep(5)
            second.start(ready=False)
        both_store(first, second)
        assert second.stop() == 0
    until("no record waits", lambda: lag(first) == 0, seconds=30)
    assert_each_once(platform, work.ledger, work.posted)
    assert_books(platform)


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=ALL)])
def test_partitions_that_are_taken_away_in_mid_batch_and_given_back(platform: Platform, rounds: int) -> None:
    topics_made(platform)
    first = platform.start("event_consumer", **ANONYMOUS)
    ledger, sent = Ledger(), 0
    for _ in range(rounds):
        with held_within_a_transaction(platform):
            sent += put(platform, ledger, map(event, range(600)), *range(6))
            until("its transaction is under way", lambda: bool(sessions(platform, "wait_event_type = 'Lock'")))
            second = platform.start("event_consumer", **ANONYMOUS)
            takes_partitions(second)
        assert second.stop() == 0
    assert_stored_once(platform, ledger, sent)
    sent += put(platform, ledger, map(event, range(60)), *range(6))
    assert_stored_once(platform, ledger, sent)
    assert first.running()


def takes_partitions(consumer: Service) -> None:
    until("it has partitions", lambda: "partitions taken" in consumer.log.read_text(), 90)


@contextlib.contextmanager
def held_within_a_transaction(platform: Platform) -> Iterator[None]:
    """Every transaction that stores events waits, its offsets moved, until the block ends."""
    with psycopg.connect(platform.database_url) as blocker:
        blocker.execute("lock table event_counts_15m in share mode")
        yield
        blocker.rollback()


@pytest.mark.parametrize("seconds", [15, pytest.param(60, marks=ALL)])
def test_a_consumer_that_was_frozen_for_longer_than_its_session(platform: Platform, seconds: int) -> None:
    ingestion = platform.start("ingestion_service")
    # It has much in hand when it freezes, and writes that as soon as it is thawed: by then it is another's.
    first = platform.start(
        "event_consumer", **{**ANONYMOUS, "CONSUMER_BATCH_SIZE": "5000"}, CONSUMER_BATCH_AGE_SECONDS="3"
    )
    second = platform.start("event_consumer", **ANONYMOUS)
    with load(ingestion, learner_events, batches_of=50, rate=400) as work:
        both_store(first, second)
        with first.frozen():
            time.sleep(seconds)
            taken = max(
                query(platform.database_url, "select count(*) from events where processed_at > now() - interval '3 s'")
            )
            assert taken > (0,), "the other one goes on with all of them"
        both_store(first, second)
    assert_each_once(platform, work.ledger, work.posted)
    assert_books(platform)


def test_a_consumer_that_freezes_within_its_transaction_holds_nobody_up(platform: Platform) -> None:
    topics_made(platform)
    first = platform.start("event_consumer", **ANONYMOUS, DATABASE_TIMEOUT_SECONDS="5")
    second = platform.start("event_consumer", **ANONYMOUS, DATABASE_TIMEOUT_SECONDS="5")
    ledger = Ledger()
    both = itertools.count()
    sent = put(platform, ledger, (event(next(both)) for _ in range(60)), *range(6))
    until("both store", lambda: min(stored_by(first), stored_by(second)) > 0)
    with contextlib.ExitStack() as frozen:
        with held_within_a_transaction(platform):
            sent += put(platform, ledger, (event(next(both)) for _ in range(300)), *range(6))
            until("both wait within", lambda: len(sessions(platform, "wait_event_type = 'Lock'")) >= 2)
            frozen.enter_context(first.frozen())
        # Its session holds its offsets and the ledger's entries, and nobody is there to commit them.
        until("the other one stores everything", lambda: count(platform.database_url) == sent, seconds=60)
    sent += put(platform, ledger, (event(next(both)) for _ in range(60)), *range(6))
    assert_stored_once(platform, ledger, sent)
    both_store_again(platform, ledger, first, second)


def both_store_again(platform: Platform, ledger: Ledger, first: Service, second: Service) -> None:
    before = stored_by(first), stored_by(second)

    def progress() -> bool:
        put(platform, ledger, map(event, range(12)), *range(6))
        return stored_by(first) > before[0] and stored_by(second) > before[1]

    until("nobody is idle", progress)
