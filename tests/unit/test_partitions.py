"""Which days have partitions, their names and bounds."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.events.days import Partition, bit_of, end_of, lacking, partition_of, start_of, window

TODAY = date(2024, 3, 1)


def test_the_window_begins_with_the_days_that_new_events_need_and_then_goes_back() -> None:
    days = window(TODAY, back=2, ahead=3, oldest=None)
    assert [str(day) for day in days] == [
        "2024-03-01", "2024-03-02", "2024-03-03", "2024-03-04", "2024-02-29", "2024-02-28",
    ]  # fmt: skip


def test_no_partition_is_made_for_a_day_that_retention_would_drop() -> None:
    assert min(window(TODAY, back=7, ahead=1, oldest=date(2024, 2, 28))) == date(2024, 2, 28)


@pytest.mark.parametrize(
    ("day", "name"),
    [(date(2024, 2, 29), "events_20240229"), (date(1, 1, 1), "events_00010101"), (date.max, "events_99991231")],
)
def test_a_partition_is_named_after_its_day(day: date, name: str) -> None:
    assert partition_of(day).name == name


@given(st.dates(max_value=date.max - timedelta(1)))
def test_partitions_leave_no_moment_out_and_share_none(day: date) -> None:
    assert partition_of(day).upper == partition_of(day + timedelta(1)).lower
    assert start_of(day) < end_of(day)


@given(st.lists(st.integers(-20, 20), unique=True), st.lists(st.integers(-20, 20), unique=True))
def test_a_day_lacks_a_partition_where_none_takes_it(wanted: list[int], present: list[int]) -> None:
    days = [TODAY + timedelta(n) for n in wanted]
    partitions = [partition_of(TODAY + timedelta(n)) for n in present]
    assert lacking(days, partitions) == [TODAY + timedelta(n) for n in wanted if n not in present]


def test_a_partition_that_somebody_made_for_a_month_or_for_hours_takes_its_days() -> None:
    days = [date(2024, 2, 29), date(2024, 3, 1), date(2024, 3, 31), date(2024, 4, 1), date(2024, 4, 2)]
    month = Partition("events_march", datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC))
    hours = Partition("x", datetime(2024, 4, 1, 22, tzinfo=UTC), datetime(2024, 4, 1, 23, tzinfo=UTC))
    assert lacking(days, [month, hours]) == [date(2024, 2, 29), date(2024, 4, 2)]


@given(st.dates())
def test_each_day_of_a_month_has_a_bit_of_its_own_that_fits_an_integer(day: date) -> None:
    bits = [bit_of(day.replace(day=n)) for n in range(1, 29)]
    assert len(set(bits)) == len(bits)
    assert 0 < bit_of(day) < 2**31
