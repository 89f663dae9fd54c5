"""One suite for every store of the events pipeline: the fake that unit tests use, and Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from event_consumer.batch import Batch
from event_consumer.dead_letter import DeadLetter, dead_letter
from event_consumer.events.rows import EventRow
from event_consumer.events.store import PostgresStore
from event_consumer.gaps import Position, mark
from event_consumer.store import FenceLost, MemoryStore, Written
from event_core.errors import UndecodableMessage
from event_core.postgres import instants_as_integers, open_pool
from event_core.settings import PostgresSettings
from event_core.source import FakeMessage, Log, Logs
from event_core.topics import TopicPartition
from tests.support.rows import AT, P0, P1, batch, row

EMPTY = Log(0, 0)


class Kept:
    """What a store holds, read past it."""

    def __init__(self, store: Any, database_url: str | None) -> None:
        self.store = store
        self._url = database_url

    def _rows(self, query: str) -> list[Any]:
        assert self._url is not None
        with psycopg.connect(self._url) as connection:
            return connection.execute(query).fetchall()

    async def offsets(self, *partitions: TopicPartition) -> dict[TopicPartition, int]:
        """Where the store says to read on, of logs that begin at 0."""
        positions = await self.store.positions(Logs("cluster", dict.fromkeys(partitions, EMPTY)))
        return {partition: position.next_offset for partition, position in positions.items()}

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
    async with open_pool(settings, size=2, application="test", init=instants_as_integers) as pool:
        yield Kept(PostgresStore(pool, settings, "group"), url)


def numbered(numbers: Sequence[int], start: int = 0, partition: TopicPartition = P0, dead: int = 0) -> Batch[EventRow]:
    """The events of these numbers from the offset ``start`` on, and ``dead`` bad messages after them."""
    first = start + len(numbers)
    return batch(
        [row(n) for n in numbers], start, partition=partition, dead=letters(range(first, first + dead), partition)
    )


def letters(offsets: Sequence[int], partition: TopicPartition = P0) -> list[DeadLetter]:
    bad = UndecodableMessage("bad", reason="not_json")
    return [dead_letter(FakeMessage(*partition, offset=n, value=b"\xff"), bad) for n in offsets]


async def test_a_partition_never_seen_starts_where_its_log_begins_and_stays_there(kept: Kept) -> None:
    positions = await kept.store.positions(Logs("cluster", {P0: Log(0, 5), P1: Log(7, 9)}))
    assert positions[P0][:1] + positions[P1][:1] == (0, 7)
    assert {position.cluster_id for position in positions.values()} == {"cluster"}
    assert {position.last_mark for position in positions.values()} == {None}
    later = await kept.store.positions(Logs("another", {P1: Log(9, 9)}))
    assert (later[P1].next_offset, later[P1].cluster_id) == (7, "cluster")
    assert later.keys() == {P1}


async def test_rows_dead_letters_and_offsets_are_written_together(kept: Kept) -> None:
    await kept.offsets(P0)
    written = await kept.store.write(numbered([1, 2], dead=1), {P0: 0})
    assert isinstance(written, Written)
    assert (written.stored, written.duplicates, [letter.offset for letter in written.dead]) == (2, 0, [2])
    assert kept.user_ids() == {1: "u", 2: "u"}
    assert kept.dead_offsets() == [2]
    assert await kept.offsets(P0) == {P0: 3}


async def test_it_remembers_by_what_the_last_record_is_known_again(kept: Kept) -> None:
    await kept.offsets(P0)
    made: Batch[EventRow] = Batch(10, 1.0)
    last = FakeMessage(*P0, 8, b"value", b"key", timestamp=1_769_860_800_123)
    made.add(P0, [FakeMessage(*P0, 7, b"x"), last], [], letters([7, 8]), 0.0)
    assert isinstance(await kept.store.write(made, {P0: 0}), Written)
    position: Position = (await kept.store.positions(Logs("cluster", {P0: EMPTY})))[P0]
    assert (position.next_offset, position.cluster_id, position.last_mark) == (9, "cluster", mark(last))


async def test_an_event_id_is_stored_once_within_a_batch_and_across_batches(kept: Kept) -> None:
    await kept.offsets(P0, P1)
    first = await kept.store.write(numbered([1, 1, 2]), {P0: 0})
    second = await kept.store.write(numbered([2, 3], partition=P1), {P1: 0})
    assert (first.stored, first.duplicates) == (2, 1)
    assert (second.stored, second.duplicates) == (1, 1)
    assert kept.user_ids() == {1: "u", 2: "u", 3: "u"}
    assert kept.dead_offsets() == []


async def test_the_first_of_several_that_share_an_id_stays(kept: Kept) -> None:
    await kept.offsets(P0)
    await kept.store.write(batch([row(1, user_id="first"), row(1, user_id="second")]), {P0: 0})
    third = row(1, user_id="third", timestamp=AT + timedelta(days=40))
    await kept.store.write(batch([third], 2), {P0: 2})
    assert kept.user_ids() == {1: "first"}
    assert await kept.offsets(P0) == {P0: 3}


async def test_an_offset_that_was_moved_by_another_fences_the_whole_batch_off(kept: Kept) -> None:
    await kept.offsets(P0, P1)
    assert isinstance(await kept.store.write(numbered([1]), {P0: 0}), Written)
    both = batch([row(4)], into=numbered([5], partition=P1, dead=1))

    outcome = await kept.store.write(both, {P0: 0, P1: 0})

    assert outcome == FenceLost([P0])
    assert set(kept.user_ids()) == {1}
    assert kept.dead_offsets() == []
    assert await kept.offsets(P0, P1) == {P0: 1, P1: 0}


@pytest.mark.parametrize("believed", [0, 2, 3, 100])
async def test_a_batch_that_builds_on_another_offset_than_the_stored_one_is_fenced_off(
    kept: Kept, believed: int
) -> None:
    await kept.offsets(P0)
    await kept.store.write(numbered([1]), {P0: 0})
    assert await kept.store.write(numbered([2], believed), {P0: believed}) == FenceLost([P0])
    assert set(kept.user_ids()) == {1}
    assert await kept.offsets(P0) == {P0: 1}


async def test_writing_the_same_batch_again_changes_nothing(kept: Kept) -> None:
    await kept.offsets(P0)
    await kept.store.write(numbered([1], dead=1), {P0: 0})
    assert await kept.store.write(numbered([1], dead=1), {P0: 0}) == FenceLost([P0])
    assert kept.dead_offsets() == [1]


async def test_a_batch_of_dead_letters_alone_moves_the_offset(kept: Kept) -> None:
    await kept.offsets(P0)
    assert isinstance(await kept.store.write(numbered([], 6, dead=1), {P0: 0}), Written)
    assert await kept.offsets(P0) == {P0: 7}
