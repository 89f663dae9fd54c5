"""The gauges against what is really in the database."""

from __future__ import annotations

import asyncio
import uuid

import asyncpg
import psycopg
import pytest
from prometheus_client import CollectorRegistry

from event_consumer.gauges import Gauges
from tests.support.backend import Backend

pytestmark = pytest.mark.integration

GROUP = "gauged"


def offsets(url: str, partition: int, *, group: str = GROUP, **columns: int) -> None:
    names = ["consumer_group", "topic", "partition", "next_offset", *columns]
    with psycopg.connect(url) as connection:
        connection.execute(
            f"insert into consumer_offsets ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})",
            [group, "events", partition, 10, *columns.values()],
        )


def letter(url: str, reason: str, *, state: str = "open", age: str = "0 s", relayed: bool = True) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "insert into dead_letters (topic, reason, error, state, failed_at, relayed_at)"
            " values ('events', %s, 'why', %s, now() - %s::interval, case when %s then now() end)",
            [reason, state, age, relayed],
        )


async def asked(url: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    async with asyncpg.create_pool(url, min_size=0) as pool:
        await Gauges(pool, GROUP, registry).ask()
    return registry


async def test_records_that_nothing_became_of_are_told_by_partition(database_url: str) -> None:
    offsets(database_url, 0, consumed=100, stored=80, duplicates=10, dead_letters=7, skipped=3)
    offsets(database_url, 1, consumed=100, stored=80, duplicates=10, dead_letters=7, skipped=1)
    offsets(database_url, 2, group="another", consumed=5)
    registry = await asked(database_url)

    def told(name: str, partition: int) -> float | None:
        return registry.get_sample_value(name, {"topic": "events", "partition": str(partition)})

    assert [told("consumer_unaccounted_records", partition) for partition in range(3)] == [0, 2, None]
    assert [told("consumer_skipped_records", partition) for partition in range(3)] == [3, 1, None]


async def test_open_dead_letters_are_told_by_reason_and_age(database_url: str) -> None:
    letter(database_url, "not_json", age="1 h")
    letter(database_url, "not_json", relayed=False)
    letter(database_url, "somebody's own words")
    letter(database_url, "conflict", state="resolved", age="1 day", relayed=False)
    registry = await asked(database_url)

    def told(reason: str) -> float | None:
        return registry.get_sample_value("dead_letters_open", {"reason": reason})

    assert [told(reason) for reason in ("not_json", "other", "conflict", "somebody's own words")] == [2, 1, 0, None]
    oldest = registry.get_sample_value("dead_letters_oldest_seconds")
    assert oldest is not None
    assert 3600 <= oldest < 3600 + 600
    assert registry.get_sample_value("dead_letters_unrelayed") == 2


async def test_without_open_dead_letters_the_oldest_is_of_age_0(database_url: str) -> None:
    letter(database_url, "not_json", state="discarded", age="1 h")
    registry = await asked(database_url)
    assert registry.get_sample_value("dead_letters_oldest_seconds") == 0
    assert registry.get_sample_value("dead_letters_unrelayed") == 0


async def test_gauges_stand_still_in_an_outage_and_go_on_after_it(backend: Backend, database_url: str) -> None:
    registry = CollectorRegistry()
    stop = asyncio.Event()

    def told(name: str, **labels: str) -> float:
        return registry.get_sample_value(name, labels) or 0.0

    async def until_open(letters: float) -> None:
        async with asyncio.timeout(60):
            while told("dead_letters_open", reason="not_json") != letters:
                await asyncio.sleep(0.05)

    async with asyncpg.create_pool(database_url, min_size=0, timeout=5, command_timeout=5) as pool:
        running = asyncio.create_task(Gauges(pool, GROUP, registry, interval=0.05).run(stop))
        letter(database_url, "not_json")
        await until_open(1)
        await asyncio.to_thread(backend.kill_postgres)
        try:
            async with asyncio.timeout(60):
                while told("consumer_gauges_age_seconds") < 0.5:
                    await asyncio.sleep(0.05)
            assert told("dead_letters_open", reason="not_json") == 1
            assert not running.done()
        finally:
            await asyncio.to_thread(backend.start_postgres)
        letter(database_url, "not_json")
        await until_open(2)
        stop.set()
        async with asyncio.timeout(20):
            await running


async def test_a_frozen_database_does_not_hold_up_the_end(backend: Backend, database_url: str) -> None:
    stop = asyncio.Event()
    async with asyncpg.create_pool(database_url, min_size=1, timeout=30, command_timeout=30) as pool:
        gauges = Gauges(pool, GROUP, CollectorRegistry(), interval=0.01)
        await gauges.ask()
        await asyncio.to_thread(backend.pause_postgres)
        try:
            running = asyncio.create_task(gauges.run(stop))
            await asyncio.sleep(0.5)
            stop.set()
            async with asyncio.timeout(10):
                await running
        finally:
            await asyncio.to_thread(backend.resume_postgres)


@pytest.mark.parametrize("letters", [20_000])
async def test_many_topics_words_make_no_series(database_url: str, letters: int) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "insert into dead_letters (topic, reason, error) select 'events', 'reason ' || number || %s, '' "
            "from generate_series(1, %s) as number",
            [uuid.uuid4().hex, letters],
        )
    registry = await asked(database_url)
    assert registry.get_sample_value("dead_letters_open", {"reason": "other"}) == letters
    assert sum(len(family.samples) for family in registry.collect()) < 100
