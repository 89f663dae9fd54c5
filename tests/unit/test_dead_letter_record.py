"""A dead letter on a topic keeps the original, says what was wrong, and can always be sent."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_core.codec import Record
from event_core.dead_letters import (
    MAX_DEAD_LETTER_BYTES,
    MAX_HEAD_BYTES,
    STAGE_REFUSED,
    dead_letter_record,
    storable_text,
)
from event_core.topics import DLQ_MAX_MESSAGE_BYTES

AT = datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)
ANY_TEXT = st.text(st.characters(), max_size=60)  # lone surrogates and NUL too


def letter(original: bytes = b"original", **given: Any) -> Record:
    usual: dict[str, Any] = {
        "topic": "events",
        "reason": "missing_field",
        "error": "user_id: Field required",
        "stage": STAGE_REFUSED,
        "source": "ingestion_service",
        "failed_at": AT,
    }
    return dead_letter_record(original, **{**usual, **given})


def names(record: Record) -> list[str]:
    return [name for name, _ in record.headers]


def test_it_holds_the_original_and_where_when_and_why_it_failed() -> None:
    dead_letter_id = UUID("01990000-0000-7000-8000-000000000001")
    made = letter(
        b'{"event_name": 1}',
        key=b"k",
        partition=3,
        offset=42,
        retry_count=2,
        dead_letter_id=dead_letter_id,
        headers=[("event-id", b"1"), ("traceparent", b"00-1")],
    )
    assert (made.key, made.value) == (b"k", b'{"event_name": 1}')
    assert made.headers == [
        ("__connect.errors.topic", b"events"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"42"),
        ("__connect.errors.connector.name", b"ingestion_service"),
        ("__connect.errors.stage", b"VALUE_CONVERTER"),
        ("__connect.errors.exception.class.name", b"missing_field"),
        ("__connect.errors.exception.message", b"user_id: Field required"),
        ("retry-count", b"2"),
        ("failed-at", b"2026-01-31T12:00:00.123456Z"),
        ("dead-letter-id", str(dead_letter_id).encode()),
        ("event-id", b"1"),
        ("traceparent", b"00-1"),
    ]


def test_what_is_not_known_is_left_out() -> None:
    made = letter()
    assert {"__connect.errors.partition", "__connect.errors.offset", "dead-letter-stub"}.isdisjoint(names(made))
    assert dict(made.headers)["retry-count"] == b"0"
    assert made.key == b""


def test_each_letter_has_an_id_of_its_own_that_tells_the_time() -> None:
    ids = [UUID(dict(letter().headers)["dead-letter-id"].decode()) for _ in range(100)]
    assert len(set(ids)) == 100
    assert {(made.version, made.variant) for made in ids} == {(7, "specified in RFC 4122")}
    assert {made.int >> 80 for made in ids} == {int(AT.timestamp() * 1000)}


def test_the_time_of_failure_is_utc_whatever_zone_it_was_given_in() -> None:
    made = letter(failed_at=datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2))))
    assert dict(made.headers)["failed-at"] == b"2025-12-31T23:30:00.000000Z"


@given(
    st.binary(max_size=300),
    ANY_TEXT,
    ANY_TEXT,
    st.lists(st.tuples(ANY_TEXT, st.none() | st.binary(max_size=40)), max_size=4),
    st.datetimes(timezones=st.just(UTC)),
)
def test_whatever_it_holds_the_original_is_kept_and_every_header_is_text(
    original: bytes, error: str, reason: str, headers: list[tuple[str, bytes | None]], failed_at: datetime
) -> None:
    made = letter(original, error=error, reason=reason, topic=reason, headers=headers, failed_at=failed_at)
    assert made.value == original
    assert len(made.headers) == 8 + len(headers)
    for name, value in made.headers:
        assert name.encode().decode() == name
        value.decode()
    for name, value in made.headers[:8]:
        assert b"\x00" not in value, name


@given(st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=40)), max_size=4))
def test_the_original_headers_can_be_read_back(headers: list[tuple[str, bytes]]) -> None:
    made = letter(headers=headers).headers[8:]
    back = [
        (name.removeprefix("base64:"), base64.b64decode(value)) if name.startswith("base64:") else (name, value)
        for name, value in made
    ]
    assert back == headers


def test_a_letter_that_fails_again_has_the_new_headers_only() -> None:
    first = letter(error="first", partition=1, offset=1, headers=[("event-id", b"1")])
    again = letter(first.value, error="second", retry_count=1, headers=first.headers)
    assert len(set(names(again))) == len(names(again))
    shown = dict(again.headers)
    assert (shown["__connect.errors.exception.message"], shown["retry-count"], shown["event-id"]) == (
        b"second",
        b"1",
        b"1",
    )
    assert "__connect.errors.offset" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\x00b", "a\\u0000b"), ("a\ud800b", "a\\ud800b"), ("x" * 5_000, "x" * 2_000), ("\x00" * 2_000, "\\u0000" * 333)],
    ids=["NUL", "a lone surrogate", "long", "long once escaped"],
)
def test_an_error_is_shown_readably_and_bounded(text: str, shown: str) -> None:
    assert storable_text(text).startswith(shown)
    assert len(storable_text(text)) == min(2_000, len(storable_text(text, 10**6)))
    assert dict(letter(error=text).headers)["__connect.errors.exception.message"] == storable_text(text).encode()


@pytest.mark.parametrize(
    ("original", "encoding"),
    [
        (b"x" * (MAX_DEAD_LETTER_BYTES + 1), "utf-8"),
        # The cut goes through a character.
        (b"x" + "\U0001f600".encode() * 500_000, "utf-8"),
        (b"\x00" * 2_000_000, "utf-8"),
        (b"\xff" * 2_000_000, "base64"),
        (b"x" * 10 + b"\xff" + b"x" * 2_000_000, "base64"),
    ],
    ids=["just too large", "cut in a character", "NULs", "no text", "no text within"],
)
def test_too_large_an_original_is_replaced_by_its_beginning(original: bytes, encoding: str) -> None:
    made = letter(original)
    stub = json.loads(made.value)
    head = stub.pop("head")
    kept = base64.b64decode(head) if encoding == "base64" else head.encode()
    assert original.startswith(kept)
    assert MAX_HEAD_BYTES - 4 < len(kept) <= MAX_HEAD_BYTES
    assert stub == {
        "truncated": True,
        "bytes": len(original),
        "sha256": hashlib.sha256(original).hexdigest(),
        "encoding": encoding,
    }
    assert dict(made.headers)["dead-letter-stub"] == b"1"


def test_an_original_at_the_limit_is_kept() -> None:
    original = b"\xff" * MAX_DEAD_LETTER_BYTES
    assert letter(original).value == original


@given(st.binary(max_size=200).map(lambda part: part * 100), st.integers(4096, 8192))
def test_a_stub_is_never_larger_than_the_limit(original: bytes, max_bytes: int) -> None:
    assert len(letter(original, max_bytes=max_bytes).value) <= max_bytes


def test_no_letter_is_larger_than_the_topic_takes() -> None:
    made = letter(
        b"x" * MAX_DEAD_LETTER_BYTES,
        key=b"k" * MAX_HEAD_BYTES,
        error="\U0001f600" * 10_000,
        headers=[(f"h{number}", b"\xff" * 1_000) for number in range(1_000)],
    )
    size = len(made.key) + len(made.value) + sum(len(name.encode()) + len(value) + 10 for name, value in made.headers)
    assert size < DLQ_MAX_MESSAGE_BYTES
    kept = sum(name.startswith("base64:") for name in names(made))
    assert dict(made.headers)["dead-letter-left-out"] == f"{1_000 - kept} headers".encode()


def test_a_huge_key_is_left_out_and_said_to_be() -> None:
    made = letter(key=b"k" * (MAX_HEAD_BYTES + 1))
    assert made.key == b""
    assert dict(made.headers)["dead-letter-left-out"] == b"key"
