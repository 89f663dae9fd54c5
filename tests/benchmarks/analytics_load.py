"""Fills a migrated, empty database with generated events and their rollups: ``python -m tests.benchmarks.analytics_load``."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from datetime import UTC, date, datetime, timedelta

import psycopg
from psycopg import sql

from event_consumer.events.folding import fold_days
from event_core.postgres import open_pool
from event_core.settings import PostgresSettings
from tests.benchmarks.analytics_events import COLUMNS, DAYS, SEED, USERS, Plan, lines
from tools.migrate.__main__ import create_database, upgrade

PROCESSES = 2
WRITERS = 6
"""The rollups have as many slots at first: what a topic of 6 partitions leaves, the platform's default."""
LEAST = 1_000
PROGRESS_SECONDS = 5.0

Say = Callable[[str], None]

_SLOT = "1 + abs(hashtext(user_id)) % {writers}"
# Indexes are made when the table is attached: once for all rows, which is several times faster than one by one.
_CREATE = "create table public.{partition} (like public.events including all excluding comments excluding indexes)"
_COPY = "copy public.{partition} ({columns}) from stdin (freeze)"
_ATTACH = "alter table public.events attach partition public.{partition} for values from ({start}) to ({end})"
_DAY = (
    f"""
    insert into public.event_counts_15m (bucket, tenant_id, event_name, slot, events)
    select date_bin('15 minutes', "timestamp", timestamptz '2000-01-01 00:00+00'), tenant_id, event_name, {_SLOT}, count(*)
    from public.{{partition}} group by 1, 2, 3, 4
    """,
    f"""
    insert into public.day_versions (day, slot, version)
    select distinct ("timestamp" at time zone 'UTC')::date, {_SLOT}, 1 from public.{{partition}}
    """,
)
_USERS = (
    """
    insert into public.user_days (tenant_id, month, user_id, days)
    select tenant_id, month, user_id, bit_or(1 << (extract(day from day)::integer - 1))
    from (
        select tenant_id, user_id, ("timestamp" at time zone 'UTC')::date as day,
               date_trunc('month', "timestamp" at time zone 'UTC')::date as month
        from public.events
    ) as seen
    group by tenant_id, month, user_id
    """,
    """
    insert into public.first_seen (tenant_id, user_id, first_seen_at)
    select tenant_id, user_id, min("timestamp") from public.events group by 1, 2
    """,
)
_LEDGER = (
    "alter table public.event_ids drop constraint event_ids_pkey",
    """
    insert into public.event_ids (event_id, event_time, ingested_on)
    select event_id, "timestamp", (processed_at at time zone 'UTC')::date from public.events
    """,
    "alter table public.event_ids add primary key (event_id)",
)
_SESSION = (
    "set timezone = 'UTC'; set work_mem = '256MB'; set maintenance_work_mem = '256MB'; set synchronous_commit = off"
)


class NotEmpty(Exception):
    """The database holds events; generated ones do not belong among them."""


def load(database_url: str, plan: Plan, say: Say, processes: int = PROCESSES, writers: int = WRITERS) -> float:
    """Loads ``plan`` into a migrated database, as if ``writers`` partitions had been consumed; the seconds it took.

    Raises:
        NotEmpty: there are events.
    """
    began = told = time.monotonic()
    with _connected(database_url) as connection:
        if connection.execute("select 1 from public.events limit 1").fetchone():
            raise NotEmpty("the database holds events: give one that is empty")
        # No process of ours may inherit connections or threads.
        spawning = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, spawning) as pool:
            loading = [pool.submit(load_day, database_url, plan, day, writers) for day in plan.days]
            try:
                done = 0
                for number, day in enumerate(as_completed(loading), 1):
                    done += day.result()
                    if time.monotonic() - told > PROGRESS_SECONDS:
                        told = time.monotonic()
                        say(f"  {done:,} events of {number} of {DAYS} days after {told - began:.0f} s")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for title, statements in (("users", _USERS), ("ids", _LEDGER)):
            with connection.transaction():
                for statement in statements:
                    connection.execute(statement.encode())
            say(f"  {title} after {time.monotonic() - began:.0f} s")
        # As the consumer does within ten minutes of a day's end.
        with ThreadPoolExecutor(1) as thread:  # an event loop of its own, also where one is running
            thread.submit(lambda: asyncio.run(_fold(database_url, plan.days[-1] + timedelta(days=1)))).result()
        say(f"  counts added up after {time.monotonic() - began:.0f} s")
        connection.execute("vacuum (analyze)")
        connection.execute("checkpoint")
    return time.monotonic() - began


