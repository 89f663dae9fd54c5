"""A client's clock that is off: by how much times are corrected, and where that ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ingestion_service.skew import corrected, correction

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TICK = timedelta(microseconds=1)


@pytest.mark.parametrize("off", [timedelta(0), TICK, -TICK, 5 * MINUTE, -5 * MINUTE])
def test_a_clock_that_is_up_to_five_minutes_off_is_believed(off: timedelta) -> None:
    assert correction(NOW + off, NOW) is None


@pytest.mark.parametrize("off", [5 * MINUTE + TICK, -5 * MINUTE - TICK, timedelta(days=400), -timedelta(days=40_000)])
def test_beyond_that_times_move_by_the_difference(off: timedelta) -> None:
    by = correction(NOW + off, NOW)
    assert by == -off
    assert corrected(NOW + off, by) == NOW  # what happened when the batch was sent happened when it came
    assert corrected(NOW + off - MINUTE, by) == NOW - MINUTE


@pytest.mark.parametrize(
    ("timestamp", "by"),
    [
        (datetime(9999, 12, 31, tzinfo=UTC), timedelta(days=1)),
        (datetime(1, 1, 1, 0, 0, 1, tzinfo=UTC), -2 * MINUTE),
        (datetime(1, 1, 1, 0, 1, tzinfo=UTC), -MINUTE),  # the very first microsecond
        (NOW, timedelta(days=365 * 8000)),
    ],
)
def test_a_result_outside_the_years_1_to_9999_is_no_time(timestamp: datetime, by: timedelta) -> None:
    with pytest.raises(ValueError, match="9999"):
        corrected(timestamp, by)
