"""One suite for every store of the events pipeline: the fake that unit tests use, and Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

from event_consumer.batch import Batch, Item
from event_consumer.dead_letter import dead_letter
from event_consumer.events.rows import EventRow
from event_consumer.events.store import PostgresStore
from event_consumer.store import FenceLost, MemoryStore, Written
from event_core.errors import UndecodableMessage
from event_core.postgres import open_pool
from event_core.settings import PostgresSettings
from event_core.source import FakeMessage
from event_core.topics import TopicPartition

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Kept:
    """What a store holds, read past it."""

    def __init__(self, store: Any, database_url: str | None) -> None:
        self.store = store
        self._url = database_url

    def _rows(self, query: str) -> list[Any]:
        assert self._url is not None
        with psycopg.connect(self._url) as connection:
            return connection.execute(query).fetchall()

    def user_ids(self) -> dict[int, str]:
        """Event number -> user_id."""
        if self._url is None:
            return {key.int: row.user_id for key, row in self.store.rows.items()}
        return {key.int: user for key, user in self._rows("select event_id, user_id from events")}

    def dead_offsets(self) -> list[int]:
        if self._url is None:
            return sorted(letter.offset for letter in self.store.dead)
        return sorted(row[0] for row in self._rows('select "offset" from dead_letters'))


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    if request.param == "memory":
        yield Kept(MemoryStore[EventRow](), None)
        return
    url = request.getfixturevalue("database_url")
    settings = PostgresSettings(database_url=url)
    async with open_pool(settings, size=2, application="test") as pool:
        yield Kept(PostgresStore(pool, settings, "group"), url)


def row(number: int, user: str = "u") -> EventRow:
    return EventRow(UUID(int=number), user, "e", "{}", NOW, NOW, "default", "{}", None, None, None)


def batch(partition: TopicPartition, numbers: list[int], upto: int, *, dead: list[int] = [], user: str = "u") -> Any:  # noqa: B006  # read only
    made: Batch[EventRow] = Batch(1000, 1.0)
    items = [Item(row(n, user), FakeMessage(*partition, offset=n, value=b"{}")) for n in numbers]
    letters = [
        dead_letter(FakeMessage(*partition, offset=n, value=b"\xff"), UndecodableMessage("bad", reason="not_json"))
        for n in dead
    ]
    made.add(partition, items, letters, upto, now=0.0)
    return made


async def test_a_partition_never_seen_starts_at_0(kept: Kept) -> None:
    assert await kept.store.offsets([P0, P1]) == {P0: 0, P1: 0}
    assert await kept.store.offsets([P0]) == {P0: 0}


async def test_rows_dead_letters_and_offsets_are_written_together(kept: Kept) -> None:
    await kept.store.offsets([P0])
    written = await kept.store.write(batch(P0, [1, 2], 4, dead=[3]), {P0: 0})
    assert isinstance(written, Written)
    assert (written.stored, written.duplicates, [letter.offset for letter in written.dead]) == (2, 0, [3])
    assert kept.user_ids() == {1: "u", 2: "u"}
    assert kept.dead_offsets() == [3]
    assert await kept.store.offsets([P0]) == {P0: 4}


async def test_an_event_id_is_stored_once_within_a_batch_and_across_batches_and_the_first_wins(kept: Kept) -> None:
    await kept.store.offsets([P0, P1])
    first = await kept.store.write(batch(P0, [1, 1, 2], 3, user="first"), {P0: 0})
    second = await kept.store.write(batch(P1, [2, 3], 2, user="second"), {P1: 0})
    assert (first.stored, first.duplicates) == (2, 1)
    assert (second.stored, second.duplicates) == (1, 1)
    assert kept.user_ids() == {1: "first", 2: "first", 3: "second"}


async def test_an_offset_that_was_moved_by_another_fences_the_whole_batch_off(kept: Kept) -> None:
    await kept.store.offsets([P0, P1])
    assert isinstance(await kept.store.write(batch(P0, [1], 1), {P0: 0}), Written)
    both = batch(P1, [5], 6)
    both.add(P0, [Item(row(4), FakeMessage(*P0, offset=0, value=b"{}"))], [], 1, now=0.0)

    outcome = await kept.store.write(both, {P0: 0, P1: 0})

    assert outcome == FenceLost([P0])
    assert set(kept.user_ids()) == {1}
    assert await kept.store.offsets([P0, P1]) == {P0: 1, P1: 0}


async def test_writing_the_same_batch_again_changes_nothing(kept: Kept) -> None:
    await kept.store.offsets([P0])
    await kept.store.write(batch(P0, [1], 2, dead=[0]), {P0: 0})
    assert await kept.store.write(batch(P0, [1], 2, dead=[0]), {P0: 0}) == FenceLost([P0])
    assert kept.dead_offsets() == [0]


async def test_a_batch_of_dead_letters_alone_moves_the_offset(kept: Kept) -> None:
    await kept.store.offsets([P0])
    assert isinstance(await kept.store.write(batch(P0, [], 7, dead=[6]), {P0: 0}), Written)
    assert await kept.store.offsets([P0]) == {P0: 7}
