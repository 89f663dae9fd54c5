"""Events put into the tables by plain SQL, and an oracle that says whether the rollups agree with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg

_INSERT = (
    'insert into events (event_id, user_id, event_name, "timestamp", received_at, tenant_id, metadata)'
    " values (%s, %s, %s, %s, %s, %s, '{\"a\": 1}')"
)


class Sent(NamedTuple):
    """One event as it is put into the table."""

    timestamp: datetime
    user_id: str = "u"
    event_name: str = "e"
    tenant_id: str = "default"


def insert(connection: psycopg.Connection[Any], events: Iterable[Sent], *, ledger: bool = True) -> list[UUID]:
    """Stores the events, without any rollup; their new ids."""
    rows = [(uuid4(), *event) for event in events]
    with connection.cursor() as cursor:
        cursor.executemany(_INSERT, [(i, user, name, at, at, tenant) for i, at, user, name, tenant in rows])
        if ledger:
            cursor.executemany(
                "insert into event_ids (event_id, event_time) values (%s, %s)", [(row[0], row[1]) for row in rows]
            )
    return [row[0] for row in rows]


def feed(connection: psycopg.Connection[Any], events: Sequence[Sent], *, slot: int) -> None:
    """Adds the events to the rollups as a consumer does, one by one."""
    for at, user, name, tenant in events:
        connection.execute(
            "insert into event_counts_15m as c values (%s, %s, %s, %s, 1)"
            " on conflict (bucket, tenant_id, event_name, slot) do update set events = c.events + 1",
            (quarter(at), tenant, name, slot),
        )
        connection.execute(
            "insert into user_days as d values (%s, %s, %s, %s)"
            " on conflict (tenant_id, month, user_id) do update set days = d.days | excluded.days",
            (tenant, at.date().replace(day=1), user, 1 << (at.day - 1)),
        )
        connection.execute(
            "insert into first_seen as f values (%s, %s, %s) on conflict (tenant_id, user_id)"
            " do update set first_seen_at = least(f.first_seen_at, excluded.first_seen_at)",
            (tenant, user, at),
        )
        connection.execute(
            "insert into day_versions as v values (%s, %s, 1) on conflict (day, slot) do update set version = v.version + 1",
            (at.date(), slot),
        )


def store(url: str, events: Sequence[Sent], *, slot: int = 7) -> list[UUID]:
    """Stores the events and feeds the rollups, in one transaction."""
    with psycopg.connect(url) as connection:
        connection.execute("set timezone to 'UTC'")
        made = insert(connection, events)
        feed(connection, events, slot=slot)
        return made


def quarter(at: datetime) -> datetime:
    """The quarter of an hour that ``at`` lies in."""
    return at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0)


class Rollups(NamedTuple):
    """What two of the rollups say; counts summed over slots, rows that say nothing left out."""

    counts: dict[tuple[datetime, str, str], int]
    user_days: dict[tuple[str, date, str], int]


def rollups(url: str) -> Rollups:
    """What the tables say. The hours must agree with the quarters at any time."""
    assert hours_are_right(url)
    with psycopg.connect(url) as connection:
        connection.execute("set timezone to 'UTC'")
        counts: Counter[tuple[datetime, str, str]] = Counter()
        for bucket, tenant, name, number in connection.execute(
            "select bucket, tenant_id, event_name, events from event_counts_15m"
        ):
            counts[bucket, tenant, name] += number
        days = {
            (tenant, month, user): bits
            for tenant, month, user, bits in connection.execute("select tenant_id, month, user_id, days from user_days")
        }
    return Rollups({key: number for key, number in counts.items() if number}, days)


def hours_are_right(url: str) -> bool:
    """Whether the hours are the sum of what is folded."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select 1 from (select date_bin('1 hour', bucket, timestamptz '2000-01-01 00:00+00') as bucket, tenant_id,"
            " event_name, sum(events) as events from event_counts_15m where slot = 0 group by 1, 2, 3) as added"
            " full join event_counts_1h as hours using (bucket, tenant_id, event_name)"
            " where added.events is distinct from hours.events"
        ).fetchall()
    return not rows


def expected(url: str) -> Rollups:
    """What they ought to say, counted from the events one by one."""
    counts: Counter[tuple[datetime, str, str]] = Counter()
    days: Counter[tuple[str, date, str]] = Counter()
    with psycopg.connect(url) as connection:
        connection.execute("set timezone to 'UTC'")
        for at, user, name, tenant in connection.execute(
            'select "timestamp", user_id, event_name, tenant_id from events'
        ):
            counts[quarter(at), tenant, name] += 1
            days[tenant, at.date().replace(day=1), user] |= 1 << (at.day - 1)
    return Rollups(dict(counts), dict(days))


def at(day: date, hour: int = 12, minute: int = 0) -> datetime:
    """A moment of ``day`` in UTC."""
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)
