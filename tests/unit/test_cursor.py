"""The token between two pages."""

from __future__ import annotations

import base64
import string
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_service.cursor import Order, Place, read_cursor, write_cursor
from analytics_service.errors import InvalidQuery

ORDERS: tuple[Order, ...] = ("newest", "oldest")
PLACE = Place(datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC), UUID("018f4e9a-6c1e-7b0a-9c0e-3f6f1c2d4b5a"))
TIMES = st.datetimes(timezones=st.just(UTC))


@given(TIMES, st.uuids(), st.sampled_from(ORDERS))
def test_it_brings_back_the_place_to_the_microsecond_and_needs_no_escaping(
    at: datetime, event: UUID, order: Order
) -> None:
    token = write_cursor(Place(at, event), order)
    assert quote(token, safe="") == token
    assert read_cursor(token, order) == (at, event)


def test_a_place_in_another_zone_is_the_same_place() -> None:
    there = datetime.fromisoformat("2026-01-31T14:00:00.123456+02:00")
    assert write_cursor(Place(there, PLACE.event_id), "newest") == write_cursor(PLACE, "newest")


def test_a_cursor_of_the_other_order_is_refused_and_told_which() -> None:
    for order, other in (ORDERS, ORDERS[::-1]):
        with pytest.raises(InvalidQuery, match=f"order={order}"):
            read_cursor(write_cursor(PLACE, order), other)


@given(st.integers(0, 39), st.sampled_from(string.ascii_letters + string.digits + "-_"))
def test_any_changed_character_is_noticed(place: int, character: str) -> None:
    token = write_cursor(PLACE, "newest")
    changed = token[:place] + character + token[place + 1 :]
    if changed != token:
        with pytest.raises(InvalidQuery, match="cursor"):
            read_cursor(changed, "newest")


@given(st.text() | st.binary(max_size=40).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_what_is_no_cursor_is_refused_and_never_fails_otherwise(text: str) -> None:
    with pytest.raises(InvalidQuery, match="next_cursor"):
        read_cursor(text, "newest")


def test_a_token_that_is_cut_or_has_more_is_refused() -> None:
    token = write_cursor(PLACE, "oldest")
    for broken in ("", token[:-1], token[:-4], token + "A", token + "AAAA", token + "=", f" {token}", token + "\n"):
        with pytest.raises(InvalidQuery):
            read_cursor(broken, "oldest")


def test_the_ends_of_time_have_cursors() -> None:
    for at in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC) - timedelta(microseconds=1)):
        assert read_cursor(write_cursor(Place(at, UUID(int=0)), "newest"), "newest") == (at, UUID(int=0))
