"""How fresh the stored events are said to be, between a real Kafka and a real Postgres."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import psycopg
import pytest

from event_consumer.freshness import CaughtUp, noted_by
from event_core.topics import TopicPartition
from tests.conftest import Platform
from tests.support.backend import Backend
from tests.support.topics import write_topic
from tests.support.wait import count, query, until
from tools.offsets import RESET_OFFSET

pytestmark = pytest.mark.integration

SLACK = timedelta(seconds=6)
"""The most that the watermark may lie behind while nothing waits: a look each second, on a busy machine."""
P0, P1 = TopicPartition("events", 0), TopicPartition("events", 1)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def message(received_at: datetime) -> tuple[bytes, bytes]:
    body = {
        "event_id": str(uuid.uuid4()),
        "tenant_id": "default",
        "user_id": "u",
        "event_name": "e",
        "timestamp": "2026-01-01T00:00:00Z",
        "received_at": received_at.isoformat(),
        "metadata": {},
        "context": {},
    }
    return b"u", orjson.dumps(body)


def watermark(platform: Platform) -> datetime | None:
    [(at,)] = query(platform.database_url, "select watermark from analytics.freshness")
    assert at is None or isinstance(at, datetime)
    return at


def is_fresh(platform: Platform) -> bool:
    at = watermark(platform)
    return at is not None and datetime.now(UTC) - at < SLACK


def stands_still(platform: Platform, seconds: float) -> datetime:
    """The watermark, which is the same all the while."""
    first = watermark(platform)
    assert first is not None
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.2)
        assert watermark(platform) == first
    return first


def stays_fresh(platform: Platform, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert is_fresh(platform), f"{datetime.now(UTC) - (watermark(platform) or NOON)} old"
        time.sleep(0.2)


def test_while_nothing_comes_all_partitions_stay_fresh_also_those_that_never_had_a_record(platform: Platform) -> None:
    platform.start("event_consumer")
    write_topic(platform, [message(datetime.now(UTC) - timedelta(days=1))])
    until("the watermark is fresh", lambda: is_fresh(platform))
    stays_fresh(platform, 6)
    rows = query(platform.database_url, "select topic, next_offset, watermark, updated_at from analytics.partitions")
    assert {topic for topic, *_ in rows} == {platform.topic, platform.product_topic, platform.dlq_topic}
    assert sum(next_offset for _, next_offset, *_ in rows) == 1
    assert max(updated for *_, updated in rows) < min(at for *_, at, _ in rows), "updated_at tells of offsets only"


def test_a_record_that_waits_holds_the_watermark_and_the_offsets_are_not_waited_for(platform: Platform) -> None:
    platform.start("event_consumer")
    write_topic(platform, [message(datetime.now(UTC))])
    until("the watermark is fresh", lambda: is_fresh(platform) and count(platform.database_url) == 1)
    with psycopg.connect(platform.database_url) as connection:
        connection.execute("lock table event_ids in access exclusive mode")
        write_topic(platform, [message(datetime.now(UTC))])
        came = datetime.now(UTC)
        time.sleep(2)
        assert stands_still(platform, 4) <= came
        marks = query(platform.database_url, "select topic, watermark from analytics.partitions where partition = 1")
        assert all(at > came for _, at in marks), "the others go on"
    until("it is stored", lambda: count(platform.database_url) == 2)
    until("the watermark is fresh", lambda: is_fresh(platform))


def test_a_flow_of_garbage_keeps_every_partition_fresh(platform: Platform) -> None:
    """It stores nothing, so no received_at tells how far all is."""
    platform.start("event_consumer", CONSUMER_BREAKER_SHARE="1")
    until("the watermark is fresh", lambda: is_fresh(platform))
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        write_topic(platform, [(b"k", uuid.uuid4().bytes) for _ in range(20)])
        assert is_fresh(platform)
    assert count(platform.database_url, "dead_letters") >= 100


def test_a_killed_consumer_leaves_the_watermark_where_it_is(platform: Platform) -> None:
    consumer = platform.start("event_consumer")
    until("the watermark is fresh", lambda: is_fresh(platform))
    consumer.kill()
    before = stands_still(platform, 5)
    platform.start("event_consumer")
    until("the watermark is fresh", lambda: is_fresh(platform))
    now = watermark(platform)
    assert now is not None
    assert now > before


@pytest.mark.parametrize("fault", ["frozen", "dead"])
def test_a_broker_that_is_frozen_or_dead_makes_nothing_look_fresh(
    platform: Platform, backend: Backend, fault: str
) -> None:
    platform.start("event_consumer")
    until("the watermark is fresh", lambda: is_fresh(platform))
    if fault == "frozen":
        backend.pause_kafka()
    else:
        backend.kill_kafka()
    try:
        since = datetime.now(UTC)
        time.sleep(1.5)
        assert stands_still(platform, 12) <= since
    finally:
        if fault == "frozen":
            backend.resume_kafka()
        else:
            backend.start_kafka()
    until("the watermark is fresh", lambda: is_fresh(platform))


def test_a_consumer_that_is_cut_off_from_kafka_claims_nothing(platform: Platform, backend: Backend) -> None:
    with backend.kafka_behind() as proxy:
        platform.start("event_consumer", KAFKA_BOOTSTRAP_SERVERS=proxy.address)
        until("the watermark is fresh", lambda: is_fresh(platform))
        proxy.cut(to_client=True)
        since = datetime.now(UTC)
        write_topic(platform, [message(since)])
        time.sleep(1.5)
        assert stands_still(platform, 8) <= datetime.now(UTC) - timedelta(seconds=8)
        proxy.heal()
        until("it is stored", lambda: count(platform.database_url) == 1)
        until("the watermark is fresh", lambda: is_fresh(platform))


def test_an_outage_of_postgres_is_waited_out(platform: Platform, backend: Backend) -> None:
    consumer = platform.start("event_consumer")
    until("the watermark is fresh", lambda: is_fresh(platform))
    backend.kill_postgres()
    time.sleep(5)
    backend.start_postgres()
    until("the watermark is fresh", lambda: is_fresh(platform))
    assert consumer.log.read_text().count("the watermark stands still") == 1


def test_a_consumer_that_has_halted_claims_nothing_and_lives(platform: Platform) -> None:
    consumer = platform.start("event_consumer")
    until("the watermark is fresh", lambda: is_fresh(platform))
    write_topic(platform, [(b"k", b"garbage %d" % number) for number in range(2_000)])
    until("it has halted", lambda: consumer.metric("consumer_halted") == 1)
    time.sleep(1.5)
    stands_still(platform, 8)
    assert consumer.metric("consumer_halted") == 1
    assert consumer.log.read_text().count("the watermark stands still") == 1
    assert consumer.stop() == 0


# --- the note itself


@pytest.fixture
def noted(database_url: str) -> str:
    """The database, with two partitions of the group ``g``, stored up to offset 10."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "insert into consumer_offsets (consumer_group, topic, partition, next_offset, updated_at)"
            " select 'g', 'events', number, 10, %s from generate_series(0, 1) as number",
            [NOON],
        )
    return database_url


