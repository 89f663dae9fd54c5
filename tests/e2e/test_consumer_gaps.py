"""Logs that are not the ones that were read, and floods of garbage: the consumer stops, says so, and obeys a decision."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import Platform
from tests.e2e.books import Record, assert_stored_once, event, put, record, topics_made
from tests.e2e.oracle import Ledger
from tests.support import admin
from tests.support.process import ROOT, Service
from tests.support.topics import write_topic
from tests.support.wait import count, query, until

pytestmark = pytest.mark.e2e

PARTITIONS = 6


def gap(consumer: Service, platform: Platform, partition: int, kind: str) -> bool:
    """Whether the partition of the platform's first topic is said not to be read on."""
    return bool(consumer.metric("consumer_gap", topic=platform.topic, partition=str(partition), kind=kind))


def decide(platform: Platform, *arguments: str) -> None:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    subprocess.run(
        [sys.executable, "-m", "tools.offsets", "reset", *arguments, "--yes"],
        cwd=ROOT,
        env={**inherited, **platform.settings},
        check=True,
        timeout=120,
    )


def next_offset(platform: Platform, partition: int) -> int:
    [(offset,)] = query(
        platform.database_url,
        "select next_offset from consumer_offsets where topic = %s and partition = %s",
        platform.topic,
        partition,
    )
    return int(offset)


def assert_it_stands_still(consumer: Service, platform: Platform, kind: str, stored: int) -> int:
    """Partition 0 is not read on and everybody is told; events of other partitions are stored. How many rows there are then."""
    until("the gap is told", lambda: gap(consumer, platform, 0, kind))
    offset = next_offset(platform, 0)
    health = consumer.get("/health")
    assert health.status_code == 503
    assert "python -m tools.offsets" in health.text
    assert consumer.get("/health/live").status_code == 200
    others = put(platform, Ledger(), map(event, range(40)), 1)
    others += put(platform, Ledger(), map(event, range(40)), 0, topic=platform.product_topic)
    until("others go on", lambda: count(platform.database_url) == stored + others)
    assert next_offset(platform, 0) == offset
    return stored + others


@pytest.mark.parametrize("running", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_a_topic_that_is_made_anew_and_regrows_past_the_offset(platform: Platform, running: bool) -> None:
    consumer = platform.start("event_consumer")
    put(platform, Ledger(), map(event, range(10)))
    until("they are stored", lambda: count(platform.database_url) == 10)
    if not running:
        assert consumer.stop() == 0
    admin.remake_topic(platform.settings["KAFKA_BOOTSTRAP_SERVERS"], platform.topic, PARTITIONS)
    if not running:
        consumer = platform.start("event_consumer", ready=False)
    stored = assert_it_stands_still(consumer, platform, "beyond_end", 10)
    put(platform, Ledger(), map(event, range(30)))
    until("it is told that the new log has regrown past the offset", lambda: gap(consumer, platform, 0, "recreated"))
    assert (count(platform.database_url), next_offset(platform, 0)) == (stored, 10)
    decide(platform, "--topic", platform.topic, "--partition", "0", "--to", "20")
    until("the new log is stored from there on", lambda: count(platform.database_url) == stored + 10, seconds=90)
    put(platform, Ledger(), map(event, range(5)))
    until("and new ones", lambda: count(platform.database_url) == stored + 15)
    consumer.wait("/health/ready")
    assert not gap(consumer, platform, 0, "recreated")


def test_a_topic_made_anew_that_had_regrown_past_the_offset_before_anybody_looked(platform: Platform) -> None:
    consumer = platform.start("event_consumer")
    put(platform, Ledger(), map(event, range(10)))
    until("they are stored", lambda: count(platform.database_url) == 10)
    assert consumer.stop() == 0
    admin.remake_topic(platform.settings["KAFKA_BOOTSTRAP_SERVERS"], platform.topic, PARTITIONS)
    put(platform, Ledger(), map(event, range(30)))
    consumer = platform.start("event_consumer", ready=False)
    stored = assert_it_stands_still(consumer, platform, "recreated", 10)
    decide(platform, "--all-gaps", "--to", "earliest")
    until("all of the new log is stored", lambda: count(platform.database_url) == stored + 30, seconds=90)
    consumer.wait("/health/ready")


def test_records_deleted_before_they_were_read(platform: Platform) -> None:
    consumer = platform.start("event_consumer")
    put(platform, Ledger(), map(event, range(10)))
    until("they are stored", lambda: count(platform.database_url) == 10)
    assert consumer.stop() == 0
    put(platform, Ledger(), map(event, range(30)))
    admin.truncate(platform.settings["KAFKA_BOOTSTRAP_SERVERS"], platform.topic, 0, 25)
    consumer = platform.start("event_consumer", ready=False)
    stored = assert_it_stands_still(consumer, platform, "expired", 10)
    decide(platform, "--topic", platform.topic, "--partition", "0", "--to", "earliest")
    until("what is left is stored", lambda: count(platform.database_url) == stored + 15, seconds=90)
    consumer.wait("/health/ready")
    [books] = query(
        platform.database_url,
        "select stored, skipped, consumed - stored - skipped - duplicates - dead_letters from consumer_offsets"
        " where topic = %s and partition = 0",
        platform.topic,
    )
    assert books == (25, 15, 0), "what was lost is in the books"


# --- so much garbage that the fault must be ours


def test_a_flood_of_garbage_stops_the_consumer_before_it_sets_everything_aside(platform: Platform) -> None:
    topics_made(platform)
    consumer = platform.start("event_consumer")
    ledger = Ledger()
    good = put(platform, ledger, map(event, range(100)))
    until("the good ones are stored", lambda: count(platform.database_url) == good)
    garbage: list[Record] = [(b"k", b"garbage %d" % number) for number in range(1_500)]
    write_topic(platform, garbage)
    good += put(platform, ledger, map(event, range(100)))

    until("it stops", lambda: consumer.metric("consumer_halted") == 1)
    assert consumer.running()
    assert consumer.get("/health/live").status_code == 200
    health = consumer.get("/health")
    assert health.status_code == 503
    assert "bad" in health.text
    aside = count(platform.database_url, "dead_letters")
    assert aside < 500, "less than half of the thousand that it looks back on"
    assert next_offset(platform, 0) == 100 + aside, "what was not set aside was not read either"

    assert consumer.stop() == 0
    again = platform.start("event_consumer", ready=False)
    until("it stops again", lambda: again.metric("consumer_halted") == 1)
    assert again.stop() == 0

    platform.start("event_consumer", CONSUMER_BREAKER_SHARE="1")
    assert_stored_once(platform, ledger, good, dead=1_500)


def test_garbage_of_less_than_the_share_goes_aside_and_nothing_stops(platform: Platform) -> None:
    topics_made(platform)
    ledger = Ledger()
    mixed: list[Record] = []
    for number in range(1_000):
        made = event(number)
        ledger.acknowledged(made)
        mixed += [record(made)] if number % 5 else [record(made), (b"k", b"garbage")]
    write_topic(platform, mixed)
    consumer = platform.start("event_consumer")
    assert_stored_once(platform, ledger, 1_000, dead=200)
    assert consumer.metric("consumer_halted") == 0