async def _fold(database_url: str, today: date) -> None:
    pool = open_pool(PostgresSettings(database_url=database_url), size=1, application="benchmark")
    async with pool, pool.acquire() as connection:
        await fold_days(connection, today, lock_seconds=5.0, work_seconds=60.0)


def load_day(database_url: str, plan: Plan, day: date, writers: int) -> int:
    """One day's partition with its events and rollups, in one transaction; how many events. The partition must not be there."""
    partition = sql.Identifier(f"events_{day:%Y%m%d}")
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)

    def composed(text: str, **values: object) -> sql.Composed:
        return sql.SQL(text).format(partition=partition, writers=sql.Literal(writers), **values)

    with _connected(database_url) as connection, connection.transaction(), connection.cursor() as cursor:
        cursor.execute(composed(_CREATE))
        columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
        with cursor.copy(composed(_COPY, columns=columns)) as copy:
            for piece in lines(plan, day):
                copy.write(piece)
        rows = cursor.rowcount
        for statement in _DAY:
            cursor.execute(composed(statement))
        # Last, as the others wait from here until the end of the transaction.
        bounds = {"start": sql.Literal(start.isoformat()), "end": sql.Literal((start + timedelta(days=1)).isoformat())}
        cursor.execute(composed(_ATTACH, **bounds))
    return rows


def _connected(database_url: str) -> psycopg.Connection[tuple[object, ...]]:
    connection = psycopg.connect(database_url, autocommit=True)
    connection.execute(_SESSION)
    return connection


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.analytics_load",
        description=f"Fill an empty database (made and migrated where it is missing) with generated events of {DAYS} days "
        "and their rollups. The same seed and first day give the same events.",
        epilog="Exit status: 0 loaded, 1 the database holds events or does not answer, 130 interrupted.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--database-url", default=os.environ.get("DATABASE_URL", PostgresSettings.model_fields["database_url"].default))
    add("--events", type=int, default=10_000_000, help=f"how many, at least {LEAST:,}")
    add("--first-day", type=date.fromisoformat, help=f"YYYY-MM-DD (UTC); {DAYS} days before today unless given")
    add("--seed", type=int, default=SEED, help="of the random numbers")
    add("--users", type=int, default=USERS, help="who may have events")
    add("--processes", type=int, default=PROCESSES, help="that make and load days at once")
    add("--writers", type=int, default=WRITERS, help="partitions that seem to have been consumed: slots of the rollups")
    options = parser.parse_args(arguments)
    if options.events < LEAST or options.users < 1 or min(options.processes, options.writers) < 1:
        parser.error(f"at least {LEAST:,} events, 1 user, 1 process and 1 writer")
    first_day = options.first_day or datetime.now(UTC).date() - timedelta(days=DAYS)
    plan = Plan(options.events, first_day, options.seed, options.users)
    try:
        create_database(options.database_url)
        upgrade(options.database_url)
        seconds = load(options.database_url, plan, _say, options.processes, options.writers)
    except (NotEmpty, psycopg.Error) as error:
        _say(f"{parser.prog}: {error}")
        return 1
    _say(f"{plan.events:,} events of {plan.days[0]} to {plan.days[-1]} in {seconds:.0f} s")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
