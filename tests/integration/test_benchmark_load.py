"""What the analytics benchmark loads is what a consumer would have left."""

from __future__ import annotations

from datetime import date

import psycopg
import pytest

from event_core.settings import PostgresSettings
from tests.benchmarks.analytics_events import DAYS, Plan
from tests.benchmarks.analytics_load import NotEmpty, load
from tools.rebuild_rollups import rebuild

PLAN = Plan(events=3_000, first_day=date(2026, 9, 15), users=500)
_COUNTS = """
    select (select count(*) from events), (select count(*) from only events_default),
           (select count(distinct event_id) from event_ids),
           (select sum(events) from event_counts_15m), (select count(distinct slot) from event_counts_15m),
           (select count(distinct day) from day_versions),
           (select count(*) from event_ids join events on (event_time, event_ids.event_id) = ("timestamp", events.event_id))
"""


def quiet(_: str) -> None:
    """No progress."""


async def test_events_rollups_and_ledger_agree_and_nothing_is_loaded_twice(database_url: str) -> None:
    load(database_url, PLAN, quiet, writers=3)
    with psycopg.connect(database_url) as connection:
        counts = connection.execute(_COUNTS).fetchone()
    assert counts == (PLAN.events, 0, PLAN.events, PLAN.events, 1, DAYS, PLAN.events)
    differences = await rebuild(PostgresSettings(database_url=database_url), None, None, dry_run=True)
    assert not differences.any
    with pytest.raises(NotEmpty):
        load(database_url, PLAN, quiet)
