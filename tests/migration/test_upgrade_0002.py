"""A database at 0001 that is in use becomes one at 0002: nothing is lost, and what is counted of it is right."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pytest

from event_consumer.events.partitions import Maintenance
from event_consumer.settings import ConsumerSettings
from event_core.migrations import known_revisions
from event_core.postgres import open_pool
from tests.support.stored import expected, rollups
from tests.support.wait import count, query
from tools.migrate.__main__ import revision_of, upgrade
from tools.rebuild_rollups import rebuild

pytestmark = pytest.mark.integration

NOW = datetime(2024, 5, 10, 12, 30, tzinfo=UTC)

EVENTS = [
    # 3,000 events within two weeks around NOW, of 40 users and two tenants
    'insert into events (event_id, user_id, event_name, metadata, "timestamp", received_at, tenant_id)'
    " select gen_random_uuid(), 'u' || n % 40, 'e' || n % 7, jsonb_build_object('n', n), timestamptz '2024-05-03 00:00+00'"
    " + n * interval '397 seconds', '2024-05-10 12:00+00', case n % 3 when 0 then 'other' else 'default' end"
    " from generate_series(1, 3000) as n",
    # the ends of time, each column in use, and an event stored on another day than it happened
    'insert into events (event_id, user_id, event_name, "timestamp", processed_at, received_at, context, experiment_id, variant,'
    " source) values"
    " (gen_random_uuid(), 'ü', 'first', '0001-01-01 00:00:00.000001+00', '2024-05-09 23:59:59.999999+00', '2024-05-09 23:59+00',"
    "  '{\"a\": [1, null]}', 'x', 'b', 's'),"
    " (gen_random_uuid(), 'ü', 'last', '9999-12-31 23:59:59.999998+00', '2024-05-10 00:00+00', '2024-05-09 23:59+00', '{}', null,"
    "  null, null)",
]
REST = [
    "insert into consumer_offsets (consumer_group, topic, partition, next_offset) values"
    " ('event_consumer', 'events', 0, 1200), ('event_consumer', 'events', 1, 0), ('event_consumer', 'product_events', 0, 1900)",
    'insert into dead_letters (topic, partition, "offset", message_at, key, value, headers, reason, error, relayed_at) values'
    " ('events', 0, 17, '2024-05-01', 'k', '\\xff00', '[[\"a\", \"YQ==\"]]', 'not_json', 'bad', null),"
    " ('events', 0, 18, null, null, null, '[]', 'invalid_event', 'worse', '2024-05-02')",
]


def texts(url: str, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
    return query(url, f"select r::text from (select {columns} from {table} order by 1, 2, 3) r")


def columns_of(url: str, table: str) -> str:
    names = query(
        url, f"select attname from pg_attribute where attrelid = '{table}'::regclass and attnum > 0 order by attnum"
    )
    return ", ".join(f'"{name}"' for (name,) in names)


@pytest.fixture
def used(empty_database: str) -> str:
    """A database at 0001 with events, offsets and dead letters."""
    upgrade(empty_database, "0001_events")
    with psycopg.connect(empty_database) as connection:
        for statement in [*EVENTS, *REST]:
            connection.execute(statement)
    return empty_database


def test_every_event_is_there_as_it_was_and_known_by_its_id(used: str) -> None:
    columns = columns_of(used, "events")
    before = texts(used, "events", columns)
    upgrade(used)
    assert revision_of(used) == known_revisions()[-1]
    assert len(before) == 3_002
    assert texts(used, "events", columns) == before
    ledger = query(used, "select event_id, event_time::text, ingested_on from event_ids order by event_id")
    assert ledger == query(
        used,
        "select event_id, \"timestamp\"::text, (processed_at at time zone 'UTC')::date from events order by event_id",
    )
    assert query(used, "select ingested_on from event_ids where event_time < '0002-01-01'") == [(date(2024, 5, 9),)]


def test_what_is_counted_of_them_is_right(used: str) -> None:
    upgrade(used)
    assert rollups(used) == expected(used)
    assert texts(used, "first_seen") == query(
        used,
        'select r::text from (select tenant_id, user_id, min("timestamp") from events group by 1, 2 order by 1, 2) r',
    )
    days = query(used, "select day::text, slot, version from day_versions order by 1")
    assert days == query(
        used, "select distinct (\"timestamp\" at time zone 'UTC')::date::text, 0, 1::bigint from events order by 1"
    )


def test_offsets_and_dead_letters_go_on_where_they_were(used: str) -> None:
    offsets, letters = texts(used, "consumer_offsets"), texts(used, "dead_letters")
    columns = {table: columns_of(used, table) for table in ("consumer_offsets", "dead_letters")}
    upgrade(used)
    assert texts(used, "consumer_offsets", columns["consumer_offsets"]) == offsets
    assert texts(used, "dead_letters", columns["dead_letters"]) == letters
    assert len(set(query(used, "select slot from consumer_offsets"))) == 3
    unbalanced = "select 1 from consumer_offsets where consumed - stored - duplicates - dead_letters - skipped <> 0"
    assert query(used, unbalanced) == [], "the reconciler starts at 0"
    assert query(used, "select distinct state, source, stub from dead_letters") == [("open", "event_consumer", False)]


def test_nothing_of_the_old_table_is_left(used: str) -> None:
    upgrade(used)
    assert query(used, "select relname from pg_class where relname like '%0001%'") == []
    assert query(used, "select conname from pg_constraint where conname like '%0001%'") == []


async def test_an_upgraded_database_gets_its_partitions_and_its_rollups_need_no_rebuilding(used: str) -> None:
    upgrade(used)
    before = texts(used, "events")
    settings = ConsumerSettings(database_url=used)
    async with open_pool(settings, size=2, application="test") as pool:
        assert await Maintenance(pool, settings, clock=lambda: NOW).once()
    assert texts(used, "events") == before
    assert count(used, "events_20240510") > 0
    assert not (await rebuild(settings, None, None, dry_run=True)).any
