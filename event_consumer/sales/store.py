"""Sales in MongoDB, their offsets in Kafka: the identity of a sale makes a second delivery harmless."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from event_consumer.batch import Batch, Item
from event_consumer.breaker import Breaker
from event_consumer.dead_letter import DeadLetter, dead_letter
from event_consumer.gaps import Position
from event_consumer.sales.collection import Collection, Document, Refusal
from event_consumer.sales.letters import Letters
from event_consumer.sales.rows import SaleRow, same_sale
from event_consumer.sales.verdict import DUPLICATE, judge
from event_consumer.store import FenceLost, Written
from event_consumer.verdict import Verdict
from event_core.errors import (
    BrokerUnavailable,
    ConfigurationError,
    DatabaseUnavailable,
    DeadLetterFlood,
    UndecodableMessage,
)
from event_core.source import Logs
from event_core.topics import TopicPartition


class Offsets(Protocol):
    """A consumer group's offsets, as Kafka keeps them."""

    async def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Of those that were ever committed. Raises BrokerUnavailable."""

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Whether Kafka has them now."""


class SalesStore:
    """The sales pipeline's store."""

    def __init__(
        self, collection: Collection, letters: Letters, offsets: Offsets, breaker: Breaker, *, retries: int = 3
    ) -> None:
        """``breaker`` looks at what MongoDB refuses; ``retries``: how often a document may be refused before it is set aside."""
        self._collection = collection
        self._breaker = breaker
        self._letters = letters
        self._offsets = offsets
        self._retries = retries

    async def positions(self, logs: Logs) -> dict[TopicPartition, Position]:
        await self._collection.prepare()
        committed = dict(await self._offsets.committed(logs.of))
        first = {partition: log.begin for partition, log in logs.of.items() if partition not in committed}
        # Committed before anything is read: what is deleted before it could be stored is a gap then.
        if first and not await self._offsets.commit(first):
            raise BrokerUnavailable("Kafka does not take the group's first offsets")
        return {partition: Position(offset) for partition, offset in (committed | first).items()}

    async def write(self, batch: Batch[SaleRow], expected: Mapping[TopicPartition, int]) -> Written | FenceLost:
        """Documents, then dead letters; the loop commits the offsets behind them. Each step may be done again, and there is no
        fence to be lost.

        Raises:
            DatabaseUnavailable, BrokerUnavailable: write the same batch again; what of it is stored is recognised.
            DeadLetterFlood: MongoDB refuses so many documents that the fault must be ours.
            ConfigurationError: an operator must see to it.
        """
        stored, duplicates, aside = await self._store(batch.items)
        refused = [letter for letter in aside if letter.reason == "refused_by_store"]
        if self._breaker.trips(len(batch), len(refused)):
            raise DeadLetterFlood(f"MongoDB refuses most documents, the last one because: {refused[-1].error}")
        letters = [*batch.dead, *aside]
        if letters:
            try:
                await self._letters.send(letters)
            except BaseException:
                self._breaker.discard(len(batch))  # it is written again
                raise
        return Written(stored, duplicates, letters)

    async def _store(self, items: Sequence[Item[SaleRow]]) -> tuple[int, int, list[DeadLetter]]:
        """(how many of ``items`` are stored by this batch, how many were stored before, letters of the others)."""
        stored = duplicates = 0
        letters: list[DeadLetter] = []
        there: dict[str, Document] = {}
        while items:
            # Of each identity that is not there yet the first one now; it decides what the others are.
            chosen: dict[str, Item[SaleRow]] = {}
            later = []
            for item in items:
                known = there.get(item.row.sale_id)
                if known is None:
                    if chosen.setdefault(item.row.sale_id, item) is not item:
                        later.append(item)
                elif same_sale(known, item.row.document):
                    duplicates += 1
                else:
                    letters.append(_conflict(item))
            before, refused = await self._insert(list(chosen.values()))
            for sale_id, item in chosen.items():
                if (refusal := refused.get(sale_id)) is not None:
                    letters.append(_refused(item, refusal, self._retries))
                    continue
                document = item.row.document
                there[sale_id] = found = before.get(sale_id, document)
                if not same_sale(found, document):
                    letters.append(_conflict(item))
                elif found is document or found.get("processed_at") == document["processed_at"]:
                    stored += 1  # now, or by an attempt whose answer was lost
                else:
                    duplicates += 1
            items = later
        return stored, duplicates, letters

    async def _insert(self, items: Sequence[Item[SaleRow]]) -> tuple[dict[str, Document], dict[str, Refusal]]:
        """Inserts ``items``, of different identities. By identity: the documents that were there before, and why others were
        refused as often as allowed.

        Raises:
            DatabaseUnavailable: MongoDB is away, or cannot take a document now.
        """
        there: dict[str, Document] = {}
        refused: dict[str, Refusal] = {}
        for _ in range(self._retries):
            documents = [item.row.document for item in items]
            refusals = await self._collection.insert(documents) if documents else []
            duplicates = [documents[one.place]["_id"] for one in refusals if one.code in DUPLICATE]
            if duplicates:
                there |= await self._collection.find(duplicates)
            refused, again = {}, []
            for one in refusals:
                sale_id = documents[one.place]["_id"]
                if sale_id not in there:
                    _require_its_own_fault(one)
                    refused[sale_id] = one
                    again.append(items[one.place])
            if not again:
                break
            items = again
        return there, refused


def _require_its_own_fault(refusal: Refusal) -> None:
    """Raises DatabaseUnavailable where waiting may mend it, ConfigurationError where an operator must."""
    if refusal.code in DUPLICATE:
        return  # deleted since, or somebody else's document with this _id: tried again like any other
    verdict = judge(refusal.code)
    if verdict is Verdict.WAIT:
        raise DatabaseUnavailable(f"MongoDB cannot take a document now: {refusal.message} (code {refusal.code})")
    if verdict is Verdict.STOP:
        raise ConfigurationError(f"MongoDB refuses every document: {refusal.message} (code {refusal.code})")


def _conflict(item: Item[SaleRow]) -> DeadLetter:
    return dead_letter(
        item.message,
        UndecodableMessage(
            f"another sale is stored under the event_id {item.row.sale_id!r}: the first one stays", reason="conflict"
        ),
    )


def _refused(item: Item[SaleRow], refusal: Refusal, times: int) -> DeadLetter:
    return dead_letter(
        item.message,
        UndecodableMessage(
            f"MongoDB refused it {times} times: {refusal.message} (code {refusal.code})", reason="refused_by_store"
        ),
    )
