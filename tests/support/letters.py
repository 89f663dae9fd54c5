"""Dead letters for tests: made as the consumer makes them, put where it puts them, replayed as people do."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson

from event_consumer.dead_letter import DeadLetter, dead_letter, headers_text
from event_consumer.letters import shelf
from event_consumer.letters.desk import Desk
from event_consumer.letters.plan import ReplayOptions
from event_consumer.letters.replay import Outcome
from event_consumer.letters.selection import Selection
from event_consumer.settings import ConsumerSettings
from event_core.dead_letters import STAGE_REFUSED
from event_core.errors import UndecodableMessage
from event_core.kafka.topics import ensure_topics, platform_topics
from event_core.postgres import open_pool, opened
from event_core.settings import load
from event_core.source import FakeMessage
from tests.conftest import Platform
from tests.support.topics import Record, read_topic

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def canonical(event_id: str | None = None, **fields: object) -> bytes:
    body = {
        "event_id": event_id or str(uuid.uuid4()),
        "tenant_id": "default",
        "user_id": "u",
        "event_name": "e",
        "timestamp": "2026-01-01T00:00:00Z",
        "received_at": "2026-01-01T00:00:01Z",
        "metadata": {},
        "context": {},
        **fields,
    }
    return orjson.dumps(body)


def given_up(
    value: bytes | None = b"not json",
    *,
    topic: str = "events",
    offset: int = 0,
    key: bytes | None = b"u",
    headers: Sequence[tuple[str, bytes]] = (),
    reason: str = "not_json",
) -> DeadLetter:
    """A letter as the consumer makes it of a message."""
    message = FakeMessage(topic, 3, offset, value, key, 0, tuple(headers))
    return dead_letter(message, UndecodableMessage("bad", reason=reason))


def refused(value: bytes, *, topic: str = "events", headers: Sequence[tuple[str, bytes]] = ()) -> DeadLetter:
    """A letter as the consumer reads it from the door."""
    return DeadLetter(
        topic=topic,
        partition=None,
        offset=None,
        message_at=None,
        key=None,
        value=value,
        headers=headers_text(headers),
        reason="missing_field",
        error="user_id: Field required",
        source="ingestion_service",
        stage=STAGE_REFUSED,
        dead_letter_id=uuid.uuid4(),
        failed_at=AT,
        on_topic=True,
    )


def again(letter: uuid.UUID, value: bytes = b"not json", count: int = 1, offset: int = 7) -> DeadLetter:
    """What the consumer makes of a replay that failed."""
    return given_up(
        value,
        offset=offset,
        headers=[("event-id", b"1"), ("retry-count", b"%d" % count), ("dead-letter-id", str(letter).encode())],
        reason="refused_by_store",
    )


@contextlib.asynccontextmanager
async def pool_of(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with opened(open_pool(load(ConsumerSettings, database_url=database_url), size=4, application="test")) as pool:
        yield pool


async def put(pool: asyncpg.Pool, *letters: DeadLetter) -> list[bool]:
    async with pool.acquire() as connection, connection.transaction():
        return await shelf.set_aside(connection, letters)


async def settle(pool: asyncpg.Pool, *ids: uuid.UUID, event_id: uuid.UUID | None = None) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await shelf.resolve(connection, [(one, event_id or one) for one in ids])


async def rows_of(pool: asyncpg.Pool, what: str = "*") -> list[dict[str, Any]]:
    return [
        dict(row) for row in await pool.fetch(f"select {what} from dead_letters order by failed_at, dead_letter_id")
    ]


async def put_one(pool: asyncpg.Pool, letter: DeadLetter, **columns: object) -> uuid.UUID:
    """Puts one letter, sets columns of it, and returns its id."""
    before = {row["dead_letter_id"] for row in await rows_of(pool)}
    assert await put(pool, letter) == [True]
    [made] = {row["dead_letter_id"] for row in await rows_of(pool)} - before
    for name, value in columns.items():
        await pool.execute(f"update dead_letters set {name} = $1 where dead_letter_id = $2", value, made)
    return uuid.UUID(str(made))


def settings_of(platform: Platform, **more: str) -> ConsumerSettings:
    return load(ConsumerSettings, **{name.lower(): value for name, value in {**platform.settings, **more}.items()})


async def read(platform: Platform, least: int, topic: str | None = None) -> list[Record]:
    return await asyncio.to_thread(read_topic, platform, least, 60, topic or platform.dlq_topic)


async def replay(pool: asyncpg.Pool, settings: ConsumerSettings, *ids: uuid.UUID, **given: Any) -> Outcome:
    desk = Desk(pool, settings)
    names = set(Selection.__dataclass_fields__)
    selection = Selection(ids or None, **{name: value for name, value in given.items() if name in names})
    options = ReplayOptions(topics=desk.topics, **{name: value for name, value in given.items() if name not in names})
    return await desk.replay(selection, options)


async def states_of(pool: asyncpg.Pool) -> Counter[str]:
    return Counter(row["state"] for row in await rows_of(pool, "state, failed_at, dead_letter_id"))


@contextlib.asynccontextmanager
async def letters_at(platform: Platform, **more: str) -> AsyncIterator[tuple[asyncpg.Pool, ConsumerSettings]]:
    settings = settings_of(platform, **more)
    await ensure_topics(settings, platform_topics(settings))
    async with pool_of(platform.database_url) as pool:
        yield pool, settings
