"""Whether a log can be read on from where reading stopped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.gaps import Gap, GapKind, Position, can_verify, check, mark, not_the_same
from event_core.source import FakeMessage, Log


def kind(gap: Gap | None) -> GapKind | None:
    return gap.kind if gap else None


@pytest.mark.parametrize(
    ("offset", "log", "expected"),
    [
        (0, Log(0, 0), None),
        (5, Log(0, 10), None),
        (10, Log(0, 10), None),  # everything is read
        (10, Log(10, 10), None),  # and expired since
        (11, Log(0, 10), GapKind.BEYOND_END),
        (1, Log(0, 0), GapKind.BEYOND_END),
        (5, Log(5, 9), None),
        (4, Log(5, 9), GapKind.EXPIRED),
        (0, Log(5, 5), GapKind.EXPIRED),
    ],
)
def test_the_logs_bounds_tell_whether_it_can_be_read_on(offset: int, log: Log, expected: GapKind | None) -> None:
    assert kind(check(Position(offset), log, "here")) is expected
    assert kind(check(Position(offset, cluster_id="here"), log, "here")) is expected
    assert kind(check(Position(offset, cluster_id="there"), log, "here")) is GapKind.CLUSTER


def test_a_gap_says_what_is_lost() -> None:
    gap = check(Position(4), Log(15, 20), "here")
    assert gap is not None
    assert "11 records were deleted unread" in gap.explanation
    assert "begins at 15" in gap.explanation


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.sampled_from([None, "mark"]))
def test_a_record_is_compared_only_where_it_is_there(offset: int, begin: int, count: int, last: str | None) -> None:
    log = Log(begin, begin + count)
    position = Position(offset, last_mark=last)
    assert can_verify(position, log) is (last is not None and offset - 1 in range(log.begin, log.end))


RECORDS = st.builds(
    FakeMessage,
    st.just("t"),
    st.just(0),
    st.integers(0, 3),
    value=st.none() | st.binary(max_size=3),
    key=st.none() | st.binary(max_size=3),
    timestamp=st.sampled_from([-1, 0, 1, 11]),
)


@given(RECORDS, RECORDS)
def test_two_records_have_one_mark_only_where_they_are_equal(one: FakeMessage, other: FakeMessage) -> None:
    assert (mark(one) == mark(other)) is (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"key": b"ab", "value": b"c"}, {"key": b"a", "value": b"bc"}),
        ({"key": None, "value": b""}, {"key": b"", "value": None}),
        ({"key": b"", "value": b""}, {"key": None, "value": b""}),
        ({"timestamp": 1}, {"timestamp": 2}),
        ({"offset": 1}, {"offset": 11}),
    ],
)
def test_what_looks_alike_has_another_mark(one: dict[str, Any], other: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"topic": "t", "partition": 0, "offset": 1, "value": b"v"}
    assert mark(FakeMessage(**{**fields, **one})) != mark(FakeMessage(**{**fields, **other}))


def test_a_mark_is_the_same_for_ever() -> None:
    """It is stored: another one would stop every partition after an upgrade."""
    assert mark(FakeMessage("t", 0, 41, b"value", b"key", 1_700_000_000_000)) == "b985ede8529cf4450a90b8bd"


def test_another_record_before_the_offset_is_a_gap() -> None:
    gap = not_the_same(Position(7, last_mark="m"))
    assert gap.kind is GapKind.RECREATED
    assert "before offset 7" in gap.explanation
