"""What a sender gets for each body: an event, or a refusal that names what to change."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from event_core.errors import InvalidEvent, MalformedBody, TooLarge
from event_core.event import Event
from ingestion_service.accept import Form, accept
from ingestion_service.limits import Limits

NOW = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
LIMITS = Limits()
ID = UUID("0190a3f2-7b3c-7def-8123-456789abcdef")


def body(**changes: Any) -> bytes:
    """A good event with ``changes``; a field changed to ``...`` is left out."""
    fields = {"user_id": "u", "event_name": "e", **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def taken(**changes: Any) -> Event:
    return accept(body(**changes), NOW, LIMITS).event


def refusal(raw: bytes) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        accept(raw, NOW, LIMITS)
    return caught.value


@pytest.mark.parametrize("raw", [b"", b" ", b"\n\t \r\n"], ids=repr)
def test_an_empty_or_blank_body_is_named_as_such(raw: bytes) -> None:
    error = refusal(raw)
    assert (type(error), error.reason) == (MalformedBody, "empty_body")


@pytest.mark.parametrize(
    "raw",
    [
        b"user_id=u&event_name=e",
        b'{"user_id": "u", "event_name": "e"',
        b'{"user_id": "u", "event_name": "e"} {}',
        b"{'user_id': 'u'}",
        b'{"user_id": "u", "event_name": "e",}',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"user_id": "\xff", "event_name": "e"}',
        b'{"user_id": "\xed\xa0\x80", "event_name": "e"}',
        b'{"user_id": "a\x00b", "event_name": "e"}',
        b'{"user_id": "a\nb", "event_name": "e"}',
        rb'{"user_id": "\ud800", "event_name": "e"}',
        rb'{"user_id": "u", "event_name": "e", "metadata": {"\udc00": 1}}',
        rb'{"user_id": "u", "event_name": "e", "metadata": {"a": "\ud83dx"}}',
        b'{"user_id": "u", "event_name": "e", "metadata": {"a": 01}}',
        b'{"user_id": "u", "event_name": "e", "metadata": {"a": ' + b"9" * 5000 + b"}}",
        b"\x1f\x8b\x08\x00",
    ],
    ids=lambda raw: repr(raw[:40]),
)
def test_what_is_not_json_is_malformed(raw: bytes) -> None:
    error = refusal(raw)
    assert (type(error), error.reason) == (MalformedBody, "malformed_body")


@pytest.mark.parametrize("raw", [b"[]", b"[{}]", b"null", b"true", b"1", b'"text"'], ids=repr)
def test_json_that_is_no_object_is_refused_as_such(raw: bytes) -> None:
    assert refusal(raw).reason == "not_an_object"


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"user_id": ...}, "missing_field", "user_id"),
        ({"event_name": ...}, "missing_field", "event_name"),
        ({"user_id": None}, "wrong_type", "user_id"),
        ({"user_id": 5}, "wrong_type", "user_id"),
        ({"user_id": ["u"]}, "wrong_type", "user_id"),
        ({"event_name": True}, "wrong_type", "event_name"),
        ({"event_name": {"a": 1}}, "wrong_type", "event_name"),
        ({"event_name": None}, "wrong_type", "event_name"),
        ({"metadata": []}, "wrong_type", "metadata"),
        ({"metadata": "a=1"}, "wrong_type", "metadata"),
        ({"metadata": 0}, "wrong_type", "metadata"),
        ({"metadata": False}, "wrong_type", "metadata"),
        ({"event_id": 5}, "wrong_type", "event_id"),
        ({"event_id": ""}, "wrong_type", "event_id"),
        ({"event_id": "order-17"}, "wrong_type", "event_id"),
        ({"event_id": "sixteen letters!"}, "wrong_type", "event_id"),
        ({"event_id": [str(ID)]}, "wrong_type", "event_id"),
        ({"user_id": ""}, "bad_length", "user_id"),
        ({"user_id": "u" * 257}, "bad_length", "user_id"),
        ({"event_name": ""}, "bad_length", "event_name"),
        ({"event_name": "\U0001f600" * 257}, "bad_length", "event_name"),
        ({"timestamp": True}, "bad_timestamp", "timestamp"),
        ({"timestamp": {}}, "bad_timestamp", "timestamp"),
        ({"timestamp": ""}, "bad_timestamp", "timestamp"),
        ({"timestamp": "yesterday"}, "bad_timestamp", "timestamp"),
        ({"timestamp": "2026-02-30T00:00:00Z"}, "bad_timestamp", "timestamp"),
        ({"timestamp": "2026-01-31T25:00:00Z"}, "bad_timestamp", "timestamp"),
        ({"timestamp": "2026-01-31T00:00:00+99:00"}, "bad_timestamp", "timestamp"),
    ],
    ids=repr,
)
def test_a_wrong_field_is_named_in_the_message_and_the_details(
    changes: dict[str, Any], reason: str, field: str
) -> None:
    error = refusal(body(**changes))
    assert error.reason == reason
    assert error.message.startswith(f"{field}: ")
    assert [problem["field"] for problem in (error.details or {})["errors"]] == [field]


@pytest.mark.parametrize(
    "timestamp",
    [
        "0000-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "0001-01-01T10:00:00+14:00",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-00:01",
        "9999-12-31T12:00:00-12:00",
        "10000-01-01T00:00:00Z",
        1e18,
        -1e18,
        10**40,
    ],
)
def test_a_time_outside_the_years_1_to_9999_in_utc_is_refused(timestamp: object) -> None:
    error = refusal(body(timestamp=timestamp))
    assert error.reason == "bad_timestamp"
    assert "timestamp" in error.message


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"], ids=repr)
def test_a_number_that_is_no_time_is_refused_as_a_timestamp(number: bytes) -> None:
    assert refusal(b'{"user_id":"u","event_name":"e","timestamp":%b}' % number).reason == "bad_timestamp"


def test_everything_that_is_wrong_is_told_at_once() -> None:
    error = refusal(body(user_id=1, metadata=2, event_id=3))
    assert {problem["field"] for problem in (error.details or {})["errors"]} == {"user_id", "metadata", "event_id"}


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    error = refusal(body(user_id={"password": "hunter2"}, metadata="hunter2"))
    assert "hunter2" not in f"{error.message}{error.details}"


@pytest.mark.parametrize("event_type", ["purchase", "", None, 1])
@pytest.mark.parametrize("event_name", ["e", "", None, 1])
def test_both_event_name_and_event_type_are_ambiguous(event_name: object, event_type: object) -> None:
    error = refusal(body(event_name=event_name, event_type=event_type))
    assert error.reason == "ambiguous_form"
    assert "event_name" in error.message
    assert "event_type" in error.message


@pytest.mark.parametrize(
    "raw",
    [
        rb'{"user_id":"u","event_name":"e","event_\u0074ype":"t"}',
        rb'{"user_id":"u","event_\u006eame":"e","event_type":"t"}',
        rb'{"user_id":"u","event_\u006eame":"e","event_\u0074ype":"t"}',
    ],
    ids=repr,
)
def test_both_are_ambiguous_in_every_spelling(raw: bytes) -> None:
    assert refusal(raw).reason == "ambiguous_form"


@pytest.mark.parametrize("raw", [b"{}", b'{"metadata":{"event_type":"t"}}', b'{"user_id":"event_type"}'], ids=repr)
def test_neither_event_name_nor_event_type_is_a_missing_field_that_names_both(raw: bytes) -> None:
    error = refusal(raw)
    assert error.reason == "missing_field"
    assert "event_name" in error.message
    assert "event_type" in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"event_type": "x"}},
        {"metadata": {"a": '"event_type"'}},
        {"user_id": "event_type"},
        {"event_name": "event_type"},
        {"session": {"event_type": 1}},
    ],
    ids=repr,
)
def test_the_word_event_type_in_a_value_does_not_change_the_form(fields: dict[str, Any]) -> None:
    accepted = accept(body(**fields), NOW, LIMITS)
    assert accepted.form is Form.EVENT
    assert accepted.event["event_name"] == fields.get("event_name", "e")


def test_the_word_event_name_in_a_value_does_not_change_the_form() -> None:
    raw = b'{"user_id":"event_name","event_type":"event_name","properties":{"event_name":1}}'
    assert accept(raw, NOW, LIMITS).form is Form.PRODUCT


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"user_id": ...}, "missing_field", "user_id"),
        ({"event_type": None}, "wrong_type", "event_type"),
        ({"event_type": 5}, "wrong_type", "event_type"),
        ({"event_type": ""}, "bad_length", "event_type"),
        ({"event_type": "t" * 257}, "bad_length", "event_type"),
        ({"properties": []}, "wrong_type", "properties"),
        ({"experiment_id": 5}, "wrong_type", "experiment_id"),
        ({"experiment_id": ""}, "bad_length", "experiment_id"),
        ({"variant": ["A"]}, "wrong_type", "variant"),
        ({"variant": "v" * 257}, "bad_length", "variant"),
        ({"event_id": "order-17"}, "wrong_type", "event_id"),
        ({"event_time": True}, "bad_timestamp", "event_time"),
        ({"event_time": "soon"}, "bad_timestamp", "event_time"),
        ({"event_time": {}}, "bad_timestamp", "event_time"),
        ({"event_time": 1e18}, "bad_timestamp", "event_time"),
        ({"event_time": 253402300800000}, "bad_timestamp", "event_time"),
        ({"event_time": -62135596800000}, "bad_timestamp", "event_time"),
        ({"event_time": "9999-12-31T23:59:59-00:01"}, "bad_timestamp", "event_time"),
        ({"_platform": {}}, "reserved_field", "_platform"),
    ],
    ids=repr,
)
def test_a_wrong_field_of_the_event_type_form_is_named(changes: dict[str, Any], reason: str, field: str) -> None:
    error = refusal(body(event_name=..., **{"event_type": "t", **changes}))
    assert error.reason == reason
    assert [problem["field"] for problem in (error.details or {})["errors"]] == [field]


def test_the_limits_are_the_ones_that_were_given() -> None:
    strict = Limits(depth=3, separators=20)
    shallow = b'{"user_id":"u","event_name":"e","metadata":{"a":[1]}}'
    assert accept(shallow, NOW, strict).event["metadata"] == {"a": [1]}
    with pytest.raises(TooLarge, match="deeper than 3"):
        accept(b'{"user_id":"u","event_name":"e","metadata":{"a":[[1]]}}', NOW, strict)
    with pytest.raises(TooLarge, match="20 JSON separators"):
        accept(b'{"user_id":"u","event_type":"e","properties":{"a":[%b1]}}' % (b"1," * 20), NOW, strict)


@pytest.mark.parametrize("value", [None, {}, {"future_timestamp": True}])
def test_the_platforms_own_name_cannot_be_taken(value: object) -> None:
    error = refusal(body(_platform=value))
    assert error.reason == "reserved_field"
    assert "_platform" in error.message


def test_the_platforms_own_name_is_free_within_metadata() -> None:
    assert taken(metadata={"_platform": 1})["metadata"] == {"_platform": 1}


def nested(levels: int) -> bytes:
    return b'{"user_id":"u","event_name":"e","metadata":{"a":%b%b}}' % (b"[" * levels, b"]" * levels)


def test_nesting_is_taken_up_to_the_limit_and_refused_beyond() -> None:
    deepest = 62  # the body and its metadata are two levels of the 64
    assert accept(nested(deepest), NOW, LIMITS).event["metadata"] == json.loads(nested(deepest))["metadata"]
    error = refusal(nested(deepest + 1))
    assert (type(error), error.reason) == (TooLarge, "too_deep")


@pytest.mark.parametrize("levels", [1_000, 100_000])
def test_absurd_nesting_is_refused_before_it_is_parsed(levels: int) -> None:
    assert refusal(nested(levels)).reason in ("too_deep", "too_wide")


def test_a_body_of_separators_is_refused_before_it_is_parsed() -> None:
    raw = b'{"user_id":"u","event_name":"e","metadata":{"a":[%b0]}}' % (b"0," * 100_000)
    assert refusal(raw).reason == "too_wide"


def test_a_time_far_ahead_is_stored_and_flagged_and_one_a_day_ahead_is_not() -> None:
    ahead = timedelta(hours=24)
    assert taken(timestamp=(NOW + ahead).isoformat())["context"] == {}
    late = taken(timestamp=(NOW + ahead + timedelta(microseconds=1)).isoformat(), page="/")
    assert late["context"] == {"page": "/", "_platform": {"future_timestamp": True}}
    assert late["timestamp"] == NOW + ahead + timedelta(microseconds=1)