async def note(url: str, *found: CaughtUp) -> set[TopicPartition]:
    async with asyncpg.create_pool(url, min_size=0, max_size=1, command_timeout=10) as pool:
        return set(await noted_by(pool, "g")(found))


def kept(url: str) -> list[datetime | None]:
    return [at for (at,) in query(url, "select caught_up_at from consumer_offsets order by partition")]


async def test_only_an_offset_that_is_still_the_same_is_noted(noted: str) -> None:
    assert await note(noted, CaughtUp(P0, 9, NOON), CaughtUp(P1, 10, NOON)) == {P1}
    assert kept(noted) == [None, NOON]
    assert query(noted, "select distinct updated_at from consumer_offsets") == [(NOON,)]


async def test_the_time_never_goes_backwards(noted: str) -> None:
    earlier = NOON - timedelta(seconds=1)
    await note(noted, CaughtUp(P0, 10, NOON), CaughtUp(P1, 10, earlier))
    assert await note(noted, CaughtUp(P0, 10, earlier), CaughtUp(P1, 10, NOON)) == {P0, P1}
    assert kept(noted) == [NOON, NOON]


async def test_what_a_batch_is_writing_to_is_passed_over_at_once(noted: str) -> None:
    with psycopg.connect(noted) as connection:
        connection.execute("select from consumer_offsets where partition = 0 for update")
        async with asyncio.timeout(5):
            assert await note(noted, CaughtUp(P0, 10, NOON), CaughtUp(P1, 10, NOON)) == {P1}
        connection.execute("update consumer_offsets set next_offset = 11 where partition = 0")
    assert kept(noted) == [None, NOON]
    assert await note(noted, CaughtUp(P0, 10, NOON)) == set()


async def test_who_decides_to_read_on_elsewhere_takes_the_time_back(noted: str) -> None:
    await note(noted, CaughtUp(P0, 10, NOON), CaughtUp(P1, 10, NOON))
    async with asyncpg.create_pool(noted, min_size=0, max_size=1) as pool:
        assert await pool.fetchval(RESET_OFFSET, "g", *P0, 10, 4, 0) == 4
    assert kept(noted) == [None, NOON]
    assert query(noted, "select watermark from analytics.freshness") == [(None,)]


async def test_an_update_each_second_leaves_the_table_small(noted: str) -> None:
    """Within its page, without the index."""
    async with asyncpg.create_pool(noted, min_size=0, max_size=1) as pool:
        for number in range(500):
            await noted_by(pool, "g")([CaughtUp(P0, 10, NOON + timedelta(seconds=number))])
    [(pages,)] = query(noted, "select pg_relation_size('consumer_offsets') / current_setting('block_size')::int")
    assert pages <= 2
