"""Events as the oracles see them, how they get into the tables, and random ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg


class Event(NamedTuple):
    """One stored event."""

    timestamp: datetime
    """Aware, UTC."""
    user_id: str = "u"
    event_name: str = "e"
    tenant_id: str = "default"
    experiment_id: str | None = None
    variant: str | None = None
    source: str | None = None
    metadata: Mapping[str, Any] = MappingProxyType({})
    event_id: UUID = UUID(int=0)
    """0: a new one when it is stored."""


_TABLES = (
    "events, event_ids, event_counts_15m, event_counts_1h, user_days, first_seen, day_versions, first_seen_versions,"
    " dead_letters"
)
_INSERT = (
    'insert into events (event_id, user_id, event_name, "timestamp", received_at, tenant_id, experiment_id, variant, source,'
    " metadata) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)


def clear(connection: psycopg.Connection[Any]) -> None:
    """Nothing is stored any more."""
    connection.execute(f"truncate {_TABLES}")


def store_events(connection: psycopg.Connection[Any], events: Sequence[Event], *, slot: int = 1) -> list[UUID]:
    """Stores the events and feeds the rollups, as a consumer with ``slot`` does; their ids. The caller commits."""
    ids = [event.event_id if event.event_id.int else uuid4() for event in events]
    counts: dict[tuple[datetime, str, str], int] = {}
    days: dict[tuple[str, date, str], int] = {}
    first: dict[tuple[str, str], datetime] = {}
    for event in events:
        at = event.timestamp.astimezone(UTC)
        bucket = at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0)
        key = (bucket, event.tenant_id, event.event_name)
        counts[key] = counts.get(key, 0) + 1
        month = (event.tenant_id, at.date().replace(day=1), event.user_id)
        days[month] = days.get(month, 0) | 1 << (at.day - 1)
        user = (event.tenant_id, event.user_id)
        first[user] = min(first.get(user, at), at)
    with connection.cursor() as cursor:
        cursor.executemany(
            _INSERT,
            [
                (i, e.user_id, e.event_name, e.timestamp, e.timestamp, e.tenant_id, e.experiment_id, e.variant, e.source,
                 json.dumps(dict(e.metadata)))
                for i, e in zip(ids, events, strict=True)
            ],
        )  # fmt: skip
        cursor.executemany(
            "insert into event_ids (event_id, event_time) values (%s, %s)",
            [(i, e.timestamp) for i, e in zip(ids, events, strict=True)],
        )
        cursor.executemany(
            "insert into event_counts_15m as c values (%s, %s, %s, %s, %s)"
            " on conflict (bucket, tenant_id, event_name, slot) do update set events = c.events + excluded.events",
            [(*key, slot, number) for key, number in sorted(counts.items())],
        )
        cursor.executemany(
            "insert into user_days as d values (%s, %s, %s, %s)"
            " on conflict (tenant_id, month, user_id) do update set days = d.days | excluded.days",
            [(*key, bits) for key, bits in sorted(days.items())],
        )
        cursor.executemany(
            "insert into first_seen as f values (%s, %s, %s) on conflict (tenant_id, user_id)"
            " do update set first_seen_at = least(f.first_seen_at, excluded.first_seen_at)",
            [(*key, at) for key, at in sorted(first.items())],
        )
        cursor.executemany(
            "insert into day_versions as v values (%s, %s, 1) on conflict (day, slot) do update set version = v.version + 1",
            [(day, slot) for day in sorted({bucket.date() for bucket, _, _ in counts})],
        )
    return ids


def fold(connection: psycopg.Connection[Any], before: date) -> None:
    """Adds up the counts of the days before, as the consumer's upkeep does when they are over."""
    connection.execute(
        "with counted as (delete from event_counts_15m where bucket < %s and slot <> 0 returning *)"
        " insert into event_counts_15m as c select bucket, tenant_id, event_name, 0, sum(events) from counted group by 1, 2, 3"
        " on conflict (bucket, tenant_id, event_name, slot) do update set events = c.events + excluded.events",
        [datetime(before.year, before.month, before.day, tzinfo=UTC)],
    )
    connection.execute("delete from event_counts_1h")
    connection.execute(
        "insert into event_counts_1h select date_bin('1 hour', bucket, timestamptz '2000-01-01 00:00+00'), tenant_id, event_name,"
        " sum(events) from event_counts_15m where slot = 0 group by 1, 2, 3"
    )
