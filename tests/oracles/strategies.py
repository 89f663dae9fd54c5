"""Random events and questions about them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from tests.oracles.events import Event

ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana"),
    *("Africa/Cairo", "Antarctica/Troll", "Pacific/Apia", "America/St_Johns", "Asia/Beirut", "Pacific/Chatham"),
)
"""Clocks that change by an hour, half an hour or two hours, at midnight, by a day; and offsets of quarters of an hour."""

ANCHORS = (
    *(
        datetime(2024, 3, 30, 22, tzinfo=UTC),
        datetime(2024, 10, 26, 23, tzinfo=UTC),
        datetime(2024, 3, 10, 4, tzinfo=UTC),
    ),
    *(
        datetime(2024, 11, 3, 3, tzinfo=UTC),
        datetime(2024, 4, 6, 12, tzinfo=UTC),
        datetime(2024, 10, 5, 13, tzinfo=UTC),
    ),
    *(
        datetime(2011, 12, 29, 8, tzinfo=UTC),
        datetime(2024, 4, 25, 20, tzinfo=UTC),
        datetime(2023, 12, 31, 20, tzinfo=UTC),
    ),
    datetime(2024, 2, 28, 20, tzinfo=UTC),
)
"""Just before something happens to clocks or calendars."""


def moments(anchor: datetime, days: float) -> st.SearchStrategy[datetime]:
    """Around ``anchor``, often on or just before a quarter of an hour."""
    minutes = int(days * 24 * 60)
    return st.builds(
        lambda minute, micros: anchor + timedelta(minutes=minute, microseconds=micros),
        st.integers(-60, minutes) | st.integers(-4, minutes // 15).map(lambda quarter: quarter * 15),
        st.sampled_from((0, 0, -1, 1, 29_999_999)),
    )


def events(anchor: datetime, days: float = 3.0, most: int = 40) -> st.SearchStrategy[list[Event]]:
    """Some of few users, names and tenants, so that they meet."""
    one = st.builds(
        Event,
        moments(anchor, days),
        st.sampled_from(("u", "v", "w", "ü")),
        st.sampled_from(("a", "b", "c")),
        st.sampled_from(("default", "default", "other")),
        st.sampled_from((None, None, "x")),
        st.sampled_from((None, "A", "B")),
        st.sampled_from((None, "web")),
        st.fixed_dictionaries(
            {},
            optional={
                "plan": st.sampled_from(("free", "pro", None, 3, True)),
                "address": st.fixed_dictionaries({}, optional={"city": st.sampled_from(("Rome", "Oslo"))}),
            },
        ),
    )
    return st.lists(one, max_size=most)


def filters(*, served: bool = False) -> st.SearchStrategy[dict[str, Any]]:
    """Few enough conditions that something is left; ``served``: only those that the stored counts know."""

    def some(*values: str) -> st.SearchStrategy[list[str]]:
        return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)

    rolled_up = {"event_name": some("a", "b", "nothing"), "tenant_id": some("default", "other")}
    if served:
        return st.fixed_dictionaries({}, optional=rolled_up)
    paths = {"plan": some("free", "pro", "3", "true"), "address.city": some("Rome")}
    return st.fixed_dictionaries(
        {},
        optional={
            **rolled_up,
            "user_id": some("u", "ü"),
            "experiment_id": some("x"),
            "variant": some("A"),
            "source": some("web"),
            "metadata": st.fixed_dictionaries({}, optional=paths).filter(bool),
        },
    )
