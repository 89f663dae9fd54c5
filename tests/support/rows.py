"""Rows, batches and a store of the events pipeline, for tests that write to a real Postgres without Kafka."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg

from event_consumer.batch import Batch, Item
from event_consumer.dead_letter import DeadLetter
from event_consumer.events.rows import EventRow
from event_consumer.events.store import PostgresStore
from event_core.instants import to_micros
from event_core.postgres import instants_as_integers, open_pool
from event_core.settings import PostgresSettings
from event_core.source import FakeMessage, Log, Logs
from event_core.topics import TopicPartition

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)
AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
RECEIVED = datetime(2026, 1, 1, 12, 0, 1, tzinfo=UTC)
PLAIN = EventRow(
    event_id=UUID(int=1),
    user_id="u",
    event_name="e",
    metadata='{"a": 1}',
    timestamp=to_micros(AT),
    received_at=to_micros(RECEIVED),
    tenant_id="default",
    context="{}",
    experiment_id=None,
    variant=None,
    source=None,
)


def row(number: int, **changes: Any) -> EventRow:
    """The event with the id ``number``; times may be given as datetimes."""
    for name in ("timestamp", "received_at"):
        if isinstance(changes.get(name), datetime):
            changes[name] = to_micros(changes[name])
    return PLAIN._replace(event_id=UUID(int=number), **changes)


def batch(
    rows: Sequence[EventRow],
    start: int = 0,
    *,
    partition: TopicPartition = P0,
    dead: Sequence[DeadLetter] = (),
    headers: tuple[tuple[str, bytes], ...] = (),
    into: Batch[EventRow] | None = None,
) -> Batch[EventRow]:
    """``rows``, each of one message of ``partition`` from the offset ``start`` on, and then the messages of ``dead``."""
    made = Batch[EventRow](50_000, 1.0) if into is None else into
    messages = [FakeMessage(*partition, start + n, b"%d" % n, headers=headers) for n in range(len(rows) + len(dead))]
    items = [Item(each, message) for each, message in zip(rows, messages, strict=False)]
    made.add(partition, messages, items, list(dead), 0.0)
    return made


@contextlib.asynccontextmanager
async def open_store(
    url: str, *, group: str = "group", partitions: Iterable[TopicPartition] = (P0, P1), **server_settings: str
) -> AsyncIterator[PostgresStore]:
    """A store as a consumer has it, its partitions positioned."""
    settings = PostgresSettings(database_url=url)
    pool = open_pool(settings, size=4, application="test", init=instants_as_integers, server_settings=server_settings)
    async with pool:
        store = PostgresStore(pool, settings, group)
        await store.positions(Logs("cluster", {partition: Log(0, 10**9) for partition in partitions}))
        yield store


def execute(url: str, *statements: str) -> None:
    """Runs the statements in one transaction."""
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)
