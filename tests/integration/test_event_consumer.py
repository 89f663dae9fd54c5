"""The event consumer between a real Kafka and a real Postgres."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import httpx
import orjson
import psycopg
import pytest

from event_core.migrations import known_revisions
from tests.conftest import Platform
from tests.support.backend import Backend
from tests.support.process import Service
from tests.support.topics import write_topic
from tests.support.wait import count, query, until

pytestmark = pytest.mark.integration


def message(event_id: str | None = None, **fields: object) -> tuple[bytes, bytes]:
    body = {
        "event_id": event_id or str(uuid.uuid4()),
        "tenant_id": "default",
        "user_id": "u",
        "event_name": "e",
        "timestamp": "2026-01-01T00:00:00Z",
        "received_at": "2026-01-01T00:00:01Z",
        "metadata": {"a": 1},
        "context": {},
        **fields,
    }
    return b"u", orjson.dumps(body)


def test_an_undecodable_message_is_set_aside_with_its_bytes_and_its_neighbours_are_stored(platform: Platform) -> None:
    consumer = platform.start("event_consumer")
    good = [message() for _ in range(1_000)]
    poison = {
        0: (b"k", b"not json \xff\x00"),
        500: (b"tombstone", None),
        501: (b"u", b'{"event_name": "no user"}'),
        502: (b"u", message(metadata={"a": 1})[1].replace(b'"a":1', b'"a":"\\u0000"')),
        503: (b"u", message(metadata={"a": 1})[1].replace(b'"a":1', b'"a":1e200000')),
        999: (b"u", message(timestamp="0000-01-01T00:00:00Z")[1]),
    }
    write_topic(platform, [poison.get(number, record) for number, record in enumerate(good)])

    until("994 rows", lambda: count(platform.database_url) == 994)
    rows = query(
        platform.database_url, 'select "offset", key, value, reason, error from dead_letters order by "offset"'
    )

    assert {offset: (key, value) for offset, key, value, _, _ in rows} == poison
    assert [reason for *_, reason, _ in rows] == [
        "not_json",
        "not_json",
        "invalid_event",
        "unstorable_value",
        "refused_by_store",
        "invalid_event",
    ]
    assert all(error for *_, error in rows)
    until("metrics", lambda: consumer.metric("consumer_events_stored_total") == 994)
    assert consumer.metric("consumer_dead_letters_total", reason="unstorable_value") == 1


def test_both_topics_are_stored_each_from_its_own_offsets(platform: Platform) -> None:
    consumer = platform.start("event_consumer")
    named = [message(event_name="named") for _ in range(300)]
    typed = [
        message(event_name="click", experiment_id="exp_1", variant=variant, metadata={"n": number})
        for number in range(100)
        for variant in ("A", "B", None)
    ]
    for partition in range(3):
        write_topic(platform, named[partition::3], partition)
        write_topic(platform, typed[partition::3], partition, topic=platform.product_topic)
    write_topic(platform, [(b"u", b"not json")], topic=platform.product_topic)

    until("600 rows", lambda: count(platform.database_url) == 600)
    rows = query(
        platform.database_url,
        "select event_name, experiment_id, variant, count(*)::int from events group by 1, 2, 3 order by 1, 2, 3",
    )
    assert rows == [
        ("click", "exp_1", "A", 100),
        ("click", "exp_1", "B", 100),
        ("click", "exp_1", None, 100),
        ("named", None, None, 300),
    ]
    assert query(platform.database_url, 'select topic, partition, "offset" from dead_letters') == [
        (platform.product_topic, 0, 100)
    ]

    assert consumer.stop() == 0
    write_topic(platform, [message()])
    write_topic(platform, [message()], topic=platform.product_topic)
    consumer = platform.start("event_consumer")
    until("602 rows", lambda: count(platform.database_url) == 602)
    assert consumer.metric("consumer_events_duplicate_total") == 0
    offsets = query(
        platform.database_url, "select topic, sum(next_offset)::int, count(*)::int from consumer_offsets group by 1"
    )
    assert {topic: rest for topic, *rest in offsets} == {
        platform.topic: [301, 6],
        platform.product_topic: [302, 6],
        platform.dlq_topic: [1, 1],  # its own dead letter, relayed
    }


def test_what_only_postgres_refuses_is_found_and_set_aside_alone(platform: Platform) -> None:
    # A check that the platform knows nothing of stands for whatever a database may come to refuse.
    with psycopg.connect(platform.database_url) as connection:
        connection.execute("alter table events add constraint no_bad check (event_name <> 'bad')")
    platform.start("event_consumer")
    records = [message(event_name="bad" if number in (0, 333, 999) else "good") for number in range(1_000)]
    write_topic(platform, records)

    until("997 rows", lambda: count(platform.database_url) == 997)
    rows = query(platform.database_url, 'select "offset", value, reason from dead_letters order by "offset"')
    assert rows == [(number, records[number][1], "refused_by_store") for number in (0, 333, 999)]


def test_an_event_sent_many_times_is_stored_once(platform: Platform) -> None:
    consumer = platform.start("event_consumer")
    once = message(str(uuid.uuid4()))
    write_topic(platform, [once] * 50, partition=0)
    write_topic(platform, [once] * 50, partition=1)
    until("all read", lambda: consumer.metric("consumer_events_duplicate_total") == 99)
    assert count(platform.database_url) == 1


def test_values_come_back_from_postgres_equal(platform: Platform) -> None:
    ingestion = platform.start("ingestion_service")
    platform.start("event_consumer")
    metadata = {
        "int": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1],
        "float": [0.1, 1e308, 5e-324, -2.5, 1.7976931348623157e308],
        "text": ["", " untrimmed ", "Ünïcödé 😀", "e\u0301 is not é", "\u2028", '"\\\n\t', "\\u0000 in letters"],
        "nested": {"": {"a": [[], {}, None, True, False]}},
    }
    sent = {"user_id": " U ", "event_name": "E", "metadata": metadata, "other": {"kept": 1}}
    assert httpx.post(ingestion.url + "/events", json=sent).status_code == 202

    until("the row", lambda: count(platform.database_url) == 1)
    [row] = query(platform.database_url, "select user_id, event_name, metadata::text, context from events")
    # orjson reads what the text says; psycopg's own reading would hide a difference.
    assert row[:2] == (" U ", "E")
    assert orjson.loads(row[2])["text"] == metadata["text"]
    assert orjson.loads(row[2])["nested"] == metadata["nested"]
    assert orjson.loads(row[2])["int"] == metadata["int"]
    assert orjson.loads(row[2])["float"] == metadata["float"]
    assert row[3] == {"other": {"kept": 1}}


def test_it_goes_on_from_the_stored_offset_whatever_kafka_believes(platform: Platform) -> None:
    consumer = platform.start("event_consumer")
    write_topic(platform, [message() for _ in range(10)])
    until("10 rows", lambda: count(platform.database_url) == 10)
    assert consumer.stop() == 0

    # The same database under a group that Kafka has never heard of: only the stored offset can tell where to go on.
    group = f"{platform.settings['KAFKA_GROUP_ID']}-renamed"
    with psycopg.connect(platform.database_url) as connection:
        connection.execute("update consumer_offsets set consumer_group = %s", [group])
        connection.execute("delete from events")
    write_topic(platform, [message() for _ in range(5)])
    platform.start("event_consumer", KAFKA_GROUP_ID=group)

    until("5 rows", lambda: count(platform.database_url) == 5)
    [(total,)] = query(platform.database_url, "select sum(next_offset)::int from consumer_offsets")
    assert total == 15


def test_a_database_that_is_down_is_waited_out_without_a_dead_letter(platform: Platform, backend: Backend) -> None:
    consumer = platform.start("event_consumer")
    write_topic(platform, [message() for _ in range(10)])
    until("10 rows", lambda: count(platform.database_url) == 10)
    backend.kill_postgres()
    try:
        write_topic(platform, [message() for _ in range(100)])
        until("it notices", lambda: consumer.metric("consumer_database_waits_total") >= 2)
        assert consumer.get("/health/ready").status_code == 503
        assert consumer.get("/health/live").status_code == 200
    finally:
        backend.start_postgres()
    until("110 rows", lambda: count(platform.database_url) == 110)
    assert count(platform.database_url, "dead_letters") == 0
    consumer.wait("/health/ready")


def test_it_waits_for_the_migration_and_refuses_a_newer_schema(platform: Platform, tmp_path: Path) -> None:
    with psycopg.connect(platform.database_url) as connection:
        connection.execute("update alembic_version set version_num = '9999_of_the_future'")
    refusing = Service("event_consumer", platform.settings, tmp_path / "refusing.log")
    assert refusing.run() == 1
    assert "newer than this version knows" in refusing.log.read_text()

    with psycopg.connect(platform.database_url) as connection:
        connection.execute("delete from alembic_version")
    waiting = platform.start("event_consumer", ready=False)
    waiting.wait("/health/ready", status=503)
    assert "python -m tools.migrate" in waiting.get("/health").text
    with psycopg.connect(platform.database_url) as connection:
        connection.execute("insert into alembic_version values (%s)", [known_revisions()[-1]])
    waiting.wait("/health/ready")


def test_large_events_that_compress_well_do_not_fill_its_memory(platform: Platform) -> None:
    consumer = platform.start("event_consumer")
    text = "x" * 250_000
    for partition in range(6):
        write_topic(platform, [message(metadata={"text": text}) for _ in range(150)], partition)
    until("900 rows", lambda: count(platform.database_url) == 900, seconds=120)
    assert consumer.peak_memory() < 400 << 20


def test_a_frozen_database_holds_up_neither_the_health_check_nor_the_end(platform: Platform, backend: Backend) -> None:
    consumer = platform.start("event_consumer")
    write_topic(platform, [message()])
    until("the row", lambda: count(platform.database_url) == 1)
    assert consumer.get("/health/ready").status_code == 200
    backend.pause_postgres()
    try:
        began = time.monotonic()
        assert consumer.get("/health/ready").status_code == 503
        assert time.monotonic() - began < 10
        write_topic(platform, [message()])
        time.sleep(1)  # its write is under way
        began = time.monotonic()
        assert consumer.stop(seconds=40) == 0
        assert time.monotonic() - began < 30
    finally:
        backend.resume_postgres()
    platform.start("event_consumer")
    until("the second row", lambda: count(platform.database_url) == 2)


def test_a_database_that_does_not_exist_yet_is_waited_for(platform: Platform) -> None:
    consumer = platform.start(
        "event_consumer", ready=False, DATABASE_URL=platform.database_url.rpartition("/")[0] + "/not_made_yet"
    )
    consumer.wait("/health/ready", status=503)
    time.sleep(2)
    assert consumer.running()


def test_sigterm_writes_what_is_in_hand(platform: Platform) -> None:
    consumer = platform.start("event_consumer", CONSUMER_BATCH_AGE_SECONDS="3600")
    write_topic(platform, [message() for _ in range(100)])
    until("all read", lambda: "partitions taken" in consumer.log.read_text())
    time.sleep(2)  # in hand, too young to be written
    assert count(platform.database_url) == 0
    assert consumer.stop() == 0
    assert count(platform.database_url) == 100
