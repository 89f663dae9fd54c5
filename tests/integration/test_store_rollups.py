"""Whatever is written in whatever order by however many: the rollups and counters say what the events say. On a real Postgres."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from event_consumer.batch import Batch
from event_consumer.dead_letter import DeadLetter, dead_letter
from event_consumer.events import store as store_module
from event_consumer.events.locks import ROLLUP_LOCK
from event_consumer.events.rollups import Known
from event_consumer.events.rows import EventRow
from event_consumer.events.store import PostgresStore
from event_consumer.store import FenceLost, Written
from event_core.dead_letters import HEADER_DEAD_LETTER_ID, HEADER_RETRY_COUNT
from event_core.errors import DatabaseUnavailable, UndecodableMessage
from event_core.source import FakeMessage
from event_core.topics import TopicPartition
from tests.support.rows import AT, P0, P1, batch, execute, open_store, row
from tests.support.stored import expected, rollups
from tests.support.wait import count, query

pytestmark = pytest.mark.integration

BASE = datetime(2026, 1, 30, tzinfo=UTC)
DAYS = [0, 0, 0, 1, 2, -1, -31, -365 * 27, 700]
NUMBERS = "consumed, stored, duplicates, dead_letters, skipped"


def some_row(rng: random.Random, ids: int) -> EventRow:
    """One of ``ids`` events; its content follows from its id, but for a few that differ."""
    number = rng.randint(1, ids)
    fixed = random.Random(number)
    at = BASE + timedelta(
        days=fixed.choice(DAYS), seconds=fixed.randint(0, 86_399), microseconds=fixed.randint(0, 999_999)
    )
    name = fixed.choice(["e", "f"]) if rng.random() > 0.05 else "another"
    user, tenant = f"u{fixed.randint(0, 20)}", fixed.choice(["default", "other"])
    return row(number, timestamp=at, event_name=name, user_id=user, tenant_id=tenant)


def letter(partition: TopicPartition, offset: int) -> DeadLetter:
    return dead_letter(
        FakeMessage(*partition, offset, b'{"tenant_id":"other"}'), UndecodableMessage("x", reason="not_json")
    )


async def write_all(store: PostgresStore, partition: TopicPartition, seed: int, batches: int) -> None:
    """As a consumer does: what cannot be written is written again."""
    rng = random.Random(seed)
    offset = 0
    for _ in range(batches):
        rows = [some_row(rng, 400) for _ in range(rng.randint(0, 60))]
        hole = rng.choice([0, 0, 3])
        dead = [letter(partition, offset + hole + len(rows) + n) for n in range(rng.choice([0, 0, 1, 3]))]
        if not rows and not dead:
            continue
        made = batch(rows, offset + hole, partition=partition, dead=dead)
        while True:
            try:
                outcome = await store.write(made, {partition: offset})
            except DatabaseUnavailable:  # a deadlock or a serialization failure: nothing of it is committed
                continue
            break
        assert isinstance(outcome, Written)
        offset = made.offsets[partition]


def assert_sound(url: str) -> None:
    """Rollups, counters and intake say what events and dead letters say."""
    assert rollups(url) == expected(url)
    first = 'select tenant_id, user_id, min("timestamp") from events group by 1, 2 order by 1, 2'
    assert query(url, "select tenant_id, user_id, first_seen_at from first_seen order by 1, 2") == query(url, first)
    days = "select distinct (\"timestamp\" at time zone 'UTC')::date from events order by 1"
    assert query(url, "select day from day_versions group by 1 order by 1") == query(url, days)
    assert query(url, "select event_id from events order by 1") == query(
        url, "select event_id from event_ids order by 1"
    )
    for consumed, stored, duplicates, dead, skipped in query(url, f"select {NUMBERS} from consumer_offsets"):
        assert consumed == stored + duplicates + dead + skipped
    [(stored, dead)] = query(url, "select sum(stored)::int, sum(dead_letters)::int from consumer_offsets")
    assert (stored, dead) == (count(url), count(url, "dead_letters"))
    by_tenant = "select tenant_id, sum(stored)::int from tenant_intake group by 1 having sum(stored) > 0 order by 1"
    assert query(url, by_tenant) == query(url, "select tenant_id, count(*)::int from events group by 1 order by 1")
    [(intake,)] = query(url, "select coalesce(sum(dead_letters), 0)::int from tenant_intake")
    assert intake == dead


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("most", [3, 200_000], ids=["hardly any memory", "memory"])
async def test_two_stores_at_once_leave_what_counting_the_events_gives(
    database_url: str, seed: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "Known", lambda: Known(most))
    async with (
        open_store(database_url, group="one") as one,
        open_store(database_url, group="two") as two,
    ):
        await asyncio.gather(
            write_all(one, P0, 10 * seed, 15),
            write_all(one, P1, 10 * seed + 1, 15),  # two lanes of one process
            write_all(two, P0, 10 * seed + 2, 15),
        )
    assert count(database_url) > 200
    assert count(database_url, "dead_letters") > 20
    assert_sound(database_url)
    [(duplicates,)] = query(database_url, "select sum(duplicates)::int from consumer_offsets")
    assert duplicates > 200


async def test_a_transaction_that_is_rolled_back_leaves_no_trace_and_is_not_remembered(database_url: str) -> None:
    async with open_store(database_url) as store:
        execute(database_url, "alter table tenant_intake add constraint nobody check (false) not valid")
        for _ in range(2):
            with pytest.raises(Exception, match="nobody"):
                await store.write(batch([row(1), row(2)]), {P0: 0})
        assert rollups(database_url) == expected(database_url) == ({}, {})
        execute(database_url, "alter table tenant_intake drop constraint nobody")
        assert isinstance(await store.write(batch([row(1), row(2)]), {P0: 0}), Written)
    assert_sound(database_url)
    assert count(database_url, "user_days") == count(database_url, "first_seen") == 1


TABLES = ["event_ids", "events", "event_counts_15m", "user_days", "first_seen", "dead_letters", "tenant_intake"]


@pytest.mark.parametrize("table", [*TABLES, "consumer_offsets"])
async def test_a_connection_that_breaks_in_mid_write_leaves_everything_as_it_was(database_url: str, table: str) -> None:
    execute(
        database_url,
        "create sequence kills",  # what a sequence counts stays counted when a transaction is rolled back
        "create function die() returns trigger language plpgsql as $$ begin"
        " if nextval('kills') <= 3 then perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(10); end if;"
        " return null; end $$",
        f"create trigger die before insert or update on {table} execute function die()",
    )
    execute(database_url, f"alter table {table} disable trigger die")
    async with open_store(database_url) as store:
        execute(database_url, f"alter table {table} enable trigger die")
        made = batch([row(1), row(2), row(1)], dead=[letter(P0, 3)])
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await store.write(made, {P0: 0})
            assert count(database_url) == count(database_url, "dead_letters") == 0
            assert query(database_url, "select sum(next_offset)::int, sum(consumed)::int from consumer_offsets") == [
                (0, 0)
            ]
        outcome = await store.write(made, {P0: 0})
    assert isinstance(outcome, Written)
    assert (outcome.stored, outcome.duplicates, len(outcome.dead)) == (2, 1, 1)
    assert_sound(database_url)


async def test_users_are_written_again_where_somebody_removed_rollups_and_raised_the_epoch(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.write(batch([row(1), row(2)]), {P0: 0})
        execute(
            database_url,
            f"select pg_advisory_xact_lock({ROLLUP_LOCK})",
            "delete from user_days",
            "delete from first_seen",
            "update rollup_epoch set epoch = epoch + 1",
        )
        await store.write(batch([row(3), row(4)], 2), {P0: 2})
    assert_sound(database_url)


async def test_whoever_remakes_rollups_and_a_writer_wait_for_each_other(database_url: str) -> None:
    async with open_store(database_url) as store:
        with psycopg.connect(database_url) as other:
            other.execute(f"select pg_advisory_xact_lock({ROLLUP_LOCK})")
            writing = asyncio.create_task(store.write(batch([row(1)]), {P0: 0}))
            await asyncio.sleep(0.5)
            assert not writing.done()
            other.execute("update rollup_epoch set epoch = epoch + 1")
        assert isinstance(await writing, Written)
    assert_sound(database_url)


async def test_an_earlier_event_moves_first_seen_and_its_version_but_a_later_one_does_not(database_url: str) -> None:
    def versions() -> int:
        [(found,)] = query(database_url, "select coalesce(sum(version), 0)::int from first_seen_versions")
        return int(found)

    async with open_store(database_url) as store:
        for offset, (days, moved) in enumerate([(0, 0), (5, 0), (-5, 1), (-5, 1), (-4, 1), (-400, 2)]):
            await store.write(batch([row(offset + 1, timestamp=AT + timedelta(days=days))], offset), {P0: offset})
            assert versions() == moved
    async with open_store(database_url, group="fresh, so it knows nothing") as store:
        await store.write(batch([row(90, timestamp=AT + timedelta(days=-399))]), {P0: 0})
        assert versions() == 2
    assert_sound(database_url)


async def test_each_batch_counts_under_a_slot_of_its_own_partitions(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.write(batch([row(1)]), {P0: 0})
        await store.write(batch([row(2)], partition=P1), {P1: 0})
        both: Batch[EventRow] = batch([row(4)], 1, partition=P1, into=batch([row(3)], 1))
        await store.write(both, {P0: 1, P1: 1})
    slots = dict(query(database_url, "select partition, slot from consumer_offsets"))
    assert len(set(slots.values())) == 2
    counted = dict(query(database_url, "select slot, sum(events)::int from event_counts_15m group by 1"))
    assert Counter(counted) == Counter({slots[1]: 1}) + Counter({min(slots.values()): 2}) + Counter({slots[0]: 1})
    assert set(slots.values()) >= {slot for (slot,) in query(database_url, "select slot from day_versions")}
    assert_sound(database_url)


async def test_two_that_believe_in_one_partition_store_its_events_once(database_url: str) -> None:
    async with open_store(database_url) as one, open_store(database_url) as two:
        made = [batch([row(n) for n in range(1, 200)]) for _ in range(2)]
        outcomes = await asyncio.gather(one.write(made[0], {P0: 0}), two.write(made[1], {P0: 0}))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["FenceLost", "Written"]
    assert [outcome for outcome in outcomes if isinstance(outcome, FenceLost)] == [FenceLost([P0])]
    assert count(database_url) == 199
    assert_sound(database_url)


async def test_events_of_many_users_by_two_lanes_and_another_consumer_end_in_no_deadlock(database_url: str) -> None:
    def made(partition: TopicPartition, start: int) -> Batch[EventRow]:
        rng = random.Random(start)
        rows = [row(rng.randint(1, 10_000), user_id=f"u{rng.randint(0, 50)}") for _ in range(300)]
        return batch(rows, start, partition=partition)

    async def write(store: PostgresStore, partition: TopicPartition) -> None:
        for start in range(0, 3000, 300):
            assert isinstance(await store.write(made(partition, start), {partition: start}), Written)

    async with open_store(database_url) as one, open_store(database_url, group="other") as two:
        await asyncio.gather(write(one, P0), write(one, P1), write(two, P0))
    [(deadlocks,)] = query(database_url, "select deadlocks from pg_stat_database where datname = current_database()")
    assert deadlocks == 0


# --- replays


def dead_letter_row(url: str, state: str) -> UUID:
    letter_id = uuid4()
    execute(
        url,
        'insert into dead_letters (dead_letter_id, topic, partition, "offset", value, reason, error, state)'
        f" values ('{letter_id}', 't', 0, 0, 'v', 'not_json', 'x', '{state}')",
    )
    return letter_id


def replayed(letter_id: UUID) -> tuple[tuple[str, bytes], ...]:
    return ((HEADER_RETRY_COUNT, b"1"), (HEADER_DEAD_LETTER_ID, str(letter_id).encode()))


def states(url: str) -> list[Any]:
    return [state for (state,) in query(url, "select state from dead_letters order by state")]


@pytest.mark.parametrize("there", [False, True], ids=["stored now", "there already"])
async def test_a_replayed_letter_whose_event_is_stored_is_resolved(database_url: str, there: bool) -> None:
    letter_id = dead_letter_row(database_url, "replayed")
    async with open_store(database_url) as store:
        if there:
            await store.write(batch([row(1)]), {P0: 0})
        start = int(there)
        await store.write(batch([row(1)], start, headers=replayed(letter_id)), {P0: start})
    assert states(database_url) == ["resolved"]
    assert count(database_url) == 1


async def test_a_replayed_letter_that_is_refused_again_is_open_again_and_no_second_one(database_url: str) -> None:
    letter_id = dead_letter_row(database_url, "replayed")
    poison: Sequence[EventRow] = [row(1, metadata='{"a": 1e200000}')]
    async with open_store(database_url) as store:
        outcome = await store.write(batch(poison, headers=replayed(letter_id)), {P0: 0})
    assert isinstance(outcome, Written)
    assert [found.reason for found in outcome.dead] == ["refused_by_store"]
    columns = "dead_letter_id, state, reason, retry_count"
    assert query(database_url, f"select {columns} from dead_letters") == [(letter_id, "open", "refused_by_store", 1)]
    [told] = query(database_url, f"select {NUMBERS} from consumer_offsets where partition = 0")
    assert told == (1, 0, 0, 1, 0)
