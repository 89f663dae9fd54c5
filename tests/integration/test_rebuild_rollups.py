"""Rollups made anew from the events: what is shown, what is mended, what is left, and consumers at work meanwhile."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from event_consumer.events.locks import ROLLUP_LOCK
from tests.support.stored import Sent, at, expected, feed, insert, rollups, store
from tests.support.wait import query

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
DAYS = [date(1, 1, 2), date(2024, 1, 31), date(2024, 2, 1), date(2024, 2, 29), date(2024, 3, 31), date(9999, 12, 30)]
RIGHT = (
    "event_counts_15m 0 rows differ (0 events too many, 0 too few);"
    " user_days 0 days of users differ (0 too many, 0 too few); first_seen 0 users missing or too late"
)


def run(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.rebuild_rollups", *arguments],
        cwd=ROOT,
        env={"DATABASE_URL": url, "PATH": os.environ["PATH"], "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def change(url: str, *statements: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("set timezone to 'UTC'")
        for statement in statements:
            connection.execute(statement)


def state(url: str) -> dict[str, list[tuple[Any, ...]]]:
    tables = ("event_counts_15m", "user_days", "first_seen", "day_versions", "first_seen_versions", "rollup_epoch")
    return {table: query(url, f"select t::text from {table} t order by 1") for table in tables}


def versions(url: str) -> dict[str, int]:
    return dict(query(url, "select day::text, sum(version)::int from day_versions group by day"))


@pytest.fixture
def stored(database_url: str) -> str:
    """A database with events of six days, three users and two tenants, and the rollups of two consumers, all right."""
    events = [
        Sent(at(day, hour, minute), f"u{number}", name, tenant)
        for day in DAYS
        for number, (hour, minute, name, tenant) in enumerate(
            [(0, 0, "view", "default"), (23, 59, "view", "default"), (12, 7, "buy", "other")]
        )
    ]
    store(database_url, events, slot=3)
    store(database_url, [*events[::2], Sent(at(DAYS[1], 0, 14), "u0", "view")], slot=4)
    return database_url


def test_where_all_is_right_nothing_differs_and_no_answer_changes(stored: str) -> None:
    before, known = rollups(stored), versions(stored)
    compared = run(stored, "--dry-run")
    assert (compared.returncode, compared.stdout.splitlines()[-1]) == (0, f"difference: {RIGHT}"), compared.stderr
    done = run(stored)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"replaced: {RIGHT}"), done.stderr
    assert rollups(stored) == before == expected(stored)
    assert versions(stored) == known, "the same versions, the same answers"
    assert query(stored, "select distinct slot from event_counts_15m") == [(0,)]
    after = state(stored)
    assert run(stored).returncode == 0
    assert state(stored) == after, "a second time there is nothing to do"


def test_the_rollups_of_a_database_without_any_are_made(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        insert(connection, [Sent(at(day, 1), f"u{n}") for day in DAYS for n in range(3)])
    assert run(database_url, "--dry-run").returncode == 1
    assert run(database_url).returncode == 0
    assert rollups(database_url) == expected(database_url)
    seen = query(database_url, "select tenant_id, user_id, first_seen_at from first_seen order by 2")
    assert seen == [("default", f"u{n}", datetime(1, 1, 2, 1, tzinfo=UTC)) for n in range(3)]
    assert query(database_url, "select version from first_seen_versions where slot = 0") != []
    assert run(database_url, "--dry-run").returncode == 0


def test_an_empty_database_has_nothing_to_make(database_url: str) -> None:
    done = run(database_url)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["0 days", f"replaced: {RIGHT}"])


DAMAGE = [
    # counts: 5 too many, 1 + 2 too few, and 9 of a day without any event
    "update event_counts_15m set events = events + 5 where bucket = '2024-02-01 00:00+00' and slot = 3",
    "delete from event_counts_15m where bucket = '2024-02-01 12:00+00' and slot = 3",
    "delete from event_counts_15m where bucket = '2024-03-31 00:00+00'",
    "insert into event_counts_15m values ('2024-07-07 10:00+00', 'default', 'view', 3, 9)",
    # user_days: two days too many, one of a month without any event; two too few
    "update user_days set days = days | 1 where month = '2024-03-01' and user_id = 'u1'",
    "insert into user_days values ('third', '2024-08-01', 'u9', 1 << 19)",
    "update user_days set days = days & ~1 where month = '2024-02-01' and user_id = 'u0'",
    "delete from user_days where month = '0001-01-01' and user_id = 'u2'",
    # first_seen: one missing, one too late; one earlier than any event there is, which may be right
    "delete from first_seen where user_id = 'u0'",
    "update first_seen set first_seen_at = '2024-02-20' where user_id = 'u1'",
    "update first_seen set first_seen_at = '0001-01-01 12:00+00' where user_id = 'u2'",
]
DAMAGED = (
    "event_counts_15m 4 rows differ (14 events too many, 3 too few);"
    " user_days 4 days of users differ (2 too many, 2 too few); first_seen 2 users missing or too late"
)


def test_damage_is_shown_to_the_row_and_changed_only_when_told(stored: str) -> None:
    change(stored, *DAMAGE)
    before = state(stored)
    compared = run(stored, "--dry-run")
    assert (compared.returncode, compared.stdout.splitlines()[-1]) == (1, f"difference: {DAMAGED}"), compared.stderr
    assert state(stored) == before


def test_damage_is_mended_and_readers_and_writers_hear_of_it(stored: str) -> None:
    change(stored, *DAMAGE)
    known = versions(stored)
    epoch = query(stored, "select epoch from rollup_epoch")
    done = run(stored)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"replaced: {DAMAGED}"), done.stderr
    assert rollups(stored) == expected(stored)
    seen = dict(query(stored, "select user_id, first_seen_at from first_seen"))
    assert seen == {
        "u0": datetime(1, 1, 2, tzinfo=UTC),
        "u1": datetime(1, 1, 2, 23, 59, tzinfo=UTC),
        "u2": datetime(1, 1, 1, 12, tzinfo=UTC),
    }
    now = versions(stored)
    wrong = {"0001-01-02", "2024-02-01", "2024-03-01", "2024-03-31", "2024-07-07", "2024-08-20"}
    assert {day for day in now if now[day] > known.get(day, 0)} == wrong
    assert query(stored, "select slot, version > 0 from first_seen_versions where slot = 0") == [(0, True)]
    assert query(stored, "select epoch from rollup_epoch") > epoch
    assert run(stored, "--dry-run").stdout.splitlines()[-1] == f"difference: {RIGHT}"


def test_a_range_of_days_touches_no_other_day_of_its_months(stored: str) -> None:
    damage = [
        f"update user_days set days = days | {1 << 9} | {1 << 19} where month = '2024-02-01' and user_id = 'u0'",
        "update event_counts_15m set events = events + 1 where slot = 3"
        " and bucket in ('2024-02-01 00:00+00', '2024-02-29 00:00+00')",
    ]
    change(stored, *damage)
    done = run(stored, "--from", "2024-02-02", "--to", "2024-02-10")
    assert "user_days 1 days of users differ (1 too many, 0 too few)" in done.stdout.splitlines()[-1], done.stdout
    [(days,)] = query(stored, "select days from user_days where month = '2024-02-01' and user_id = 'u0'")
    assert days == 1 | 1 << 19 | 1 << 28
    rest = run(stored, "--dry-run").stdout.splitlines()[-1]
    assert "event_counts_15m 2 rows differ (2 events too many, 0 too few); user_days 1 days" in rest
    last = run(stored, "--from", "2024-02-29", "--to", "2024-02-29")
    assert "event_counts_15m 1 rows differ (1 events too many, 0 too few)" in last.stdout.splitlines()[-1], last.stdout


def test_a_range_of_days_never_makes_somebody_new_who_came_before_it(stored: str) -> None:
    change(stored, "delete from first_seen")
    assert run(stored, "--from", "2024-02-01").returncode == 0
    assert set(query(stored, "select first_seen_at::date::text from first_seen")) == {("0001-01-02",)}


def test_random_damage_is_mended(stored: str) -> None:
    rng = random.Random(5)
    for _ in range(3):
        counts = query(stored, "select bucket, tenant_id, event_name, slot from event_counts_15m order by 1, 2, 3, 4")
        months = query(stored, "select tenant_id, month, user_id from user_days order by 1, 2, 3")
        with psycopg.connect(stored) as connection:
            for key in rng.sample(counts, 5):
                connection.execute(
                    "update event_counts_15m set events = %s where (bucket, tenant_id, event_name, slot) = (%s, %s, %s, %s)",
                    (rng.randint(0, 9), *key),
                )
            for key in rng.sample(months, 5):
                # Only days that the month has: of April 31st nothing can be said.
                connection.execute(
                    "update user_days set days = %s where (tenant_id, month, user_id) = (%s, %s, %s)",
                    (rng.getrandbits(29), *key),
                )
        assert run(stored).returncode == 0
        assert rollups(stored) == expected(stored)


def test_consumers_that_store_meanwhile_end_with_right_rollups(stored: str) -> None:
    change(stored, *DAMAGE)
    stop = threading.Event()

    def consume(number: int) -> int:
        """As a consumer writes: shared lock first, then events and rollups; no user is another consumer's too."""
        rng, written = random.Random(number), 0
        with psycopg.connect(stored) as connection:
            connection.execute("set timezone to 'UTC'")
            while not stop.is_set():
                day = rng.choice(DAYS[1:5]) + timedelta(days=rng.randint(-1, 1))
                new = [Sent(at(day, rng.randrange(24)), f"u{number}-{rng.randrange(50)}") for _ in range(5)]
                connection.execute("select pg_advisory_xact_lock_shared(%s)", (ROLLUP_LOCK,))
                insert(connection, new)
                feed(connection, sorted(new), slot=10 + number)
                connection.commit()
                written += len(new)
        return written

    with ThreadPoolExecutor(2) as pool:
        consumers = [pool.submit(consume, number) for number in range(2)]
        try:
            runs = [run(stored) for _ in range(4)]
            compared = run(stored, "--dry-run")
        finally:
            stop.set()
        assert all(consumer.result() > 20 for consumer in consumers)
    assert [done.returncode for done in runs] == [0, 0, 0, 0], [done.stderr for done in runs]
    assert compared.returncode == 0, compared.stdout
    assert rollups(stored) == expected(stored)


def test_what_cannot_be_done_is_said_in_one_line(empty_database: str) -> None:
    empty = run(empty_database)
    assert (empty.returncode, empty.stderr.count("\n")) == (2, 1), empty.stderr
    away = run("postgresql://someone:hidden@127.0.0.1:9/events_db")
    assert (away.returncode, away.stderr.count("\n")) == (2, 1), away.stderr
    assert "127.0.0.1:9" in away.stderr
    assert "hidden" not in away.stderr + away.stdout
    unset = run("nonsense")
    assert (unset.returncode, bool(re.search("DATABASE_URL", unset.stderr))) == (2, True)
