"""Rows 18 and 19 of the fault matrix: Postgres dies, hangs, ends sessions, or says no: waited out, no dead letter."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.conftest import Platform
from tests.e2e.books import assert_books, assert_stored_once, event, put, sessions, topics_made
from tests.e2e.load import assert_each_once, events_flow, load
from tests.e2e.oracle import Ledger
from tests.support.backend import Backend
from tests.support.process import Service
from tests.support.wait import count, query, until

pytestmark = pytest.mark.e2e

ALL = [pytest.mark.exhaustive, pytest.mark.timeout(3600)]
QUICK = {"DATABASE_TIMEOUT_SECONDS": "3", "CONSUMER_BATCH_SIZE": "100"}
BACK_WITHIN = 30.0
"""Seconds until events are stored again once Postgres is back; the design says 10, a busy machine gets more."""


def waits(consumer: Service, sqlstate_class: str) -> float:
    return consumer.metric("consumer_database_waits_total", sqlstate_class=sqlstate_class)


def flows_again(platform: Platform) -> None:
    stored = count(platform.database_url)
    until("events are stored again", lambda: count(platform.database_url) > stored, seconds=BACK_WITHIN)


@pytest.mark.parametrize("seconds", [20, pytest.param(300, marks=ALL)])
def test_postgres_killed_under_load_and_away_for_any_length_of_time(
    platform: Platform, backend: Backend, seconds: int
) -> None:
    ingestion = platform.start("ingestion_service")
    consumer = platform.start("event_consumer", CONSUMER_BATCH_SIZE="100")
    with load(ingestion, rate=300) as work:
        for outage in (3, seconds):
            events_flow(platform)
            backend.kill_postgres()
            try:
                noticed = waits(consumer, "none")
                time.sleep(outage)
                assert waits(consumer, "none") > noticed + outage / 20
                assert consumer.get("/health/ready").status_code == 503
                assert consumer.get("/health/live").status_code == 200
            finally:
                backend.start_postgres()
            flows_again(platform)
    consumer.wait("/health/ready")
    assert_each_once(platform, work.ledger, work.posted)
    assert_books(platform)


@pytest.mark.parametrize("seconds", [8, pytest.param(120, marks=ALL)])
def test_postgres_frozen_under_load(platform: Platform, backend: Backend, seconds: int) -> None:
    ingestion = platform.start("ingestion_service")
    consumer = platform.start("event_consumer", **QUICK)
    with load(ingestion, rate=300) as work:
        events_flow(platform)
        backend.pause_postgres()
        try:
            time.sleep(seconds)  # longer than the consumer waits for an answer
        finally:
            backend.resume_postgres()
        flows_again(platform)
        assert waits(consumer, "none") > 0
    assert_each_once(platform, work.ledger, work.posted)
    assert_books(platform)


def test_its_sessions_are_ended_within_their_transactions(platform: Platform) -> None:
    ingestion = platform.start("ingestion_service")
    consumer = platform.start("event_consumer", CONSUMER_BATCH_SIZE="100")
    with load(ingestion, rate=300) as work:
        for table in ("event_ids", "events", "event_counts_15m", "consumer_offsets"):
            events_flow(platform)
            with psycopg.connect(platform.database_url) as blocker:
                blocker.execute(f"lock table {table} in share mode")
                until("it waits within", lambda: bool(sessions(platform, "wait_event_type = 'Lock'")))
                terminate(platform)
                blocker.rollback()
            flows_again(platform)
        assert waits(consumer, "57") > 0
    assert_each_once(platform, work.ledger, work.posted)
    assert_books(platform)


def terminate(platform: Platform) -> None:
    for pid in sessions(platform):
        query(platform.database_url, "select pg_terminate_backend(%s)", pid)


# --- what Postgres says no with

Fault = Callable[[Platform], contextlib.AbstractContextManager[None]]


def alter_database(platform: Platform, setting: str) -> None:
    """For sessions to come; those of the consumer are ended."""
    with psycopg.connect(platform.database_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f'alter database "{name}" {setting}')
    terminate(platform)


@contextlib.contextmanager
def read_only(platform: Platform) -> Iterator[None]:
    alter_database(platform, "set default_transaction_read_only = on")
    yield
    with psycopg.connect(platform.database_url, autocommit=True) as connection:
        connection.execute("set default_transaction_read_only = off")
        connection.execute(f'alter database "{connection.info.dbname}" reset default_transaction_read_only')
    terminate(platform)


@contextlib.contextmanager
def no_connection_left(platform: Platform) -> Iterator[None]:
    limit(platform, 0)
    terminate(platform)
    yield
    limit(platform, -1)


@contextlib.contextmanager
def lock_not_available(platform: Platform) -> Iterator[None]:
    alter_database(platform, "set lock_timeout = '200ms'")
    with psycopg.connect(platform.database_url) as blocker:
        blocker.execute("lock table event_ids in share mode")
        yield
        blocker.rollback()


@contextlib.contextmanager
def deadlock(platform: Platform) -> Iterator[None]:
    """A rival takes first what the consumer takes late, then what it takes early; it is patient, so the consumer gives in."""
    alter_database(platform, "set deadlock_timeout = '2s'")
    with psycopg.connect(platform.database_url) as connection, ThreadPoolExecutor(1) as pool:
        connection.execute("set deadlock_timeout = '1min'")
        connection.execute("lock table event_counts_15m in share mode")

        def rival() -> None:
            until("the consumer waits", lambda: bool(sessions(platform, "wait_event_type = 'Lock'")))
            connection.execute("lock table event_ids in share mode")
            connection.rollback()

        taking = pool.submit(rival)
        yield
        taking.result()


def limit(platform: Platform, connections: int) -> None:
    with psycopg.connect(platform.database_url, autocommit=True) as connection:
        connection.execute(f"alter role {role_of(platform)} connection limit {connections}")


def role_of(platform: Platform) -> str:
    return "role_" + platform.settings["KAFKA_GROUP_ID"].removeprefix("group-")


@pytest.fixture
def ordinary(platform: Platform) -> str:
    """The database's URL for a role that may all its owner may, but is bound by limits, as a superuser is not."""
    role, secret = role_of(platform), uuid.uuid4().hex
    with psycopg.connect(platform.database_url, autocommit=True) as connection:
        connection.execute(f"create role {role} login inherit password '{secret}' in role \"{connection.info.user}\"")
    scheme, _, rest = platform.database_url.partition("://")
    return f"{scheme}://{role}:{secret}@{rest.rpartition('@')[2]}"


@pytest.mark.parametrize(
    ("fault", "sqlstate_class"),
    [(read_only, "25"), (no_connection_left, "53"), (lock_not_available, "55"), (deadlock, "40")],
)
def test_what_postgres_refuses_for_now_is_tried_again(
    platform: Platform, ordinary: str, fault: Fault, sqlstate_class: str
) -> None:
    topics_made(platform)
    consumer = platform.start("event_consumer", DATABASE_URL=ordinary, CONSUMER_BATCH_SIZE="100")
    ledger = Ledger()
    sent = put(platform, ledger, map(event, range(50)))
    until("the first are stored", lambda: count(platform.database_url) == sent)
    before = waits(consumer, sqlstate_class)
    with fault(platform):
        sent += put(platform, ledger, map(event, range(400)), 0, 1)
        until("it is refused, and waits", lambda: waits(consumer, sqlstate_class) >= before + 1, 90)
    assert_stored_once(platform, ledger, sent)
