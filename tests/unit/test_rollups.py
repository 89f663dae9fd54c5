"""What new rows add to the rollups, against a count of every event one by one."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.events.rollups import Additions, Known, additions
from event_consumer.events.rows import EventRow
from event_core.instants import from_micros, to_micros
from tests.support.rows import row

EDGES = [
    datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2000, 1, 1, tzinfo=UTC),
    datetime(2000, 2, 29, 12, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    datetime(1900, 2, 28, 23, 45, tzinfo=UTC),
    datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC),
    datetime(2024, 3, 1, tzinfo=UTC),
    datetime(2025, 12, 31, 23, 44, 59, 999_999, tzinfo=UTC),
    datetime(2025, 12, 31, 23, 45, tzinfo=UTC),
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 31, 0, 14, 59, 999_999, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
]
MOMENTS = st.one_of(
    st.sampled_from(EDGES),
    st.builds(
        lambda day, minutes: datetime(2026, 1, 30, tzinfo=UTC) + timedelta(days=day, minutes=minutes),
        st.integers(0, 4),
        st.integers(0, 24 * 60 - 1),
    ),
    st.datetimes(timezones=st.just(UTC)).filter(lambda at: 1 < at.year < 9999),
)
ROWS = st.builds(
    lambda at, tenant, user, name: row(1, timestamp=at, tenant_id=tenant, user_id=user, event_name=name),
    MOMENTS,
    st.sampled_from(["default", "other", "z"]),
    st.sampled_from(["a", "b", "c", "default"]),
    st.sampled_from(["e", "f"]),
)
BATCHES = st.lists(
    st.tuples(
        st.lists(ROWS, min_size=1, max_size=20),
        st.sampled_from(["committed", "committed", "committed", "rolled back", "answer lost", "epoch"]),
    ),
    max_size=12,
)


class Tables:
    """The rollups as SQL keeps them: counts add up, days are joined, the earliest time stays."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[datetime, str, str]] = Counter()
        self.user_days: dict[tuple[str, date, str], int] = {}
        self.first_seen: dict[tuple[str, str], datetime] = {}

    def add(self, added: Additions) -> None:
        for bucket, tenant, name, events in added.counts:
            self.counts[from_micros(bucket), tenant, name] += events
        for tenant, month, user, days in added.user_days:
            self.user_days[tenant, month, user] = self.user_days.get((tenant, month, user), 0) | days
        for tenant, user, at in added.first_seen:
            self.first_seen[tenant, user] = min(from_micros(at), self.first_seen.get((tenant, user), from_micros(at)))

    def count(self, rows: list[EventRow]) -> None:
        """The oracle: one event after the other."""
        for each in rows:
            at = from_micros(each.timestamp)
            self.counts[
                at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0), each.tenant_id, each.event_name
            ] += 1
            month = (each.tenant_id, at.date().replace(day=1), each.user_id)
            self.user_days[month] = self.user_days.get(month, 0) | 1 << (at.day - 1)
            user = (each.tenant_id, each.user_id)
            self.first_seen[user] = min(at, self.first_seen.get(user, at))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tables) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # they change


@given(BATCHES, st.sampled_from([1, 2, 5, 1000]))
def test_after_any_batches_the_tables_say_what_counting_one_by_one_says(
    batches: list[tuple[list[EventRow], str]], most: int
) -> None:
    tables, oracle, known, epoch = Tables(), Tables(), Known(most), 1
    for rows, what in batches:
        known.check(epoch)
        added = additions(rows, known)
        if what == "rolled back":
            continue
        if what == "epoch":  # somebody removed rollups, and with them what was known
            epoch += 1
            tables.user_days, tables.first_seen = {}, {}
            oracle.user_days, oracle.first_seen = {}, {}
            known.check(epoch)
            added = additions(rows, known)
        tables.add(added)
        oracle.count(rows)
        if what != "answer lost":
            known.learn(added.learned, epoch)
        assert len(known) <= most
    assert tables == oracle


@given(st.lists(ROWS, min_size=1, max_size=30))
def test_what_is_added_has_distinct_keys_in_order_and_the_days_of_the_events(rows: list[EventRow]) -> None:
    added = additions(rows, Known())
    keys: list[list[Any]] = [
        [key[:3] for key in added.counts],
        added.days,
        [key[:3] for key in added.user_days],
        [key[:2] for key in added.first_seen],
    ]
    for each in keys:
        assert each == sorted(set(each))
    assert added.days == sorted({from_micros(each.timestamp).date() for each in rows})
    assert sum(events for *_, events in added.counts) == len(rows)


@given(st.lists(ROWS, min_size=1, max_size=30))
def test_what_is_known_is_not_written_again_but_counted(rows: list[EventRow]) -> None:
    known = Known()
    known.check(1)
    first = additions(rows, known)
    known.learn(first.learned, 1)
    again = additions(rows, known)
    assert (again.user_days, again.first_seen) == ([], [])
    assert (again.counts, again.days) == (first.counts, first.days)


def test_an_earlier_event_of_a_known_user_is_told() -> None:
    known = Known()
    known.check(1)
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    known.learn(additions([row(1, timestamp=noon)], known).learned, 1)
    earlier = additions([row(2, timestamp=noon - timedelta(hours=1))], known)
    assert earlier.first_seen == [("default", "u", to_micros(noon - timedelta(hours=1)))]
    assert additions([row(3, timestamp=noon + timedelta(hours=1))], known).first_seen == []


@pytest.mark.parametrize("learned_in", [1, 3])
def test_what_was_committed_under_another_epoch_is_not_learned(learned_in: int) -> None:
    known = Known()
    known.check(1)
    added = additions([row(1)], known)
    known.check(2)
    known.learn(added.learned, learned_in)
    assert len(known) == 0
    assert additions([row(1)], known).user_days == added.user_days


def test_the_days_that_were_learned_of_longest_ago_are_forgotten_first() -> None:
    known = Known(most=3)
    known.check(1)
    days = [datetime(2026, 1, day, tzinfo=UTC) for day in (5, 3, 4, 6)]
    for day in days:
        known.learn(additions([row(1, timestamp=day)], known).learned, 1)
    told = {day.day: bool(additions([row(1, timestamp=day)], known).user_days) for day in days}
    assert told == {5: True, 3: False, 4: False, 6: False}


def test_far_days_do_not_push_out_today_for_ever() -> None:
    known = Known(most=10)
    known.check(1)
    for number in range(50):
        known.learn(
            additions([row(number, timestamp=datetime(9000, 1, 1 + number % 28, tzinfo=UTC))], known).learned, 1
        )
        known.learn(additions([row(1, timestamp=datetime(2026, 1, 5, tzinfo=UTC))], known).learned, 1)
    assert len(known) <= 10
    assert not additions([row(1, timestamp=datetime(2026, 1, 5, tzinfo=UTC))], known).user_days


def test_the_31st_is_the_30th_bit_and_months_are_told_apart() -> None:
    rows = [
        row(n, timestamp=datetime(2026, month, day, tzinfo=UTC))
        for n, (month, day) in enumerate([(1, 1), (1, 31), (2, 1)])
    ]
    assert additions(rows, Known()).user_days == [
        ("default", date(2026, 1, 1), "u", 1 | 1 << 30),
        ("default", date(2026, 2, 1), "u", 1),
    ]
