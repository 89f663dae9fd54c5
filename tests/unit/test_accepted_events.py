"""What becomes of a body that is taken: nothing is changed but the time zone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event_core.codec import encode
from event_core.errors import InvalidEvent
from event_core.event import DEFAULT_TENANT
from ingestion_service.accept import Accepted, Form, accept
from tests.unit.decoded import decode
from tests.unit.test_accept import ID, LIMITS, NOW, body, taken

# What every store gives back equal: text without NUL and lone surrogates, 64-bit integers, finite floats.
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
INTEGERS = st.integers(-(2**63), 2**64 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=5)
NAMES = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=256)
KNOWN = {"user_id", "event_name", "metadata", "timestamp", "event_id", "event_type", "_platform"}

# What none of them can hold, as it looks in a body.
UNSTORABLE = [
    rb'"\u0000"',
    rb'"a\u0000b"',
    rb'{"\u0000": 1}',
    rb'"\ud800"',
    rb'"\udfff\ud800"',
    rb'{"\udead": null}',
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-1e999",
    b"1e131072",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"1" * 400,
]
HOLES = [b"%b", b"[%b]", b'{"a": [1, {"b": %b}]}', b'[null, "\\\\u0000", %b]']


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00.000001Z", datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC)),
        ("2026-01-31T12:00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31 12:00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31t12:00:00z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00+05:30", datetime(2026, 1, 31, 6, 30, tzinfo=UTC)),
        ("2026-01-31T23:00:00-02:00", datetime(2026, 2, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00.000001Z", datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00-01:00", datetime(1, 1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999998Z", datetime(9999, 12, 31, 23, 59, 59, 999998, tzinfo=UTC)),
        ("9999-12-31T23:59:59+01:00", datetime(9999, 12, 31, 22, 59, 59, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (1769860800, datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (1769860800.25, datetime(2026, 1, 31, 12, 0, 0, 250000, tzinfo=UTC)),
        (1769860800123, datetime(2026, 1, 31, 12, 0, 0, 123000, tzinfo=UTC)),
        (None, NOW),
        (..., NOW),
    ],
)
def test_a_time_is_kept_as_the_same_moment_in_utc(timestamp: object, expected: datetime) -> None:
    event = taken(timestamp=timestamp)
    assert event["timestamp"] == expected
    assert event["timestamp"].utcoffset() == timedelta(0)
    assert event["received_at"] == NOW


@pytest.mark.parametrize(
    "spelling",
    [str(ID), str(ID).upper(), ID.hex, ID.hex.upper(), f"{{{ID}}}", ID.urn, f"urn:uuid:{str(ID).upper()}"],
)
def test_the_clients_event_id_is_kept_in_every_spelling(spelling: str) -> None:
    assert taken(event_id=spelling)["event_id"] == ID


@pytest.mark.parametrize("number", [0, 1, 2**128 - 1, UUID("c232ab00-9414-11ec-b3c8-9f6bdeced846").int])
def test_any_uuid_will_do_as_an_event_id(number: int) -> None:
    assert taken(event_id=str(UUID(int=number)))["event_id"].int == number


def test_without_an_event_id_each_event_gets_a_new_time_ordered_one() -> None:
    made = [taken(event_id=value)["event_id"] for value in (..., None) * 50]
    assert {one.version for one in made} == {7}
    assert len(set(made)) == len(made)
    assert abs((made[0].int >> 80) / 1000 - datetime.now(UTC).timestamp()) < 60


def test_optional_fields_may_be_null() -> None:
    event = taken(metadata=None, timestamp=None, event_id=None)
    assert (event["metadata"], event["context"], event["tenant_id"]) == ({}, {}, DEFAULT_TENANT)


def test_fields_that_the_form_does_not_know_are_kept_in_the_context() -> None:
    extra = {"session": {"id": 7}, "tenant_id": "other", "received_at": 1, "context": None, "": [], "model_extra": "x"}
    event = taken(**extra)
    assert event["context"] == extra
    assert (event["tenant_id"], event["received_at"]) == (DEFAULT_TENANT, NOW)


@pytest.mark.parametrize(
    "name",
    [
        *("n" * 256, "\U0001f600" * 256, "MixedCase", "stra\u00dfe"),
        *(" padded ", "\t", "\ufeff", "\u200b", "\u202e"),  # what a reader does not see
        *("\ufb01", "\u212b", "\u00c5", "A\u030a", "\u212a"),  # what normalising would make equal
    ],
)
def test_names_are_never_trimmed_folded_or_normalised(name: str) -> None:
    event = taken(user_id=name, event_name=name, metadata={name: name})
    assert (event["user_id"], event["event_name"], event["metadata"]) == (name, name, {name: name})


def test_escaped_and_plain_spellings_of_a_text_are_the_same_text() -> None:
    raw = rb'{"\u0075ser_id":"\ud83d\ude00","event_name":"\u00e9\/","metadata":{"a":"\\u0000"}}'
    event = accept(raw, NOW, LIMITS).event
    assert (event["user_id"], event["event_name"], event["metadata"]) == ("\U0001f600", "é/", {"a": "\\u0000"})
    assert decode(encode(event).value) == event


@settings(max_examples=200)
@given(metadata=OBJECTS, context=OBJECTS, user_id=NAMES, event_name=NAMES)
def test_every_accepted_value_comes_back_from_kafka_equal(
    metadata: dict[str, object], context: dict[str, object], user_id: str, event_name: str
) -> None:
    context = {name: value for name, value in context.items() if name not in KNOWN}
    sent = {**context, "user_id": user_id, "event_name": event_name, "metadata": metadata}
    event = accept(json.dumps(sent).encode(), NOW, LIMITS).event
    assert (event["metadata"], event["context"]) == (metadata, context)
    assert accept(json.dumps(sent, ensure_ascii=False).encode(), NOW, LIMITS).event["metadata"] == metadata

    record = encode(event)

    back = decode(record.value)
    assert back == event
    assert _types(back["metadata"]) == _types(metadata)  # 1 == 1.0 == True, but they are not the same value
    assert record.key == user_id.encode()


def _types(value: object) -> object:
    if isinstance(value, dict):
        return {name: _types(inner) for name, inner in value.items()}
    return [_types(inner) for inner in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize("hole", HOLES, ids=repr)
@pytest.mark.parametrize("value", UNSTORABLE, ids=lambda value: repr(value[:24]))
@pytest.mark.parametrize("field", [b'"metadata": {"x": %b}', b'"x": %b'], ids=["metadata", "context"])
def test_what_no_store_can_hold_is_refused_wherever_it_stands(field: bytes, value: bytes, hole: bytes) -> None:
    raw = b'{"user_id": "u", "event_name": "e", %b}' % (field % (hole % value))
    with pytest.raises(InvalidEvent):
        encode(accept(raw, NOW, LIMITS).event)


@pytest.mark.parametrize("field", ["user_id", "event_name"])
def test_a_name_with_nul_is_refused(field: str) -> None:
    with pytest.raises(InvalidEvent):
        encode(accept(body(**{field: "a\x00"}), NOW, LIMITS).event)


@settings(max_examples=200)
@given(
    st.binary(max_size=200)
    | st.text(st.characters(), max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_an_event_or_an_invalid_event(raw: bytes) -> None:
    assert_decided(raw)


# Whatever a generator of nearly right bodies comes up with: fields of any type, then bytes changed here and there.
ANY_TEXT = st.text(st.characters(), max_size=8)  # with lone surrogates and NUL
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=10,
)
NEARLY = st.dictionaries(st.sampled_from([*sorted(KNOWN), "extra"]), ANYTHING)
EDITS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)


@settings(max_examples=300)
@given(NEARLY, EDITS, st.booleans())
def test_a_nearly_right_body_is_an_event_or_an_invalid_event(
    fields: dict[str, object], edits: list[tuple[int, int]], good_names: bool
) -> None:
    names = {"user_id": "u", "event_name": "e"} if good_names else {}
    raw = bytearray(json.dumps({**fields, **names}).encode())
    for position, byte in edits:
        raw[position % len(raw)] = byte
    assert_decided(bytes(raw))


def assert_decided(raw: bytes) -> None:
    try:
        record = encode(accept(raw, NOW, LIMITS).event)
    except InvalidEvent:
        return
    assert decode(record.value)["received_at"] == NOW


# --- The event_type form ----------------------------------------------------------------------------------------------


def product(**changes: object) -> Accepted:
    return accept(body(event_name=..., **{"event_type": "page_view", **changes}), NOW, LIMITS)


def test_the_documented_product_event_is_taken_as_it_is_documented() -> None:
    sent = {
        "event_id": str(ID),
        "user_id": "user_123",
        "event_type": "page_view",
        "event_time": 1710000000000,
        "experiment_id": "exp_42",
        "variant": "A",
        "properties": {"page": "checkout"},
    }
    accepted = accept(json.dumps(sent).encode(), NOW, LIMITS)
    assert accepted.form is Form.PRODUCT
    assert accepted.event == {
        "event_id": ID,
        "tenant_id": DEFAULT_TENANT,
        "user_id": "user_123",
        "event_name": "page_view",
        "timestamp": datetime(2024, 3, 9, 16, tzinfo=UTC),
        "received_at": NOW,
        "metadata": {"page": "checkout"},
        "context": {},
        "experiment_id": "exp_42",
        "variant": "A",
    }
    assert decode(encode(accepted.event).value) == accepted.event


@pytest.mark.parametrize(
    ("event_time", "expected"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1, datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)),
        (1769860800, datetime(1970, 1, 21, 11, 37, 40, 800000, tzinfo=UTC)),  # never seconds
        (1769860800123, datetime(2026, 1, 31, 12, 0, 0, 123000, tzinfo=UTC)),
        (1769860800123.25, datetime(2026, 1, 31, 12, 0, 0, 123250, tzinfo=UTC)),
        (253402300799999, datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)),
        ("2026-01-31T12:00:00.000001Z", datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC)),
        ("2026-01-31T12:00:00+05:30", datetime(2026, 1, 31, 6, 30, tzinfo=UTC)),
        ("2026-01-31T12:00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (None, NOW),
        (..., NOW),
    ],
)
def test_an_event_time_counts_milliseconds(event_time: object, expected: datetime) -> None:
    event = product(event_time=event_time).event
    assert event["timestamp"] == expected
    assert event["timestamp"].utcoffset() == timedelta(0)


def test_what_a_product_event_leaves_out_is_absent() -> None:
    event = product(properties=None, experiment_id=None, variant=..., event_id=None).event
    assert (event["metadata"], event["context"]) == ({}, {})
    assert "experiment_id" not in event
    assert "variant" not in event
    assert event["event_id"].version == 7


def test_fields_of_the_other_form_are_unknown_fields() -> None:
    event = product(metadata={"a": 1}, timestamp="soon", tenant_id="t").event
    assert event["context"] == {"metadata": {"a": 1}, "timestamp": "soon", "tenant_id": "t"}
    assert event["timestamp"] == NOW
    other = taken(properties=[1], event_time="soon", variant=2)
    assert other["context"] == {"properties": [1], "event_time": "soon", "variant": 2}


def test_a_product_event_far_ahead_is_flagged() -> None:
    assert product(event_time=(NOW + timedelta(days=2)).timestamp() * 1000).event["context"] == {
        "_platform": {"future_timestamp": True}
    }


# --- Whether two events are the same -----------------------------------------------------------------------------------

SENT = {
    "event_id": str(ID),
    "user_id": "u",
    "event_name": "e",
    "metadata": {"b": [1, {"y": None, "x": 1.5}], "a": "é"},
    "timestamp": "2026-01-31T12:00:00Z",
    "session": {"z": 1, "a": 2},
}


def content(now: datetime = NOW, **changes: Any) -> int | None:
    fields = {name: value for name, value in {**SENT, **changes}.items() if value is not ...}
    return accept(json.dumps(fields).encode(), now, LIMITS).content


def test_the_same_content_in_another_order_spacing_or_spelling_has_the_same_hash() -> None:
    turned = {name: SENT[name] for name in reversed(SENT)} | {"metadata": {"a": "é", "b": [1, {"x": 1.5, "y": None}]}}
    spaced = json.dumps(turned, indent=3, ensure_ascii=False).encode()
    assert accept(spaced, NOW, LIMITS).content == content() is not None
    assert content(now=NOW + timedelta(hours=1)) == content()
    assert content(timestamp=1769860800) == content(timestamp="2026-01-31T13:00:00+01:00") == content()
    assert content(timestamp=..., now=NOW + timedelta(hours=1)) == content(timestamp=None)


@pytest.mark.parametrize(
    "changes",
    [
        {"user_id": "v"},
        {"event_name": "f"},
        {"event_name": ..., "event_type": "e"},
        {"metadata": {}},
        {"metadata": {"b": [1, {"y": None, "x": 1}], "a": "é"}},
        {"metadata": {"b": [{"y": None, "x": 1.5}, 1], "a": "é"}},
        {"timestamp": "2026-01-31T12:00:00.000001Z"},
        {"timestamp": None},
        {"session": {"z": 1}},
        {"more": None},
    ],
    ids=repr,
)
def test_other_content_has_another_hash(changes: dict[str, Any]) -> None:
    assert content(**changes) != content()


@pytest.mark.parametrize(
    "changes", [{"experiment_id": "b"}, {"variant": "B"}, {"event_time": 1}, {"properties": {"a": 2}}]
)
def test_other_content_of_a_product_event_has_another_hash(changes: dict[str, object]) -> None:
    sent = {"event_id": str(ID), "experiment_id": "a", "variant": "A", "event_time": 0, "properties": {"a": 1}}
    assert product(**{**sent, **changes}).content != product(**sent).content is not None


def test_without_an_id_of_the_client_there_is_nothing_to_compare() -> None:
    assert content(event_id=None) is None
    assert product().content is None


def test_what_cannot_be_hashed_is_left_to_the_encoder_to_refuse() -> None:
    assert content(metadata={"a": 2**64}) is None
