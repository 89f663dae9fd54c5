"""Partitions and retention on a real Postgres, with writers and readers in the way."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest

from event_consumer.events.partitions import Maintenance
from event_consumer.events.retention import Retention
from event_consumer.settings import ConsumerSettings
from event_core.errors import DatabaseUnavailable
from event_core.postgres import open_pool
from tests.support.backend import Backend
from tests.support.stored import Sent, at, expected, insert, rollups, store
from tests.support.wait import count, query

pytestmark = pytest.mark.integration

NOW = datetime(2024, 5, 10, 12, 30, tzinfo=UTC)
TODAY = NOW.date()
WINDOW = [TODAY + timedelta(n) for n in range(-7, 4)]
FAR = [
    datetime(1, 1, 2, tzinfo=UTC),
    datetime(9999, 12, 30, tzinfo=UTC),
    at(TODAY - timedelta(8)),
    at(TODAY + timedelta(4)),
]


def maintenance(
    pool: asyncpg.Pool, url: str, *, retention_days: int | None = None, now: datetime = NOW, **kw: Any
) -> Maintenance:
    settings = ConsumerSettings(database_url=url, retention_days=retention_days)
    return Maintenance(pool, settings, clock=lambda: now, **{"lock_seconds": 0.5, **kw})


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(ConsumerSettings(database_url=database_url), size=4, application="test") as opened:
        yield opened


def days_with_partitions(url: str) -> list[str]:
    rows = query(url, "select relname from pg_class where relispartition and relkind = 'r' order by relname")
    return [name.removeprefix("events_") for (name,) in rows if name != "events_default"]


def in_default(url: str) -> int:
    return count(url, "events_default")


def named(days: list[date]) -> list[str]:
    return [f"{day:%Y%m%d}" for day in days]


def row_digest(url: str) -> list[tuple[Any, ...]]:
    return query(url, "select e::text from events e order by event_id")


async def until_true(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


# --- partitions made ahead


async def test_partitions_are_made_from_a_week_back_to_three_days_ahead_and_once(
    pool: asyncpg.Pool, database_url: str
) -> None:
    upkeep = maintenance(pool, database_url)
    assert await upkeep.once()
    assert days_with_partitions(database_url) == named(WINDOW)
    assert (upkeep.partitions, upkeep.default_rows, upkeep.last_success) == (len(WINDOW), 0, NOW)
    assert await upkeep.once()
    assert days_with_partitions(database_url) == named(WINDOW)


async def test_each_partition_has_the_parents_indexes_once_and_takes_their_changes(
    pool: asyncpg.Pool, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        insert(connection, [Sent(at(TODAY))])
    await maintenance(pool, database_url).once()
    indexes = query(
        database_url,
        "select index.relname, parent.relname from pg_index join pg_class index on index.oid = indexrelid"
        " left join pg_inherits on inhrelid = indexrelid left join pg_class parent on parent.oid = inhparent"
        " where indrelid = 'events_20240510'::regclass order by 1",
    )
    assert sorted(parent for _, parent in indexes) == [
        "events_event_name_timestamp_idx",
        "events_experiment_id_timestamp_idx",
        "events_pkey",
        "events_user_id_timestamp_idx",
    ]
    columns = (
        "select column_name, data_type, is_nullable, column_default from information_schema.columns"
        " where table_schema = 'public' and table_name = '{}'"
    )
    assert query(database_url, columns.format("events_20240510") + " order by ordinal_position") == query(
        database_url, columns.format("events") + " order by ordinal_position"
    )


async def test_rows_move_out_of_the_default_partition_and_far_days_stay_there(
    pool: asyncpg.Pool, database_url: str
) -> None:
    edges = [at(day, hour, minute) for day in WINDOW for hour, minute in [(0, 0), (23, 59)]]
    with psycopg.connect(database_url) as connection:
        insert(connection, [Sent(moment) for moment in [*FAR, *edges]])
    before = row_digest(database_url)
    upkeep = maintenance(pool, database_url)
    assert await upkeep.once()
    assert row_digest(database_url) == before
    assert in_default(database_url) == len(FAR) == upkeep.default_rows
    assert query(database_url, "select count(*) from events_20240510") == [(2,)]


async def test_the_next_day_gets_its_partition_the_next_day(pool: asyncpg.Pool, database_url: str) -> None:
    await maintenance(pool, database_url).once()
    await maintenance(pool, database_url, now=NOW + timedelta(days=1)).once()
    assert days_with_partitions(database_url) == named([*WINDOW, TODAY + timedelta(4)])


async def test_a_far_day_with_very_many_rows_gets_a_partition_of_its_own(pool: asyncpg.Pool, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        insert(connection, [Sent(moment) for moment in FAR] + [Sent(at(date(2020, 2, 29)))] * 50)
    assert await maintenance(pool, database_url, busy_rows=50).once()
    assert days_with_partitions(database_url) == named([date(2020, 2, 29), *WINDOW])
    assert in_default(database_url) == len(FAR)
    assert count(database_url) == len(FAR) + 50


# --- others at work meanwhile


class Writers:
    """Plain inserts from several connections until told to stop: single rows, several in a transaction, and COPY."""

    def __init__(self, url: str, days: list[date]) -> None:
        self._url, self._days = url, days
        self._stop = threading.Event()
        self.written: list[UUID] = []
        self.errors: list[Exception] = []
        self.longest = 0.0
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(3)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _write(self, way: int) -> None:
        turn = 0
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.is_set():
                turn += 1
                rows = [
                    (uuid4(), at(self._days[(turn + n) % len(self._days)], turn % 24))
                    for n in range(1 if way == 0 else 20)
                ]
                began = time.monotonic()
                try:
                    self._insert(connection, way, rows)
                    self.written += [row[0] for row in rows]
                except psycopg.Error as error:
                    self.errors.append(error)
                self.longest = max(self.longest, time.monotonic() - began)

    def _insert(self, connection: psycopg.Connection[Any], way: int, rows: list[tuple[UUID, datetime]]) -> None:
        columns = '(event_id, "timestamp", user_id, event_name, received_at)'
        if way == 2:
            with (
                connection.transaction(),
                connection.cursor() as cursor,
                cursor.copy(f"copy events {columns} from stdin") as copy,
            ):
                for event_id, moment in rows:
                    copy.write_row((event_id, moment, "u", "copied", moment))
            return
        with connection.transaction():
            for event_id, moment in rows:
                connection.execute(
                    f"insert into events {columns} values (%s, %s, 'u', 'inserted', %s)", (event_id, moment, moment)
                )


async def test_writers_go_on_while_a_full_default_partition_is_emptied(pool: asyncpg.Pool, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            'insert into events (event_id, "timestamp", user_id, event_name, received_at)'
            " select gen_random_uuid(), %s + n * interval '9 seconds', 'u', 'e', now() from generate_series(1, 100000) n",
            (at(WINDOW[0], 0),),
        )
    old = {event_id for (event_id,) in query(database_url, "select event_id from events")}
    upkeep = maintenance(pool, database_url, lock_seconds=5)
    with Writers(database_url, WINDOW) as writers:
        until = time.monotonic() + 60
        while not await upkeep.once():
            assert time.monotonic() < until
        await asyncio.sleep(0.3)
    assert writers.errors == []
    stored = [event_id for (event_id,) in query(database_url, "select event_id from events")]
    assert len(stored) == len(set(stored))
    assert set(stored) == old | set(writers.written)
    assert len(writers.written) > 100
    first, last = at(WINDOW[0], 0), at(WINDOW[-1] + timedelta(1), 0)
    assert query(
        database_url, 'select count(*) from events_default where "timestamp" >= %s and "timestamp" < %s', first, last
    ) == [(0,)]


async def test_what_is_written_and_purged_while_rows_are_copied_is_as_it_was_committed(
    pool: asyncpg.Pool, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        purged, kept = insert(connection, [Sent(at(TODAY)), Sent(at(TODAY))])
    with psycopg.connect(database_url) as other:
        [late] = insert(other, [Sent(at(TODAY))])
        other.execute("delete from events where event_id = %s", (purged,))
        turn = asyncio.create_task(maintenance(pool, database_url, lock_seconds=20).once())
        waiting = "select count(*) from pg_locks where not granted and mode = 'ShareRowExclusiveLock'"
        await until_true(lambda: query(database_url, waiting) == [(1,)])
        other.commit()
        assert await turn
    assert {event_id for (event_id,) in query(database_url, "select event_id from events_20240510")} == {kept, late}
    assert count(database_url) == 2


@contextlib.contextmanager
def long_query(url: str, table: str) -> Iterator[None]:
    """A transaction that has read ``table`` and stays open."""
    with psycopg.connect(url) as connection:
        connection.execute(f"select count(*) from {table}")
        yield
        connection.rollback()


async def test_a_long_query_is_waited_for_a_moment_and_nobody_queues_behind_for_longer(
    pool: asyncpg.Pool, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        insert(connection, [Sent(at(day)) for day in WINDOW])
    upkeep = maintenance(pool, database_url)
    with long_query(database_url, "events"), Writers(database_url, WINDOW) as writers:
        assert not await upkeep.once()
    assert upkeep.last_success is None
    assert writers.errors == []
    assert writers.longest < 5, "the lock is waited for half a second"
    assert days_with_partitions(database_url) == []
    assert await upkeep.once()
    assert days_with_partitions(database_url) == named(WINDOW)
    assert count(database_url) == len(WINDOW) + len(writers.written)


async def test_consumers_leave_the_turn_to_one_of_them(pool: asyncpg.Pool, database_url: str) -> None:
    both = maintenance(pool, database_url), maintenance(pool, database_url)
    await asyncio.gather(*(upkeep.once() for upkeep in both))
    assert days_with_partitions(database_url) == named(WINDOW)
    with psycopg.connect(database_url) as other:
        other.execute("select pg_advisory_lock(%s)", (0x45564E54_0002,))
        late = maintenance(pool, database_url, now=NOW + timedelta(days=1))
        assert not await late.once()
        assert late.last_success is None, "a day has no partition yet"
        assert await both[0].once(), "all is in order, whoever did it"
    assert await late.once()


async def test_a_partition_made_by_hand_is_left_and_does_not_hinder_the_others(
    pool: asyncpg.Pool, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "create table events_may partition of events for values from ('2024-05-08') to ('2024-05-10')"
        )
        connection.execute("create table events_20240513 (note text)")
    upkeep = maintenance(pool, database_url)
    assert not await upkeep.once(), "a name is taken"
    days = [day for day in WINDOW if day not in (date(2024, 5, 8), date(2024, 5, 9), date(2024, 5, 13))]
    assert days_with_partitions(database_url) == [*named(days), "may"]


# --- going on through faults


async def test_it_goes_on_by_itself_once_the_database_is_back(
    backend: Backend, pool: asyncpg.Pool, database_url: str
) -> None:
    stop = asyncio.Event()
    upkeep = maintenance(pool, database_url, interval=0.2)
    backend.kill_postgres()
    running = asyncio.create_task(upkeep.run(stop))
    try:
        await asyncio.sleep(0.5)
        assert not running.done()
        backend.start_postgres()
        await until_true(lambda: upkeep.last_success is not None)
    finally:
        stop.set()
        await asyncio.wait_for(running, 10)
    assert days_with_partitions(database_url) == named(WINDOW)


async def test_without_the_right_to_make_tables_it_says_so_and_tries_again(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("create role upkeep_guest login password 'guest'")
        connection.execute("grant select on all tables in schema public to upkeep_guest")
    url = database_url.replace("://postgres:postgres@", "://upkeep_guest:guest@").replace(
        "://postgres@", "://upkeep_guest:guest@"
    )
    stop = asyncio.Event()
    try:
        async with open_pool(ConsumerSettings(database_url=url), size=1, application="test") as pool:
            upkeep = maintenance(pool, url, interval=0.1)
            running = asyncio.create_task(upkeep.run(stop))
            await asyncio.sleep(0.5)
            assert not running.done()
            assert upkeep.last_success is None
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute("alter role upkeep_guest superuser")
            await until_true(lambda: upkeep.last_success is not None)
            stop.set()
            await asyncio.wait_for(running, 10)
    finally:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("drop owned by upkeep_guest cascade")
            connection.execute("drop role upkeep_guest")


async def test_it_ends_at_once_when_told_even_in_the_middle_of_its_work(pool: asyncpg.Pool, database_url: str) -> None:
    stop = asyncio.Event()
    with long_query(database_url, "events"):
        running = asyncio.create_task(maintenance(pool, database_url, lock_seconds=30).run(stop))
        await asyncio.sleep(0.5)
        stop.set()
        await asyncio.wait_for(running, 10)
    assert days_with_partitions(database_url) == []


async def test_a_schema_that_is_not_there_yet_is_waited_for(empty_database: str) -> None:
    async with open_pool(ConsumerSettings(database_url=empty_database), size=1, application="test") as pool:
        with pytest.raises(DatabaseUnavailable):
            await maintenance(pool, empty_database).once()


# --- retention

OLD_DAYS = [date(1, 1, 2), date(2023, 12, 31), *(TODAY - timedelta(n) for n in range(12, 7, -1))]
KEPT_DAYS = [TODAY - timedelta(7), TODAY, TODAY + timedelta(2), date(9999, 12, 30)]


def some_history(url: str) -> list[Sent]:
    """Events of two tenants and three users on days to be dropped and to be kept, with rollups of two slots."""
    events = [
        Sent(at(day, hour, minute), f"u{number}", name, tenant)
        for day in [*OLD_DAYS, *KEPT_DAYS]
        for number, (hour, minute, name, tenant) in enumerate(
            [(0, 0, "view", "default"), (23, 59, "view", "default"), (12, 7, "buy", "other")]
        )
    ]
    store(url, events[::2], slot=3)
    store(url, events[1::2], slot=4)
    return events


async def test_nothing_is_dropped_unless_it_is_asked_for(pool: asyncpg.Pool, database_url: str) -> None:
    events = some_history(database_url)
    assert await maintenance(pool, database_url).once()
    assert count(database_url) == len(events)


async def test_whole_old_days_go_with_what_was_counted_of_them(pool: asyncpg.Pool, database_url: str) -> None:
    some_history(database_url)
    # Some of the days have partitions by now, the others lie in the default one.
    assert await maintenance(pool, database_url, now=NOW - timedelta(days=5)).once()
    [(epoch,)] = query(database_url, "select epoch from rollup_epoch")
    versions = dict(query(database_url, "select day::text, sum(version) from day_versions group by day"))
    seen = query(database_url, "select * from first_seen order by 1, 2")

    assert await maintenance(pool, database_url, retention_days=7).once()

    days = {moment.date() for (moment,) in query(database_url, "select \"timestamp\" at time zone 'UTC' from events")}
    assert sorted(days) == KEPT_DAYS
    assert days_with_partitions(database_url) == named(WINDOW)
    assert rollups(database_url) == expected(database_url)
    assert len(rollups(database_url).user_days) == 6, "May and 9999, of three users each"
    assert query(database_url, "select count(*) from user_days where days = 0") == [(0,)]
    assert query(database_url, "select epoch > %s from rollup_epoch", epoch) == [(True,)]
    assert query(database_url, "select * from first_seen order by 1, 2") == seen
    now = dict(query(database_url, "select day::text, sum(version) from day_versions group by day"))
    assert sorted(day for day in versions if now[day] > versions[day]) == sorted(map(str, OLD_DAYS))


async def test_of_a_partition_that_somebody_made_for_more_than_a_day_the_old_rows_go(
    pool: asyncpg.Pool, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "create table events_spring partition of events for values from ('2024-03-01') to ('2024-05-06')"
        )
    events = some_history(database_url)
    assert await maintenance(pool, database_url, retention_days=7).once()
    assert count(database_url) == len(events) * len(KEPT_DAYS) // (len(OLD_DAYS) + len(KEPT_DAYS))
    assert count(database_url, "events_spring") == 3, "of the one day in it that is kept"
    assert rollups(database_url) == expected(database_url)


async def test_dropping_again_changes_nothing(pool: asyncpg.Pool, database_url: str) -> None:
    some_history(database_url)
    upkeep = maintenance(pool, database_url, retention_days=7)
    assert await upkeep.once()
    before = (
        query(database_url, "select * from rollup_epoch"),
        query(database_url, "select * from day_versions order by 1, 2"),
    )
    assert await upkeep.once()
    assert before == (
        query(database_url, "select * from rollup_epoch"),
        query(database_url, "select * from day_versions order by 1, 2"),
    )


async def test_an_old_event_that_comes_after_all_goes_in_the_next_turn(pool: asyncpg.Pool, database_url: str) -> None:
    upkeep = maintenance(pool, database_url, retention_days=7)
    assert await upkeep.once()
    store(database_url, [Sent(at(OLD_DAYS[-1])), Sent(at(TODAY))])
    assert await upkeep.once()
    assert count(database_url) == 1
    assert rollups(database_url) == expected(database_url)


async def test_many_old_rows_go_in_bounded_steps_and_an_interruption_is_made_good(
    pool: asyncpg.Pool, database_url: str
) -> None:
    store(database_url, [Sent(at(OLD_DAYS[-1], n % 24), f"u{n}") for n in range(100)] + [Sent(at(TODAY), "u1")])
    with psycopg.connect(database_url) as connection:  # the third step fails, as if the process were killed there
        connection.execute(
            "create function fail() returns trigger language plpgsql as $$ begin"
            " if (select epoch from rollup_epoch) = 4 then raise exception 'killed'; end if; return null; end $$"
        )
        connection.execute("create trigger fail after delete on events for each statement execute function fail()")
    retention = Retention(lock_seconds=1, work_seconds=30, chunk_rows=30)
    oldest = TODAY - timedelta(7)
    async with pool.acquire() as connection:
        with pytest.raises(asyncpg.RaiseError, match="killed"):
            await retention.enforce(connection, oldest, today=TODAY)
        assert count(database_url) == 41
        assert rollups(database_url).counts == {(at(TODAY), "default", "e"): 1}
        await connection.execute("drop trigger fail on events")
        assert await retention.enforce(connection, oldest, today=TODAY)
    assert count(database_url) == 1
    assert rollups(database_url) == expected(database_url)


async def test_events_and_rollups_go_together_or_not_at_all(pool: asyncpg.Pool, database_url: str) -> None:
    some_history(database_url)
    assert await maintenance(pool, database_url, now=NOW - timedelta(days=5)).once()
    upkeep = maintenance(pool, database_url, retention_days=7)
    with long_query(database_url, "events"):
        assert not await upkeep.once()
        assert rollups(database_url) == expected(database_url)
    assert await upkeep.once()
    assert rollups(database_url) == expected(database_url)


async def test_an_id_is_remembered_as_long_as_its_event_and_at_least_30_days(
    pool: asyncpg.Pool, database_url: str
) -> None:
    old, kept = at(TODAY - timedelta(100)), at(TODAY)
    long_ago, lately = TODAY - timedelta(31), TODAY - timedelta(30)
    with psycopg.connect(database_url) as connection:
        for event_time, stored_on in [(old, long_ago), (old, lately), (kept, long_ago), (kept, lately)]:
            connection.execute(
                "insert into event_ids (event_id, event_time, ingested_on) values (gen_random_uuid(), %s, %s)",
                (event_time, stored_on),
            )
        connection.execute(
            "insert into event_ids select gen_random_uuid(), %s, %s from generate_series(1, 5000)", (old, long_ago)
        )
    settings_retention = Retention(lock_seconds=1, work_seconds=30, chunk_blocks=3)
    async with pool.acquire() as connection:
        assert await settings_retention.enforce(connection, TODAY - timedelta(7), today=TODAY)
    left = query(database_url, "select event_time, ingested_on from event_ids order by 1, 2")
    assert left == [(old, lately), (kept, long_ago), (kept, lately)]


async def test_a_consumer_whose_clock_is_years_ahead_drops_nothing_that_the_databases_would_keep(
    pool: asyncpg.Pool, database_url: str
) -> None:
    recent = datetime.now(UTC) - timedelta(days=2)
    store(database_url, [Sent(recent)])
    upkeep = maintenance(pool, database_url, retention_days=7, now=recent + timedelta(days=2000))
    await upkeep.once()
    assert count(database_url) == 1
