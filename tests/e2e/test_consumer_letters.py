"""Row 22 of the fault matrix: dead letters outlive the broker, and a replay that is run twice stores each event once."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psycopg
import pytest

from tests.conftest import Platform
from tests.e2e.books import assert_stored_once, event, put, sessions, topics_made
from tests.e2e.oracle import Ledger
from tests.e2e.sinks import dead_letters
from tests.support.backend import Backend
from tests.support.process import ROOT
from tests.support.wait import count, query, until

pytestmark = pytest.mark.e2e

BAD = 30
WAITING = "select count(*) from dead_letters where relayed_at is null"


def replay(platform: Platform) -> int:
    """The exit code."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    command = [sys.executable, "-m", "tools.dlq", "replay", "--all", "--yes"]
    return subprocess.run(command, cwd=ROOT, env={**inherited, **platform.settings}, timeout=120).returncode


def test_letters_wait_for_the_broker_and_a_replay_run_twice_stores_once(platform: Platform, backend: Backend) -> None:
    url = platform.database_url
    topics_made(platform)
    with psycopg.connect(url) as connection:  # for whatever the database refuses and somebody mends later
        connection.execute("alter table events add constraint no_bad check (event_name <> 'bad')")
    consumer = platform.start("event_consumer")
    ledger = Ledger()
    with psycopg.connect(url) as blocker:
        blocker.execute("lock table event_counts_15m in share mode")
        good = (
            put(platform, ledger, (event(n, event_name="bad" if n % 7 == 3 else "good") for n in range(BAD * 7))) - BAD
        )
        until("its transaction is under way", lambda: bool(sessions(platform, "wait_event_type = 'Lock'")))
        backend.kill_kafka()
        blocker.rollback()
    try:
        until("the letters are in the table", lambda: count(url, "dead_letters") > 0)
        letters = count(url, "dead_letters")
        time.sleep(3)
        assert query(url, WAITING) == [(letters,)]
        assert consumer.get("/health/live").status_code == 200
    finally:
        backend.start_kafka()
    assert_stored_once(platform, ledger, good, dead=BAD)
    until("all of them are relayed", lambda: query(url, WAITING) == [(0,)])
    assert len(dead_letters(platform.settings["KAFKA_BOOTSTRAP_SERVERS"], platform.dlq_topic)) == BAD

    with psycopg.connect(url) as connection:
        connection.execute("alter table events drop constraint no_bad")
    assert replay(platform) == 0
    replay(platform)
    settled = "select count(*) from dead_letters where state = 'resolved' and retry_count = 1"
    until("all are settled", lambda: query(url, settled) == [(BAD,)])
    assert_stored_once(platform, ledger, good + BAD, dead=BAD)
    assert replay(platform) != 0, "nothing is left to be replayed"
