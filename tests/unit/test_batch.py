"""When a batch is written: full, or old enough; never early, never late. Time is given."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.batch import Batch, Item
from event_consumer.dead_letter import DeadLetter, dead_letter
from event_core.errors import UndecodableMessage
from event_core.source import FakeMessage
from event_core.topics import TopicPartition

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)
Numbers = Batch[tuple[int]]


def add(
    batch: Numbers, now: float, *, good: int = 0, bad: int = 0, upto: int | None = None, timestamp: int = 0
) -> None:
    """Messages up to before the offset ``upto``, the good ones first."""
    first = 0 if upto is None else upto - good - bad
    messages = [FakeMessage("t", 0, first + n, b"", timestamp=timestamp) for n in range(good + bad)]
    items = [Item((n,), message) for n, message in enumerate(messages[:good])]
    batch.add(P0, messages, items, letters(messages[good:]), now)


def letters(messages: Sequence[FakeMessage]) -> list[DeadLetter]:
    return [dead_letter(message, UndecodableMessage("x", reason="not_json")) for message in messages]


def test_an_empty_batch_is_never_ready_and_waits_the_longest() -> None:
    batch = Numbers(10, 0.5)
    assert not batch.is_ready(1e9)
    assert batch.wait(1e9, 0.25) == 0.25
    assert (len(batch), batch.room, batch.offsets) == (0, 10, {})


@pytest.mark.parametrize(
    ("good", "bad", "ready"), [(9, 0, False), (10, 0, True), (0, 10, True), (5, 4, False), (4, 6, True)]
)
def test_it_is_ready_once_it_is_full_dead_letters_included(good: int, bad: int, ready: bool) -> None:
    batch = Numbers(10, 60.0)
    add(batch, 100.0, good=good, bad=bad)
    assert batch.is_ready(100.0) is ready
    assert (len(batch), batch.room) == (good + bad, 10 - good - bad)


@pytest.mark.parametrize(("good", "bad"), [(1, 0), (0, 1)])
def test_it_is_ready_once_its_first_message_is_old_enough(good: int, bad: int) -> None:
    batch = Numbers(10, 0.5)
    add(batch, 100.0, good=good, bad=bad)
    add(batch, 100.4, good=1)  # what comes later does not make it younger
    assert not batch.is_ready(100.499)
    assert batch.is_ready(100.5)


def test_it_asks_to_be_waited_for_until_it_is_old_enough_and_no_longer() -> None:
    batch = Numbers(10, 0.5)
    add(batch, 100.0, good=1)
    assert batch.wait(100.0, 0.25) == 0.25
    assert batch.wait(100.4, 0.25) == pytest.approx(0.1)
    assert batch.wait(100.5, 0.25) == 0.0
    assert batch.wait(200.0, 0.25) == 0.0


def test_an_age_of_0_writes_every_message_at_once() -> None:
    batch = Numbers(10, 0.0)
    add(batch, 100.0, good=1)
    assert batch.is_ready(100.0)
    assert batch.wait(100.0, 0.25) == 0.0


def test_more_messages_than_it_asked_for_leave_no_room() -> None:
    batch = Numbers(3, 60.0)
    add(batch, 0.0, good=5)
    assert (len(batch), batch.room, batch.is_ready(0.0)) == (5, 0, True)


@pytest.mark.parametrize("is_event", [True, False], ids=["events", "dead letters"])
def test_it_is_ready_once_its_bytes_are_too_many(is_event: bool) -> None:
    batch = Numbers(100, 60.0, 1000)
    for number in range(10):
        assert not batch.is_ready(0.0)
        assert batch.room == 100 - number
        message = FakeMessage("t", 0, number, b"x" * 100)
        batch.add(P0, [message], [Item((number,), message)] * is_event, letters([message] * (not is_event)), 0.0)
    assert batch.is_ready(0.0)
    assert batch.room == 0
    fresh = batch.empty()
    large = FakeMessage("t", 0, 1, b"x" * 1000)
    fresh.add(P0, [large], [Item((1,), large)], [], 0.0)
    assert fresh.is_ready(0.0)  # it kept the limit


def test_a_message_without_a_value_weighs_nothing() -> None:
    batch = Numbers(100, 60.0, 1)
    tombstone = FakeMessage("t", 0, 0, None)
    batch.add(P0, [tombstone], [], letters([tombstone]), 0.0)
    assert not batch.is_ready(0.0)


def test_it_knows_the_offset_after_the_last_message_of_each_partition() -> None:
    batch = Numbers(10, 1.0)
    add(batch, 0.0, good=1, upto=4)
    add(batch, 0.0, bad=1, upto=5)
    other = FakeMessage("t", 1, 16, b"")
    batch.add(P1, [other], [Item((1,), other)], [], 0.0)
    assert batch.offsets == {P0: 5, P1: 17}
    assert {partition: last.offset for partition, last in batch.last.items()} == {P0: 4, P1: 16}
    assert batch.messages == {P0: 2, P1: 1}


def test_it_knows_from_where_each_dead_letter_came_even_one_that_names_another_origin() -> None:
    batch = Numbers(10, 1.0)
    add(batch, 0.0, bad=2)
    relayed = FakeMessage("dlq", 0, 0, b"")
    batch.add(TopicPartition("dlq", 0), [relayed], [], letters([FakeMessage("t", 1, 7, b"")]), 0.0)
    assert batch.dead_from == [P0, P0, TopicPartition("dlq", 0)]


@pytest.mark.parametrize(
    ("timestamps", "oldest"),
    [([5, 3, 4], 3), ([-1], None), ([-1, 7], 7), ([0], 0), ([], None), ([9, 9, 2, -1], 2)],
    ids=repr,
)
def test_it_knows_the_time_of_its_oldest_message(timestamps: list[int], oldest: int | None) -> None:
    batch = Numbers(10, 1.0)
    for timestamp in timestamps:
        add(batch, 0.0, good=1, timestamp=timestamp)
    assert batch.oldest_ms == oldest


def test_an_emptied_batch_keeps_its_limits_and_nothing_else() -> None:
    batch = Numbers(2, 0.5)
    add(batch, 0.0, good=1, bad=1, timestamp=5)
    fresh = batch.empty()
    assert (len(fresh), fresh.room, fresh.offsets, fresh.oldest_ms) == (0, 2, {}, None)
    assert not fresh.is_ready(1e9)
    add(fresh, 10.0, good=1)
    assert fresh.wait(10.0, 9.0) == pytest.approx(0.5)
    assert len(batch) == 2


@given(st.lists(st.floats(0, 2), min_size=1, max_size=10), st.integers(1, 20), st.floats(0.01, 3))
def test_whoever_waits_as_long_as_it_asks_finds_it_ready(gaps: list[float], size: int, age: float) -> None:
    batch = Numbers(size, age)
    now = 1000.0
    for gap in gaps:
        now += gap
        add(batch, now, good=1)
    now += batch.wait(now, 1e9)
    assert batch.is_ready(now + 1e-9)
