"""The window of event ids at the door."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from event_core.errors import BrokerUnavailable
from ingestion_service.deduplication import Window
from ingestion_service.delivery import Delivery, Stored


def test_an_id_is_known_from_the_moment_it_is_on_its_way() -> None:
    window, delivery = Window(100, 60), Delivery()
    assert window.find(1) is None
    window.add(1, 42, delivery)
    seen = window.find(1)
    assert seen is not None
    assert (seen.content, seen.delivery) == (42, delivery)


def test_an_event_that_could_not_be_stored_is_as_if_it_had_never_come() -> None:
    window, delivery = Window(100, 60), Delivery()
    window.add(1, 42, delivery)
    delivery.settle(BrokerUnavailable("away"))
    assert window.find(1) is None
    window.add(1, 43, Delivery.settled(Stored.KAFKA))
    seen = window.find(1)
    assert seen is not None
    assert seen.content == 43


def test_zero_events_turn_it_off() -> None:
    window = Window(0, 60)
    window.turn(0.0)
    window.add(1, 42, Delivery.settled(Stored.KAFKA))
    assert window.find(1) is None
    assert len(window) == 0


@given(
    steps=st.lists(st.tuples(st.floats(0, 40), st.integers(0, 30)), max_size=60),
    events=st.integers(2, 50),
)
def test_it_remembers_what_it_promises_and_no_more(steps: list[tuple[float, int]], events: int) -> None:
    """The last ``events`` / 2 ids that are not older than the window's seconds; never anything twice as old."""
    window, now, seconds, number = Window(events, 60.0), 0.0, 60.0, 0
    added: list[tuple[float, int]] = []
    for wait, count in steps:
        now += wait
        window.turn(now)
        for _ in range(min(count, events // 2)):
            number += 1
            window.add(number, number, Delivery.settled(Stored.KAFKA))
            added.append((now, number))
        window.turn(now)
        for moment, one in added[-(events // 2) :]:
            if now - moment < seconds:
                assert window.find(one) is not None
        for moment, one in added:
            if now - moment > 2 * seconds:
                assert window.find(one) is None
        assert len(window) <= 2 * events
