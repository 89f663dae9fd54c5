"""Instants as integers: the same moment both ways, to the microsecond, in every year there is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_core.instants import DAY, EPOCH, SECOND, decode, encode, from_micros, to_micros

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES)  # noqa: DTZ001  # bounds take no zone


@given(MOMENTS)
def test_a_moment_comes_back_in_utc(moment: datetime) -> None:
    back = from_micros(to_micros(moment))
    assert back == moment
    assert back.tzinfo is UTC
    assert decode(encode(moment)) == back
    assert encode(to_micros(moment)) == encode(moment)


@given(MOMENTS, MOMENTS)
def test_the_order_and_the_distance_of_moments_are_kept(one: datetime, other: datetime) -> None:
    assert timedelta(microseconds=to_micros(one) - to_micros(other)) == one - other


@given(MOMENTS)
def test_days_begin_at_midnight_before_2000_too(moment: datetime) -> None:
    day = EPOCH.date() + timedelta(to_micros(moment) // DAY)
    assert day == moment.astimezone(UTC).date()


@pytest.mark.parametrize(
    ("moment", "micros"),
    [
        (datetime(2000, 1, 1, tzinfo=UTC), 0),
        (datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1),
        (datetime(2000, 3, 1, tzinfo=UTC), 60 * DAY),  # 2000 was a leap year
        (datetime(1970, 1, 1, tzinfo=UTC), -946_684_800 * SECOND),
        (datetime(2000, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0),
    ],
)
def test_what_postgres_calls_them(moment: datetime, micros: int) -> None:
    assert to_micros(moment) == micros


def test_the_epoch_is_a_date_that_rollups_count_from() -> None:
    assert EPOCH.date() == date(2000, 1, 1)
