"""A ledger grown large for the consumer to begin with, and the check of what is stored at the end."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
from psycopg import sql

from tests.benchmarks.preload import Preloaded
from tests.benchmarks.servers import TEMPLATE, Round, Servers

LEDGER = "bench_ledger"
"""The database whose copies begin with a large ledger."""
CHUNK = 1_000_000
LONGEST_SECONDS = 900.0

_DATABASE = sql.SQL("create database {} template {}").format(sql.Identifier(LEDGER), sql.Identifier(TEMPLATE))
# A chunk in the order of the ids goes through the index once, which is several times faster. The pages end as full as those of
# an index that was filled one by one.
_FILL = """
    insert into event_ids (event_id, event_time, ingested_on)
    select event_id, current_date - %(days)s + interval '12 hours', current_date - %(days)s
    from (select gen_random_uuid() as event_id from generate_series(1, %(rows)s) order by 1) as made
"""
_COUNTS = """
    select
        (select count(*) from events),
        (select count(distinct event_id) from events),
        (select count(*) from event_ids),
        (select coalesce(sum(events), 0)::bigint from event_counts_15m),
        (select count(*) from dead_letters)
"""
_OFFSETS = """
    select
        coalesce(sum(consumed), 0)::bigint,
        coalesce(sum(stored), 0)::bigint,
        coalesce(sum(duplicates), 0)::bigint,
        coalesce(sum(dead_letters), 0)::bigint
    from consumer_offsets where consumer_group = %s and topic = %s
"""


def fill_ledger(servers: Servers, rows: int, say: Callable[[str], None]) -> None:
    """Makes ``LEDGER`` with ``rows`` random ids of earlier days.

    Raises:
        RuntimeError: it takes longer than ``LONGEST_SECONDS``.
    """
    with psycopg.connect(f"{servers.backend.postgres}/postgres", autocommit=True) as connection:
        connection.execute(_DATABASE)
    began, filled = time.monotonic(), 0
    with psycopg.connect(f"{servers.backend.postgres}/{LEDGER}", autocommit=True) as connection:
        connection.execute("set synchronous_commit to off")
        connection.execute("set work_mem to '256MB'")
        while filled < rows:
            number = min(CHUNK, rows - filled)
            connection.execute(_FILL, {"rows": number, "days": 1 + (rows - filled - number) // CHUNK})
            filled += number
            say(f"consumer: {filled:,} of {rows:,} ids in the ledger after {time.monotonic() - began:.0f} s")
            if time.monotonic() - began > LONGEST_SECONDS:
                raise RuntimeError(f"the ledger got {filled:,} ids within {LONGEST_SECONDS:g} s")
        connection.execute("vacuum (analyze) event_ids")
        connection.execute("checkpoint")


def check(own: Round, preloaded: Preloaded, ledger: int) -> None:
    """Every event stored once and counted once, every other record accounted for; ``ledger`` ids were there before.

    Raises:
        RuntimeError: which number is wrong.
    """
    with psycopg.connect(own.database_url, autocommit=True) as connection:
        counts = connection.execute(_COUNTS).fetchone()
        offsets = connection.execute(_OFFSETS, [own.group, own.topic]).fetchone()
    assert counts is not None
    assert offsets is not None
    duplicates = preloaded.records - preloaded.distinct - preloaded.dead
    expected = {
        "rows of events": (counts[0], preloaded.distinct),
        "distinct ids of events": (counts[1], preloaded.distinct),
        "new rows of event_ids": (counts[2] - ledger, preloaded.distinct),
        "the sum of event_counts_15m": (counts[3], preloaded.distinct),
        "dead letters": (counts[4], preloaded.dead),
        "consumed by consumer_offsets": (offsets[0], preloaded.records),
        "stored by consumer_offsets": (offsets[1], preloaded.distinct),
        "duplicates by consumer_offsets": (offsets[2], duplicates),
        "dead letters by consumer_offsets": (offsets[3], preloaded.dead),
    }
    wrong = [f"{what}: {found:,}, not {wanted:,}" for what, (found, wanted) in expected.items() if found != wanted]
    if wrong:
        raise RuntimeError("; ".join(wrong))
