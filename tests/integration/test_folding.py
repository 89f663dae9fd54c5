"""Counts of days that are over end up in one row for each quarter and name; no number changes by it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from event_consumer.events.locks import ROLLUP_LOCK
from event_consumer.events.partitions import Maintenance
from event_consumer.settings import ConsumerSettings
from event_core.postgres import open_pool
from tests.oracles.events import Event, store_events
from tests.support.stored import expected, hours_are_right, rollups
from tests.support.wait import query

pytestmark = pytest.mark.integration

NOW = datetime(2024, 5, 10, 0, 20, tzinfo=UTC)
TODAY = NOW.date()


def put(url: str, slot: int, *ats: datetime) -> None:
    with psycopg.connect(url) as connection:
        store_events(connection, [Event(at, f"u{at.minute % 3}", "ab"[at.minute % 2]) for at in ats], slot=slot)


async def turn(url: str, lock_seconds: float = 2.0) -> bool:
    settings = ConsumerSettings(database_url=url)
    async with open_pool(settings, size=2, application="test") as pool:
        return await Maintenance(pool, settings, clock=lambda: NOW, lock_seconds=lock_seconds).once()


def slots(url: str) -> dict[date, list[int]]:
    rows = query(
        url,
        "select (bucket at time zone 'UTC')::date, array_agg(distinct slot order by slot) from event_counts_15m group by 1",
    )
    return dict(rows)


def versions(url: str) -> list[tuple[Any, ...]]:
    return query(url, "select day, slot, version from day_versions order by 1, 2")


async def test_days_that_are_over_are_added_up_and_today_is_left_alone(database_url: str) -> None:
    minutes = [NOW - timedelta(minutes=7 * n) for n in range(400)]
    for slot in (1, 2, 3):
        put(database_url, slot, *minutes[slot::3])
    before, known = rollups(database_url), versions(database_url)
    assert await turn(database_url)
    assert rollups(database_url) == before == expected(database_url)
    assert versions(database_url) == known, "no answer has changed"
    assert hours_are_right(database_url)
    folded = slots(database_url)
    assert folded.pop(TODAY) == [1, 2]
    assert len(folded) == 2
    assert set(map(tuple, folded.values())) == {(0,)}

    put(database_url, 2, NOW - timedelta(days=1))  # comes late
    assert slots(database_url)[TODAY - timedelta(days=1)] == [0, 2]
    assert await turn(database_url)
    assert slots(database_url)[TODAY - timedelta(days=1)] == [0]
    assert rollups(database_url) == expected(database_url)
    assert hours_are_right(database_url)


async def test_a_writer_that_holds_its_lock_is_not_waited_for_long(database_url: str) -> None:
    put(database_url, 1, NOW - timedelta(days=1))
    with psycopg.connect(database_url) as writer:
        writer.execute("select pg_advisory_xact_lock_shared(%s)", [ROLLUP_LOCK])
        assert not await turn(database_url, lock_seconds=0.2)
        assert slots(database_url) == {TODAY - timedelta(days=1): [1]}
    assert await turn(database_url)
    assert slots(database_url) == {TODAY - timedelta(days=1): [0]}


async def test_the_ends_of_time_are_days_too(database_url: str) -> None:
    put(database_url, 1, datetime(1, 1, 1, 5, tzinfo=UTC), datetime(9999, 12, 31, 5, tzinfo=UTC))
    assert await turn(database_url)
    assert slots(database_url) == {date(1, 1, 1): [0], date(9999, 12, 31): [1]}
