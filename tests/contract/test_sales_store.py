"""One suite for the sales' store on every collection: the fake that unit tests use, and a real server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pymongo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Counter

from event_consumer.batch import Batch
from event_consumer.breaker import Breaker
from event_consumer.gaps import GapKind, check
from event_consumer.sales.collection import INDEXES, Collection, Document, MemoryCollection, MongoCollection
from event_consumer.sales.letters import MemoryLetters
from event_consumer.sales.rows import SaleRow
from event_consumer.sales.settings import SalesSettings
from event_consumer.sales.store import SalesStore
from event_consumer.store import Written
from event_core.errors import BrokerUnavailable, ConfigurationError, DatabaseUnavailable, DeadLetterFlood
from event_core.settings import load
from event_core.source import Log, Logs, MemorySource
from event_core.topics import TopicPartition
from tests.support.sales import P0, P1, batch, encoded


class Kept:
    """A store, and what it holds, read past it."""

    def __init__(self, collection: Collection, url: str | None, name: str) -> None:
        self.collection = collection
        self.letters = MemoryLetters()
        self.source = MemorySource([P0, P1])
        self.store = SalesStore(collection, self.letters, self.source, Breaker(0.5))
        self.url = url
        self.name = name

    async def write(self, written: Batch[SaleRow]) -> tuple[int, int, list[str]]:
        """(stored, duplicates, reasons of the letters)."""
        outcome = await self.store.write(written, {})
        assert isinstance(outcome, Written)
        return outcome.stored, outcome.duplicates, [letter.reason for letter in outcome.dead]

    def documents(self) -> dict[str, Document]:
        if self.url is None:
            assert isinstance(self.collection, MemoryCollection)
            return self.collection.documents
        with pymongo.MongoClient[dict[str, Any]](self.url) as client:
            return {document["_id"]: document for document in client.get_database("sales_db")[self.name].find()}


@pytest.fixture(params=["memory", pytest.param("mongodb", marks=pytest.mark.integration)])
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    name = f"raw_sales_{uuid.uuid4().hex[:8]}"
    if request.param == "memory":
        yield Kept(MemoryCollection(), None, name)
        return
    url = request.getfixturevalue("mongo").url
    collection = MongoCollection(
        load(SalesSettings, mongodb_url=url, mongodb_collection=name), Counter("writes", "x", ["status"], registry=None)
    )
    try:
        yield Kept(collection, url, name)
    finally:
        await collection.close()


async def test_a_sale_is_stored_as_it_was_sent(kept: Kept) -> None:
    assert await kept.write(batch([encoded()], at=1705320600.123)) == (1, 0, [])
    assert kept.documents() == {
        "event-001": {
            "_id": "event-001",
            "sku": "SKU-ABC-123",
            "qty": 5,
            "price": 29.99,
            "ts": "2024-01-15T10:30:00Z",
            "event_id": "event-001",
            "processed_at": 1705320600.123,
        }
    }


async def test_the_same_sale_again_is_a_duplicate_within_a_batch_and_across_batches(kept: Kept) -> None:
    one, two = encoded(event_id="1"), encoded(event_id="2")
    assert await kept.write(batch([one, one, two])) == (2, 1, [])
    assert await kept.write(batch([two, one, two], start=3, at=2.0)) == (0, 3, [])
    assert {one: document["processed_at"] for one, document in kept.documents().items()} == {"1": 1.5, "2": 1.5}


async def test_identical_sales_without_an_id_merge_and_are_counted(kept: Kept) -> None:
    anonymous = encoded(event_id=None)
    assert await kept.write(batch([anonymous, anonymous])) == (1, 1, [])
    assert await kept.write(batch([anonymous], start=2, at=2.0)) == (0, 1, [])
    assert len(kept.documents()) == 1


@pytest.mark.parametrize("change", [{"sku": "x"}, {"qty": 6}, {"price": 30.0}, {"ts": "2024-01-15T10:30:01Z"}], ids=str)
async def test_the_same_id_with_other_content_is_a_conflict_and_the_first_stays(
    kept: Kept, change: Mapping[str, Any]
) -> None:
    other = encoded(**change)
    assert await kept.write(batch([encoded(), other, encoded()])) == (1, 1, ["conflict"])
    assert await kept.write(batch([other, other], start=3, at=2.0)) == (0, 0, ["conflict", "conflict"])
    [document] = kept.documents().values()
    assert (document["qty"], document["price"], document["processed_at"]) == (5, 29.99, 1.5)
    letters = list(kept.letters.kept.values())
    assert [(letter.offset, letter.value) for letter in letters] == [(1, other), (3, other), (4, other)]


async def test_a_conflict_is_told_from_a_duplicate_whichever_comes_first_in_the_batch(kept: Kept) -> None:
    await kept.write(batch([encoded()]))
    assert await kept.write(batch([encoded(qty=6), encoded(), encoded(qty=6)], start=1, at=2.0)) == (
        0,
        1,
        ["conflict", "conflict"],
    )


async def test_the_same_batch_again_changes_nothing(kept: Kept) -> None:
    """The answer to a write, or the commit after it, was lost, and the process with it."""
    sales = [encoded(event_id=str(n)) for n in range(50)]
    await kept.write(batch(sales))
    before = kept.documents()
    assert await kept.write(batch(sales, at=2.0)) == (0, 50, [])
    assert kept.documents() == before


async def positions(kept: Kept, logs: dict[TopicPartition, Log]) -> dict[TopicPartition, int]:
    found = await kept.store.positions(Logs("cluster", logs))
    return {partition: position.next_offset for partition, position in found.items()}


async def test_it_reads_on_where_kafka_was_told(kept: Kept) -> None:
    kept.source.told = {P0: 8}
    assert await positions(kept, {P0: Log(2, 20), P1: Log(3, 20)}) == {P0: 8, P1: 3}


async def test_what_is_deleted_unread_since_the_first_start_is_a_gap(kept: Kept) -> None:
    assert await positions(kept, {P0: Log(0, 100)}) == {P0: 0}
    [position] = (await kept.store.positions(Logs("cluster", {P0: Log(60, 100)}))).values()
    gap = check(position, Log(60, 100), "cluster")
    assert gap is not None
    assert gap.kind is GapKind.EXPIRED


async def test_a_batch_is_not_written_while_its_letters_are_not_kept(kept: Kept) -> None:
    written = batch([encoded(), encoded(qty=6)])
    kept.letters.outage = BrokerUnavailable("Kafka is away")
    with pytest.raises(BrokerUnavailable):
        await kept.write(written)
    kept.letters.outage = None
    assert await kept.write(written) == (1, 0, ["conflict"])  # stored by the first attempt, and counted once
    assert len(kept.letters.kept) == 1


async def test_the_indexes_are_made_once_and_for_all(kept: Kept) -> None:
    await kept.collection.prepare()
    await kept.collection.prepare()
    if kept.url is None:
        return
    with pymongo.MongoClient[dict[str, Any]](kept.url) as client:
        made = client.get_database("sales_db")[kept.name].index_information()
    assert made["event_id_1"]["key"] == [("event_id", 1)]
    assert made["event_id_1"]["unique"]
    assert made["sku_1_ts_1"]["key"] == [("sku", 1), ("ts", 1)]
    assert len(made) == 1 + len(INDEXES)


async def test_somebody_elses_document_in_the_way_is_told_from_a_sale(kept: Kept) -> None:
    """One whose _id is ours but whose event_id is not: nothing to compare with."""
    if kept.url is None:
        return
    with pymongo.MongoClient[dict[str, Any]](kept.url) as client:
        client.get_database("sales_db")[kept.name].insert_one({"_id": "event-001", "event_id": "other"})
    assert await kept.write(batch([encoded(), encoded(event_id="2")])) == (1, 0, ["refused_by_store"])


async def test_large_batches_and_their_conflicts(kept: Kept) -> None:
    sales = [encoded(event_id=str(n)) for n in range(5_000)]
    await kept.write(batch(sales[::2]))
    changed = [encoded(event_id=str(n), qty=9) if n % 100 == 0 else sales[n] for n in range(5_000)]
    assert await kept.write(batch(changed, start=2_500, at=2.0)) == (2_500, 2_450, ["conflict"] * 50)
    assert len(kept.documents()) == 5_000


class TestMemoryOnly:
    """Faults that no server makes when told to."""

    def kept(self) -> tuple[Kept, MemoryCollection]:
        collection = MemoryCollection()
        return Kept(collection, None, ""), collection

    async def test_a_lost_answer_counts_nothing_twice(self) -> None:
        kept, collection = self.kept()
        written = batch([encoded(event_id=str(n)) for n in range(3)])
        collection.lose_answers = 1
        with pytest.raises(DatabaseUnavailable):
            await kept.write(written)
        assert await kept.write(written) == (3, 0, [])

    async def test_a_document_that_mongodb_refuses_is_set_aside_after_its_retries_and_alone(self) -> None:
        kept, collection = self.kept()
        collection.refuses = {"poison": 121}
        values = [encoded(event_id="1"), encoded(event_id="2", sku="poison"), encoded(event_id="3")]
        assert await kept.write(batch(values)) == (2, 0, ["refused_by_store"])
        assert collection.inserts == 3
        [letter] = kept.letters.kept.values()
        assert (letter.value, letter.stage) == (values[1], "TASK_PUT")

    async def test_a_copy_of_what_is_refused_is_refused_too_and_a_good_sale_of_its_id_is_stored(self) -> None:
        kept, collection = self.kept()
        collection.refuses = {"poison": 121}
        poison = encoded(sku="poison")
        assert await kept.write(batch([poison, poison, encoded()])) == (1, 0, ["refused_by_store"] * 2)

    @pytest.mark.parametrize("code", [91, 10107, 14031, 99_999])
    async def test_what_waiting_mends_is_waited_for(self, code: int) -> None:
        kept, collection = self.kept()
        collection.refuses = {"SKU-ABC-123": code}
        with pytest.raises(DatabaseUnavailable):
            await kept.write(batch([encoded()]))
        assert not kept.letters.kept

    async def test_our_own_fault_ends_the_loop(self) -> None:
        kept, collection = self.kept()
        collection.refuses = {"SKU-ABC-123": 13}
        with pytest.raises(ConfigurationError, match="code 13"):
            await kept.write(batch([encoded()]))
        assert not kept.letters.kept

    async def test_where_mongodb_refuses_most_documents_the_fault_is_ours(self) -> None:
        """A validator that somebody made, say: nothing more is set aside."""
        kept, collection = self.kept()
        collection.refuses = {"SKU-ABC-123": 121}
        for number in range(4):
            await kept.write(batch([encoded(event_id=f"{number}-{n}") for n in range(100)]))
        with pytest.raises(DeadLetterFlood, match="121"):
            await kept.write(batch([encoded(event_id=f"4-{n}") for n in range(100)]))

    @settings(deadline=None)
    @given(
        sales=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), max_size=30),
        parts=st.lists(st.tuples(st.integers(1, 10), st.sampled_from(["none", "answer", "letters"])), min_size=30),
    )
    async def test_whatever_fails_every_message_has_one_fate(
        self, sales: list[tuple[int, int]], parts: list[tuple[int, str]]
    ) -> None:
        """The first content of an id is stored; each later message is its duplicate or a conflict; all are counted once."""
        kept, collection = self.kept()
        values = [encoded(event_id=f"e{n}", qty=qty) for n, qty in sales]
        stored = duplicates = 0
        place = 0
        for size, fault in parts:
            written = batch(values[place : place + size], start=place, at=float(place))
            place += size
            if not len(written):
                break
            collection.lose_answers = fault == "answer"
            kept.letters.outage = BrokerUnavailable("away") if fault == "letters" else None
            try:
                outcome = await kept.write(written)
            except (DatabaseUnavailable, BrokerUnavailable):
                collection.lose_answers, kept.letters.outage = 0, None
                outcome = await kept.write(written)
            stored, duplicates = stored + outcome[0], duplicates + outcome[1]
        first = dict(reversed(sales))
        conflicts = {offset for offset, (n, qty) in enumerate(sales) if qty != first[n]}
        assert {key: document["qty"] for key, document in kept.documents().items()} == {
            f"e{n}": qty for n, qty in first.items()
        }
        assert {letter.offset for letter in kept.letters.kept.values()} == conflicts
        assert (stored, duplicates) == (len(first), len(sales) - len(first) - len(conflicts))
