"""A message that was set aside keeps its bytes, and its letter can always be stored."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.dead_letter import DeadLetter, dead_letter, headers_of, identity, letter_on_topic, replay_of
from event_core.codec import Record
from event_core.dead_letters import dead_letter_record
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


# --- a replayed message

ID = UUID("01990000-0000-7000-8000-000000000001")
REPLAY = (("retry-count", b"2"), ("dead-letter-id", str(ID).encode()))


def test_a_replayed_message_is_the_letter_that_it_was() -> None:
    made = letter(headers=(("event-id", b"1"), *REPLAY))
    assert (made.dead_letter_id, made.retry_count) == (ID, 2)
    assert headers_of(made.headers) == [("event-id", b"1")]


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("a", b"1"),),
        (*REPLAY, ("a", b"1")),
        (("dead-letter-id", b"x"),),
        (("dead-letter-id", b""),),
        (("dead-letter-id", b"\xff" * 36),),
    ],
)
def test_what_does_not_end_with_a_letters_id_is_no_replay(headers: tuple[tuple[str, bytes], ...]) -> None:
    assert replay_of(headers) is None
    assert (letter(headers=headers).dead_letter_id, letter(headers=headers).retry_count) == (None, 0)


@pytest.mark.parametrize(("count", "read"), [(b"7", 7), (b"", 1), (b"x", 1), (b"-1", 1), (b"9" * 20, 1)])
def test_a_replay_whose_count_cannot_be_read_counts_as_the_first(count: bytes, read: int) -> None:
    assert replay_of([("retry-count", count), REPLAY[1]]) == (ID, read)
    assert replay_of([REPLAY[1]]) == (ID, 1)


# --- a record of the dead letters' topic


def on_topic(record: Record) -> DeadLetter:
    return letter_on_topic(FakeMessage("events-dlq", 0, 9, record.value, record.key, 5, tuple(record.headers)))


@given(
    st.binary(max_size=60),
    st.binary(min_size=1, max_size=9) | st.none(),
    st.lists(
        st.tuples(st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=8), st.binary(max_size=9)),
        max_size=4,
    ),
    st.integers(0, 2**31 - 1) | st.none(),
    st.integers(0, 2**31 - 1),
)
def test_a_letter_is_read_as_it_was_written(
    value: bytes, key: bytes | None, headers: list[tuple[str, bytes]], place: int | None, count: int
) -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)
    record = dead_letter_record(
        value,
        topic="events",
        reason="missing_field",
        error="user_id: Field required",
        stage="VALUE_CONVERTER",
        source="ingestion_service",
        failed_at=moment,
        retry_count=count,
        key=key,
        headers=headers,
        partition=place,
        offset=place,
        dead_letter_id=ID,
    )
    made = on_topic(record)
    assert (made.value, made.key, made.topic, made.partition, made.offset) == (value, key, "events", place, place)
    assert (made.reason, made.error, made.source) == ("missing_field", "user_id: Field required", "ingestion_service")
    assert (made.failed_at, made.retry_count, made.dead_letter_id) == (moment, count, ID)
    assert (made.stage, made.stub, made.on_topic) == ("VALUE_CONVERTER", False, True)
    assert headers_of(made.headers) == headers


def test_of_a_stub_the_event_is_known_where_its_beginning_says_it() -> None:
    event_id = str(UUID(int=7))
    original = b'{"event_id":"%s","tenant_id":"t","metadata":{"a":"%s"}}' % (event_id.encode(), b"x" * 2_000_000)
    given_up: dict[str, Any] = {"topic": "events", "reason": "r", "error": "", "stage": "", "source": ""}
    made = on_topic(dead_letter_record(original, failed_at=datetime(2026, 1, 1, tzinfo=UTC), **given_up))
    assert (made.stub, made.event_id) == (True, UUID(event_id))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["dead-letter-id", "__connect.errors.topic", "__connect.errors.offset", "failed-at", "retry-count", "a"]
            ),
            st.none()
            | st.binary(max_size=9)
            | st.sampled_from([str(ID).encode(), b"events", b"1", b"9999-12-31T23:59:59-14:00"]),
        ),
        max_size=8,
    ),
    st.none() | st.binary(max_size=20),
)
def test_whatever_lies_on_the_topic_is_a_letter(headers: list[tuple[str, Any]], value: bytes | None) -> None:
    made = letter_on_topic(FakeMessage("events-dlq", 0, 9, value, None, -5, tuple(headers)))
    assert (made.value, made.on_topic) == (value, True)
    assert made.topic
    if made.reason == "not_a_dead_letter":
        assert (made.topic, made.partition, made.offset, made.dead_letter_id) == ("events-dlq", 0, 9, None)
    for text in (made.topic, made.reason, made.error, made.source, made.headers):
        assert "\x00" not in text


@pytest.mark.parametrize(
    ("value", "headers", "event_id", "tenant"),
    [
        (b'{"event_id":"%s","tenant_id":"t"}', (), ID, "t"),
        (b'{"event_id":"%s","metadata":{"a":1e999}}', (), ID, None),
        (b'{"event_id" : "%s", cut', (), ID, None),
        (b'{"specversion":"1.0","id":"%s","tenantid":"t"}', (), ID, "t"),
        (b'{"id":"%s"}', (), None, None),
        (b"no json", (("event-id", str(ID).encode()),), ID, None),
        (b"data", (("ce-id", str(ID).encode()), ("ce-tenantid", b"t")), ID, "t"),
        (b"\xff", (("ce-tenantid", b"\xff"),), None, "\ufffd"),
        (b'{"event_id":"%s","tenant_id":5}', (), ID, None),
        (b'{"event_id":5,"tenant_id":"a\\u0000"}', (), None, "a\\u0000"),
        (None, (), None, None),
        (b"[" * 100_000, (), None, None),
    ],
)
def test_whose_event_it_is_is_known_as_far_as_the_bytes_say_it(
    value: bytes | None, headers: tuple[tuple[str, bytes], ...], event_id: UUID | None, tenant: str | None
) -> None:
    if value is not None and b"%s" in value:
        value = value % str(ID).encode()
    assert identity(value, headers) == (event_id, tenant)
