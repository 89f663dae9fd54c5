"""When so much is bad that it must be our fault: never below the share, always once it is reached."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.breaker import WINDOW, Breaker

POLLS = st.lists(
    st.integers(1, 500).flatmap(lambda messages: st.tuples(st.just(messages), st.integers(0, messages))), max_size=40
)


@given(POLLS, st.sampled_from([1.0, 1.5, 100.0]))
def test_a_share_of_1_never_trips(polls: list[tuple[int, int]], share: float) -> None:
    breaker = Breaker(share)
    assert not any(breaker.trips(messages, bad) for messages, bad in [*polls, *[(500, 500)] * 10])


@given(st.lists(st.integers(1, 500), max_size=40), st.sampled_from([0.01, 0.1, 0.5, 0.99]))
def test_it_never_trips_while_every_poll_is_below_the_share(polls: list[int], share: float) -> None:
    breaker = Breaker(share)
    for messages in polls:
        below = int(share * messages) - (share * messages == int(share * messages))
        assert not breaker.trips(messages, max(0, below))


@given(POLLS, st.sampled_from([0.01, 0.1, 0.5, 0.99]))
def test_it_trips_exactly_where_the_bad_ones_of_the_last_thousand_reach_the_share(
    polls: list[tuple[int, int]], share: float
) -> None:
    breaker = Breaker(share)
    for place, (messages, bad) in enumerate(polls):
        # The oracle: whole polls, from the last one back, until they hold as many as are looked back on.
        seen = seen_bad = 0
        for earlier, earlier_bad in reversed(polls[: place + 1]):
            if seen >= WINDOW:
                break
            seen += earlier
            seen_bad += earlier_bad
        assert breaker.trips(messages, bad) is (seen_bad >= share * max(WINDOW, seen))
        assert breaker.bad == seen_bad


@pytest.mark.parametrize("size", [1, 7, 100, 500])
def test_a_wrong_release_is_noticed_after_the_share_of_a_thousand_and_not_before(size: int) -> None:
    breaker = Breaker(0.5)
    for _ in range(20):
        assert not breaker.trips(500, 0)
    read = 0
    while not breaker.trips(size, size):
        read += size
    assert 500 - size <= read <= 500 + size + 500


def test_a_few_bad_messages_at_the_very_start_are_no_flood() -> None:
    breaker = Breaker(0.5)
    assert not any(breaker.trips(1, 1) for _ in range(499))
    assert breaker.trips(1, 1)


def test_what_was_long_ago_is_forgotten() -> None:
    breaker = Breaker(0.5)
    for _ in range(10):
        assert not breaker.trips(400, 400)
        assert not breaker.trips(1000, 0)
