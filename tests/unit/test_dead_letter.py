"""A message that was set aside keeps its bytes, and its letter can always be stored."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.dead_letter import DeadLetter, dead_letter
from event_core.errors import UndecodableMessage
from event_core.source import FakeMessage


def letter(
    value: bytes | None = b"v",
    *,
    key: bytes | None = b"k",
    timestamp: int = 0,
    headers: tuple[tuple[str, bytes], ...] = (),
    error: str = "bad",
) -> DeadLetter:
    message = FakeMessage("events", 3, 42, value, key, timestamp, headers)
    return dead_letter(message, UndecodableMessage(error, reason="not_json"))


def test_a_letter_says_where_the_message_was_and_why_it_was_set_aside() -> None:
    made = letter(error="no JSON at all")
    assert (made.topic, made.partition, made.offset) == ("events", 3, 42)
    assert (made.reason, made.error) == ("not_json", "no JSON at all")


@given(st.none() | st.binary(max_size=50), st.none() | st.binary(max_size=50))
def test_the_original_bytes_are_kept(value: bytes | None, key: bytes | None) -> None:
    made = letter(value, key=key)
    assert (made.value, made.key) == (value, key)


HEADERS = [
    (),
    (("event-id", b"1"),),
    (("a", b"1"), ("a", b"2")),
    (("", b""),),
    (("binary", bytes(range(256))),),
    (("\U0001f600", "é".encode()),),
]


@pytest.mark.parametrize("headers", HEADERS, ids=repr)
def test_headers_are_kept_in_their_order_with_their_bytes(headers: tuple[tuple[str, bytes], ...]) -> None:
    shown = json.loads(letter(headers=headers).headers)
    assert [(name, base64.b64decode(value)) for name, value in shown] == list(headers)


def test_a_header_without_a_value_is_kept_as_such() -> None:
    message = FakeMessage("events", 3, 42, b"", headers=(("a", None),))  # type: ignore[arg-type]  # Kafka allows it
    made = dead_letter(message, UndecodableMessage("x", reason="not_json"))
    assert json.loads(made.headers) == [["a", None]]


@given(
    st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=10)), max_size=4), st.text(st.characters(), max_size=50)
)
def test_whatever_a_message_holds_its_letter_fits_into_postgres(headers: list[tuple[str, bytes]], error: str) -> None:
    made = letter(headers=tuple(headers), error=error)
    for text in (made.headers, made.error):
        assert "\x00" not in text
        assert text.encode().decode() == text  # fails for a lone surrogate
    assert all("\x00" not in name for name, _ in json.loads(made.headers))


@pytest.mark.parametrize(
    ("error", "shown"),
    [("a\x00b", "a\\u0000b"), ("a\ud800b", "a\\ud800b"), ("x" * 5000, "x" * 2000), ("\U0001f600", "\U0001f600")],
    ids=["NUL", "a lone surrogate", "long", "astral"],
)
def test_an_error_is_shown_readably(error: str, shown: str) -> None:
    assert letter(error=error).error == shown


@pytest.mark.parametrize(
    ("timestamp", "moment"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1_769_860_800_123, datetime(2026, 1, 31, 12, 0, 0, 123_000, tzinfo=UTC)),
        (-1, None),
        (-(2**63), None),
        (2**63 - 1, None),
        (253_402_300_800_000, None),
    ],
)
def test_a_time_that_is_none_does_not_lose_the_letter(timestamp: int, moment: datetime | None) -> None:
    made = letter(b"kept", timestamp=timestamp)
    assert (made.message_at, made.value) == (moment, b"kept")
