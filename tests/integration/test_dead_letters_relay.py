"""Dead letters from a real Postgres to a real Kafka, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from event_consumer.dead_letter import letter_on_topic
from event_consumer.letters.relay import Relay
from event_core.dead_letters import read_headers
from event_core.errors import DatabaseUnavailable
from event_core.kafka.topics import ensure_topics, platform_topics
from event_core.source import FakeMessage
from tests.conftest import Platform
from tests.support.backend import Backend
from tests.support.letters import AT, given_up, pool_of, put, put_one, read, refused, rows_of, settings_of
from tests.support.topics import Record

pytestmark = pytest.mark.integration


@contextlib.asynccontextmanager
async def at_work(*relays: Relay) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(relay.run(stop)) for relay in relays]
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks)


async def until_relayed(pool: asyncpg.Pool, left: int = 0, seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while await pool.fetchval("select count(*) from dead_letters where relayed_at is null") != left:
            await asyncio.sleep(0.1)


def ids_in(records: Sequence[Record]) -> Counter[str]:
    return Counter(record.headers["dead-letter-id"].decode() for record in records)


async def test_letters_reach_the_topic_in_the_documented_form(platform: Platform) -> None:
    settings = settings_of(platform)
    await ensure_topics(settings, platform_topics(settings))
    async with pool_of(platform.database_url) as pool:
        letter = given_up(
            b"\xff", topic=platform.topic, offset=9, key=None, headers=[("event-id", b"1"), ("raw", b"\xfe")]
        )
        made = await put_one(pool, letter, failed_at=AT)
        on_topic = refused(b"{}")
        await put(pool, on_topic)
        async with at_work(Relay(pool, settings)):
            await until_relayed(pool)
        [record] = await read(platform, 1)
        said = read_headers([*record.headers.items()])
        assert said is not None
        assert (record.value, record.key) == (b"\xff", b"")
        assert (said.dead_letter_id, said.topic, said.partition, said.offset) == (made, platform.topic, 3, 9)
        assert (said.reason, said.source, said.failed_at, said.stub) == ("not_json", "event_consumer", AT, False)
        assert said.headers == [("event-id", b"1"), ("raw", b"\xfe")]
        # What the consumer makes of it is the letter that it has.
        message = FakeMessage(platform.dlq_topic, 0, 0, record.value, record.key, 0, tuple(record.headers.items()))
        assert await put(pool, letter_on_topic(message)) == [False]


async def test_two_relays_share_the_work_and_a_letter_too_large_is_a_stub(platform: Platform) -> None:
    settings = settings_of(platform)
    await ensure_topics(settings, platform_topics(settings))
    async with pool_of(platform.database_url) as pool:
        await put(pool, *[given_up(b"%d" % number, offset=number) for number in range(450)])
        large = await put_one(pool, given_up(b"\xff" * 3_000_000))
        relays = Relay(pool, settings), Relay(pool, settings)
        async with at_work(*relays):
            await until_relayed(pool)
        records = await read(platform, 451)
        assert set(ids_in(records).values()) == {1}
        assert len(records) == 451 == sum(relay.relayed for relay in relays)
        [stub] = [record for record in records if record.headers.get("dead-letter-stub")]
        assert (stub.headers["dead-letter-id"].decode(), stub.json()["bytes"]) == (str(large), 3_000_000)
        assert (
            await pool.fetchval("select octet_length(value) from dead_letters where dead_letter_id = $1", large)
            == 3_000_000
        )


async def test_a_letter_that_the_broker_refuses_blocks_no_other(platform: Platform) -> None:
    settings = settings_of(platform)
    topics = [spec._replace(configs={"max.message.bytes": "20000"}) for spec in platform_topics(settings)[2:]]
    await ensure_topics(settings, topics)
    noise = b"".join(uuid.uuid4().bytes for _ in range(2_000))
    async with pool_of(platform.database_url) as pool:
        await put(pool, *[given_up(b"%d" % number, offset=number) for number in range(150)])
        stubbed = await put_one(pool, given_up(b"x" + noise))
        hopeless = await put_one(pool, given_up(b"y", headers=[("large", noise)]))
        await put(pool, *[given_up(b"%d" % number, offset=number) for number in range(150, 300)])
        async with at_work(Relay(pool, settings)):
            await until_relayed(pool, left=1)
        left = await pool.fetchval("select dead_letter_id from dead_letters where relayed_at is null")
        assert left == hopeless
        seen = ids_in(await read(platform, 301))
        assert len(seen) == 301
        assert seen[str(stubbed)] == 1


async def test_while_kafka_is_dead_letters_stay_and_later_each_is_on_the_topic(
    platform: Platform, backend: Backend
) -> None:
    settings = settings_of(platform)
    await ensure_topics(settings, platform_topics(settings))
    async with pool_of(platform.database_url) as pool:
        await put(pool, *[given_up(b"%d" % number, offset=number) for number in range(300)])
        relays = Relay(pool, settings), Relay(pool, settings)
        async with at_work(*relays):
            await until_relayed(pool)
            await asyncio.to_thread(backend.kill_kafka)
            try:
                await put(pool, *[given_up(b"%d" % number, offset=number) for number in range(300, 900)])
                async with asyncio.timeout(60):
                    while not all(relay.problem for relay in relays):
                        await asyncio.sleep(0.1)
                waiting = await pool.fetchval("select count(*) from dead_letters where relayed_at is null")
                assert waiting == 600
                # Nothing is held open meanwhile: whoever wants a letter has it.
                async with asyncio.timeout(40):
                    while await pool.fetchval(
                        "select count(*) from pg_stat_activity where datname = current_database() and xact_start is not null "
                        "and pid <> pg_backend_pid()"
                    ):
                        await asyncio.sleep(0.1)
            finally:
                await asyncio.to_thread(backend.start_kafka)
            await until_relayed(pool)
        seen = ids_in(await read(platform, 900))
        assert seen.keys() == {str(row["dead_letter_id"]) for row in await rows_of(pool)}


async def test_a_database_that_is_dead_is_waited_out_too_and_the_relay_ends_when_asked(
    platform: Platform, backend: Backend
) -> None:
    settings = settings_of(platform)
    await ensure_topics(settings, platform_topics(settings))
    async with pool_of(platform.database_url) as pool:
        relay = Relay(pool, settings)
        async with at_work(relay):
            await asyncio.to_thread(backend.kill_postgres)
            try:
                async with asyncio.timeout(60):
                    while not relay.problem:
                        await asyncio.sleep(0.1)
            finally:
                await asyncio.to_thread(backend.start_postgres)
            async with asyncio.timeout(60):
                while relay.problem:
                    await asyncio.sleep(0.1)
            await put(pool, given_up())
            await until_relayed(pool)
        waiting = Relay(pool, settings_of(platform, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1"))
        await put(pool, given_up())
        async with at_work(waiting):
            async with asyncio.timeout(60):
                while not waiting.problem:
                    await asyncio.sleep(0.1)


async def test_the_relay_waits_for_the_migration(platform: Platform) -> None:
    settings = settings_of(platform)
    async with pool_of(platform.database_url) as pool:
        await pool.execute("update alembic_version set version_num = '0001_events'")
        with pytest.raises(DatabaseUnavailable, match=r"tools\.migrate"):
            await Relay(pool, settings).once()


async def test_it_ends_when_asked_even_where_postgres_is_frozen(platform: Platform, backend: Backend) -> None:
    settings = settings_of(platform)
    await ensure_topics(settings, platform_topics(settings))
    async with pool_of(platform.database_url) as pool:
        await put(pool, given_up())
        relay = Relay(pool, settings)
        try:
            async with at_work(relay):
                await until_relayed(pool)
                await asyncio.to_thread(backend.pause_postgres)
                await asyncio.sleep(2)  # it asks again meanwhile, and has no answer
        finally:
            await asyncio.to_thread(backend.resume_postgres)
