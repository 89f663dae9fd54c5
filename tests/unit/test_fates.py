"""What became of each message of a batch: every one of them is exactly one of stored, duplicate, dead letter."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.batch import Batch, Item
from event_consumer.dead_letter import DeadLetter, dead_letter
from event_consumer.events.fates import Fates, Placed
from event_consumer.events.rows import EventRow
from event_core.dead_letters import HEADER_DEAD_LETTER_ID, HEADER_RETRY_COUNT
from event_core.errors import UndecodableMessage
from event_core.instants import from_micros
from event_core.source import FakeMessage
from event_core.topics import TopicPartition
from tests.support.rows import row

PARTITIONS = [TopicPartition("t", 0), TopicPartition("t", 1), TopicPartition("u", 0)]
FATES = ["fresh", "same", "differs", "refused", "dead", "dead there already", "from another topic"]
MESSAGES = st.lists(
    st.tuples(st.sampled_from(PARTITIONS), st.sampled_from(FATES), st.sampled_from(["a", "b"])), max_size=30
)


def refused(message: FakeMessage, tenant: str | None) -> DeadLetter:
    return dead_letter(message, UndecodableMessage("x", reason="refused_by_store"))._replace(tenant_id=tenant)


@given(MESSAGES)
def test_every_message_has_one_fate_by_partition_and_by_tenant(told: list[tuple[TopicPartition, str, str]]) -> None:
    batch = Batch[EventRow](1000, 1.0)
    placed = Placed([], [], [])
    differ: set[int] = set()
    old_letters: list[DeadLetter] = []
    for number, (partition, fate, tenant) in enumerate(told):
        message = FakeMessage(*partition, number, b'{"tenant_id":"%s"}' % tenant.encode())
        item = Item(row(number + 1, tenant_id=tenant), message)
        dead: list[DeadLetter] = []
        match fate:
            case "fresh":
                placed.fresh.append(item)
            case "same":
                placed.known.append(item)
            case "differs":
                differ.add(len(placed.known))
                placed.known.append(item)
            case "refused":
                placed.refused.append(refused(message, tenant))
            case "from another topic":
                dead = [refused(FakeMessage("far away", 7, 0, b""), tenant)]
            case _:
                dead = [refused(message, tenant)]
                if fate == "dead there already":
                    old_letters += dead
        batch.add(partition, [message], [] if dead else [item], dead, 0.0)

    fates = Fates(batch, placed, differ)
    fates.settle([not any(letter is old for old in old_letters) for letter in fates.letters])

    kinds = {"stored": {"fresh"}, "duplicates": {"same", "dead there already"}}
    for partition in batch.offsets:
        mine = [fate for p, fate, _ in told if p == partition]
        counted = {name: sum(fate in kinds[name] for fate in mine) for name in kinds}
        assert fates.stored[partition] == counted["stored"]
        assert fates.duplicates[partition] == counted["duplicates"]
        assert fates.dead[partition] == len(mine) - sum(counted.values())
        assert (
            fates.stored[partition] + fates.duplicates[partition] + fates.dead[partition] == batch.messages[partition]
        )
    dead_fates = set(FATES) - {"fresh", "same", "dead there already"}
    assert fates.tenants() == [
        row_of
        for tenant in ("a", "b")
        if any(
            (
                row_of := (
                    tenant,
                    sum(fate == "fresh" for _, fate, t in told if t == tenant),
                    sum(fate == "same" for _, fate, t in told if t == tenant),
                    sum(fate in dead_fates for _, fate, t in told if t == tenant),
                )
            )[1:]
        )
    ]
    assert len(fates.new_letters) == sum(fate in dead_fates for _, fate, _ in told)
    assert [letter.reason for letter in fates.letters].count("conflict") == len(differ)


def made(*messages: FakeMessage) -> tuple[Batch[EventRow], list[Item[EventRow]]]:
    batch = Batch[EventRow](1000, 1.0)
    items = [Item(row(n + 1, received_at=from_micros(n)), message) for n, message in enumerate(messages)]
    for item, message in zip(items, messages, strict=True):
        batch.add(TopicPartition(message.topic, message.partition), [message], [item], [], 0.0)
    return batch, items


def test_a_letter_without_a_tenant_counts_for_nobody() -> None:
    batch, [item] = made(FakeMessage("t", 0, 0, b"{}"))
    fates = Fates(batch, Placed([], [], [refused(FakeMessage("t", 0, 0, b"{}"), None)]), set())
    fates.settle([True])
    assert fates.tenants() == [("", 0, 0, 1)]
    assert item.row.tenant_id == "default"


def test_replayed_letters_are_settled_by_what_is_stored_or_was_there_with_the_same_content() -> None:
    ids = [uuid4() for _ in range(4)]

    def message(number: int) -> FakeMessage:
        headers = ((HEADER_RETRY_COUNT, b"1"), (HEADER_DEAD_LETTER_ID, str(ids[number]).encode()))
        return FakeMessage("t", 0, number, b"{}", headers=headers)

    batch, items = made(*(message(number) for number in range(4)))
    placed = Placed([items[0]], [items[1], items[2]], [refused(message(3), None)])
    fates = Fates(batch, placed, {1})
    assert fates.replayed == [(ids[0], items[0].row.event_id), (ids[1], items[1].row.event_id)]
    assert {letter.dead_letter_id for letter in fates.letters} == {ids[2], ids[3]}


def test_a_letter_that_another_replay_of_it_reopened_stays_open() -> None:
    twice = uuid4()
    headers = ((HEADER_RETRY_COUNT, b"1"), (HEADER_DEAD_LETTER_ID, str(twice).encode()))
    batch, items = made(*(FakeMessage("t", 0, number, b"{}", headers=headers) for number in range(2)))
    fates = Fates(batch, Placed([items[0]], [items[1]], []), {0})
    fates.settle([True])
    assert fates.replayed == []


@pytest.mark.parametrize("headers", [(), (("event-id", b"1"),), ((HEADER_DEAD_LETTER_ID, b"no id"),)], ids=repr)
def test_other_headers_settle_nothing(headers: tuple[tuple[str, bytes], ...]) -> None:
    batch, items = made(FakeMessage("t", 0, 0, b"{}", headers=headers))
    assert Fates(batch, Placed(items, [], []), set()).replayed == []


def test_a_dead_letter_id_that_is_not_the_last_header_is_the_clients_own() -> None:
    headers = ((HEADER_DEAD_LETTER_ID, str(UUID(int=1)).encode()), ("event-id", b"1"))
    batch, items = made(FakeMessage("t", 0, 0, b"{}", headers=headers))
    assert Fates(batch, Placed(items, [], []), set()).replayed == []


def test_it_knows_when_the_door_had_the_last_row_stored_of_each_partition() -> None:
    batch, items = made(*(FakeMessage("t", n % 2, n, b"{}") for n in range(6)))
    fates = Fates(batch, Placed(items[:4], items[4:], []), set())
    assert fates.received() == {PARTITIONS[0]: 2, PARTITIONS[1]: 3}
    assert Fates(batch, Placed([], items, []), set()).received() == {}
