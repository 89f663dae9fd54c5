"""What became of each message of a batch: stored, a duplicate, or set aside; by partition and by tenant. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from typing import NamedTuple
from uuid import UUID

from event_consumer.batch import Batch, Item
from event_consumer.dead_letter import DeadLetter, dead_letter, replay_of
from event_consumer.events.rows import EventRow
from event_core.dead_letters import HEADER_DEAD_LETTER_ID
from event_core.errors import UndecodableMessage
from event_core.source import Message
from event_core.topics import TopicPartition

_CONFLICT = UndecodableMessage(
    "an event with this event_id and other content is stored already; the first one stays", reason="conflict"
)


EventItem = Item[EventRow]


class Placed(NamedTuple):
    """What became of a batch's items."""

    fresh: list[EventItem]
    """Stored now."""
    known: list[EventItem]
    """Their id was there already, or comes twice in the batch."""
    refused: list[DeadLetter]


class Fates:
    """Of the messages of one batch, once its rows are placed."""

    def __init__(self, batch: Batch[EventRow], placed: Placed, differ: Set[int]) -> None:
        """``differ``: places among ``placed.known`` of the rows whose content is not the stored one."""
        self._placed = placed
        self._partitions = len(batch.offsets)
        self._same = [item for place, item in enumerate(placed.known) if place not in differ]
        clashing = [item for place, item in enumerate(placed.known) if place in differ]
        self.letters = [*batch.dead, *placed.refused, *(dead_letter(item.message, _CONFLICT) for item in clashing)]
        """What to set aside; tell ``settle`` which of them were new."""
        refused_from = [TopicPartition(letter.topic, letter.partition or 0) for letter in placed.refused]
        self._from = [*batch.dead_from, *refused_from, *(_origin(item.message) for item in clashing)]
        if len(self.letters) > 1:  # as they lie in their logs, so that a replay keeps each user's order
            pairs = sorted(zip(self._from, self.letters, strict=True), key=_place_in_log)
            self._from, self.letters = [partition for partition, _ in pairs], [letter for _, letter in pairs]
        self._is_new: Sequence[bool] = [False] * len(self.letters)
        self.duplicates = Counter([_origin(item.message) for item in self._same])
        self.dead: Counter[TopicPartition] = Counter()
        self.stored = batch.messages.copy()
        """By partition, like the two before: what is neither a duplicate nor set aside."""
        self.stored.subtract(self.duplicates)
        self.stored.subtract(self._from)
        self._replays = [
            (replay.dead_letter_id, item.row.event_id)
            for item in (*placed.fresh, *self._same)
            if (headers := item.message.headers) and headers[-1][0] == HEADER_DEAD_LETTER_ID
            if (replay := replay_of(headers)) is not None
        ]

    def settle(self, is_new: Sequence[bool]) -> None:
        """``is_new``: which of ``letters`` were not set aside before; the others count as duplicates."""
        self._is_new = is_new
        for partition, new in zip(self._from, is_new, strict=True):
            (self.dead if new else self.duplicates)[partition] += 1

    @property
    def same(self) -> int:
        """Rows whose event is stored already, with the same content."""
        return len(self._same)

    @property
    def replayed(self) -> list[tuple[UUID, UUID]]:
        """(dead letter, event) of the replays that are stored now, but for letters that another replay of theirs has reopened."""
        reopened = {letter.dead_letter_id for letter in self.new_letters}
        return [(letter, event) for letter, event in self._replays if letter not in reopened]

    @property
    def new_letters(self) -> list[DeadLetter]:
        return [letter for letter, new in zip(self.letters, self._is_new, strict=True) if new]

    def tenants(self) -> list[tuple[str, int, int, int]]:
        """(tenant_id, stored, duplicates, dead letters), in the order of the tenants; '' where a letter names none."""
        stored = Counter([item.row.tenant_id for item in self._placed.fresh])
        duplicates = Counter([item.row.tenant_id for item in self._same])
        dead = Counter([letter.tenant_id or "" for letter in self.new_letters])
        return [
            (tenant, stored[tenant], duplicates[tenant], dead[tenant])
            for tenant in sorted({*stored, *duplicates, *dead})
        ]

    def received(self) -> dict[TopicPartition, int]:
        """When the ingestion service had the last row stored from each partition."""
        found: dict[TopicPartition, int] = {}
        for item in reversed(self._placed.fresh):
            if len(found) == self._partitions:
                break
            found.setdefault(_origin(item.message), item.row.received_at)
        return found


def _place_in_log(pair: tuple[TopicPartition, DeadLetter]) -> tuple[TopicPartition, int]:
    partition, letter = pair
    return partition, 0 if letter.on_topic else letter.offset or 0


def _origin(message: Message) -> TopicPartition:
    return TopicPartition(message.topic, message.partition)
