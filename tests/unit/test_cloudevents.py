"""CloudEvents 1.0 over HTTP: what the reference SDK sends in each mode, the specification's corner cases, and hostile ones."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from event_core.codec import encode
from event_core.errors import InvalidEvent, MalformedBody, TooLarge, Unstorable
from event_core.event import DEFAULT_TENANT
from ingestion_service.cloudevents import ID_NAMESPACE, Mode, batched, binary, cloudevent_id, mode_of, structured
from ingestion_service.errors import UnsupportedEncoding
from ingestion_service.forms import Accepted, Form, Refused
from ingestion_service.limits import Limits
from tests.unit.decoded import decode

NOW = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
LIMITS = Limits()
ID = UUID("0190a3f2-7b3c-7def-8123-456789abcdef")
GOOD = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "shop.order", "subject": "user_123"}
QUICK_SECONDS = 5.0
"""Some hundred times what an idle machine needs."""

Headers = list[tuple[bytes, bytes]]


def body(**changes: Any) -> bytes:
    """A good CloudEvent with ``changes``; an attribute changed to ``...`` is left out."""
    return json.dumps({name: value for name, value in {**GOOD, **changes}.items() if value is not ...}).encode()


def taken(**changes: Any) -> Accepted:
    return structured(body(**changes), NOW, LIMITS)


def refused(**changes: Any) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        structured(body(**changes), NOW, LIMITS)
    return caught.value


def heads(content_type: Any = b"application/json", **changes: Any) -> Headers:
    """A good CloudEvent's headers with ``changes``, whose values are header values as they are sent."""
    fields = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    headers = [
        (f"ce-{name}".encode(), value if isinstance(value, bytes) else value.encode()) for name, value in fields.items()
    ]
    return headers if content_type is None else [*headers, (b"content-type", content_type)]


def sent(headers: Headers, raw: bytes = b"{}") -> Accepted:
    return binary(headers, raw, NOW, LIMITS)


def refused_binary(headers: Headers, raw: bytes = b"{}") -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        binary(headers, raw, NOW, LIMITS)
    return caught.value


def refused_batch(raw: bytes, limits: Limits = LIMITS) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        batched(raw, NOW, limits)
    return caught.value


def items_of(raw: bytes) -> list[Accepted | Refused]:
    return list(batched(raw, NOW, LIMITS).items)


def as_asgi(headers: Mapping[str, str]) -> Headers:
    """Headers as a server hands them on: names in lower case."""
    return [(name.lower().encode(), value.encode("ascii")) for name, value in headers.items()]


def by_sdk(message: HTTPMessage) -> Accepted:
    """What becomes of a request that the SDK made, by the mode that its headers ask for."""
    headers = as_asgi(message.headers)
    mode = mode_of(dict(headers))
    assert mode in (Mode.STRUCTURED, Mode.BINARY)
    if mode is Mode.BINARY:
        return binary(headers, message.body, NOW, LIMITS)
    return structured(message.body, NOW, LIMITS)


def in_all_modes(event: CloudEvent) -> list[Accepted]:
    whole = to_structured_event(event)
    (item,) = items_of(b"[" + whole.body + b"]")
    assert isinstance(item, Accepted)
    return [by_sdk(whole), by_sdk(to_binary_event(event)), item]


# --- The reference SDK as the sender ----------------------------------------------------------------------------------

# Attributes: no control characters (the specification forbids them), no lone surrogates.
VALUES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)
EXTENSIONS = st.dictionaries(
    st.from_regex(r"x[a-z0-9]{0,18}", fullmatch=True),
    VALUES | st.booleans().map(lambda value: str(value).lower()) | st.integers(-(2**31), 2**31 - 1).map(str),
    max_size=4,
)
TIMES = st.integers(-(10**16), 2 * 10**17).map(
    lambda micros: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
)


@st.composite
def cloud_events(draw: st.DrawFn) -> CloudEvent:
    attributes: dict[str, Any] = {
        "id": draw(VALUES | st.uuids().map(str)),
        "source": draw(VALUES),
        "type": draw(VALUES),
        "subject": draw(VALUES),
        "time": draw(TIMES),
        **draw(EXTENSIONS),
    }
    for name in ("userid", "partitionkey", "tenantid", "dataschema"):
        if draw(st.booleans()):
            attributes[name] = draw(VALUES)
    if draw(st.booleans()):
        attributes["datacontenttype"] = draw(
            st.sampled_from(
                ["application/json", "application/json; charset=utf-8", "application/vnd.x+json", "text/json"]
            )
        )
    return CloudEvent(attributes, draw(st.dictionaries(TEXT, JSON, max_size=4)))


@settings(max_examples=200)
@given(cloud_events())
def test_what_the_sdk_sends_is_the_same_event_in_every_mode(event: CloudEvent) -> None:
    first, *others = in_all_modes(event)
    for other in others:
        assert (other.event, other.content, other.form) == (first.event, first.content, Form.EVENT)
    given, made = event.get_attributes(), first.event
    assert first.content is not None
    assert (made["event_name"], made["source"], made["metadata"]) == (given["type"], given["source"], event.get_data())
    assert made["timestamp"] == given["time"]
    assert made["received_at"] == NOW
    assert made["user_id"] == given.get("userid", given.get("partitionkey", given["subject"]))
    assert made["tenant_id"] == given.get("tenantid", DEFAULT_TENANT)
    kept = made["context"]["cloudevents"]
    for name in set(given) - {"id", "type", "source", "time", "userid", "tenantid"}:
        assert kept[name] == given[name]
    assert kept.get("id", str(made["event_id"])) == given["id"]
    assert decode(encode(made).value) == made


def test_an_event_of_the_sdk_that_says_nothing_beside_the_required() -> None:
    event = CloudEvent({"type": "t", "source": "s", "userid": "u", "time": NOW})
    for accepted in in_all_modes(event):
        assert accepted.event["event_id"] == UUID(event.get_id())
        assert accepted.event["metadata"] == {}
        assert accepted.event["context"] == {"cloudevents": {"specversion": "1.0"}}


@pytest.mark.parametrize(
    ("data", "content_type", "metadata"),
    [
        ("<a/>", "application/xml", {"data": "<a/>"}),
        ("a,b\n", "text/csv; charset=utf-8", {"data": "a,b\n"}),
        (b"\x00\xff", "image/png", {"data_base64": "AP8="}),
        (b"text", "application/octet-stream", {"data_base64": "dGV4dA=="}),
        (b"text", "text/plain", {"data": "text"}),
        (b"te\x00xt", "text/plain", {"data_base64": "dGUAeHQ="}),
        (b"\xe9", "text/plain; charset=latin-1", {"data_base64": "6Q=="}),
        (b'{"a": 1}', "application/json", {"a": 1}),
        (b"[1]", "application/json", {"data": [1]}),
    ],
)
def test_other_data_of_the_sdk_is_the_same_in_every_mode(
    data: Any, content_type: str, metadata: dict[str, Any]
) -> None:
    event = CloudEvent({"type": "t", "source": "s", "userid": "u", "datacontenttype": content_type}, data)
    for accepted in in_all_modes(event):
        assert accepted.event["metadata"] == metadata
        assert accepted.event["context"]["cloudevents"]["datacontenttype"] == content_type


# --- Which mode -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "mode"),
    [
        ({}, None),
        ({b"content-type": b"application/json"}, None),
        ({b"content-type": b"text/plain;charset=UTF-8"}, None),
        ({b"content-type": b"application/x-cloudevents"}, None),
        ({b"content-type": b"text/plain; name=cloudevents"}, None),
        ({b"ce-id": b"1"}, None),
        ({b"ce-specversion": b"1.0"}, Mode.BINARY),
        ({b"ce-specversion": b"0.3", b"content-type": b"application/json"}, Mode.BINARY),
        ({b"ce-specversion": b"1.0", b"content-type": b"text/plain"}, Mode.BINARY),
        ({b"content-type": b"application/cloudevents+json"}, Mode.STRUCTURED),
        ({b"content-type": b"Application/CloudEvents+JSON ; charset=UTF-8"}, Mode.STRUCTURED),
        ({b"content-type": b"application/cloudevents+json", b"ce-specversion": b"1.0"}, Mode.STRUCTURED),
        ({b"content-type": b"application/cloudevents-batch+json;charset=utf-8"}, Mode.BATCHED),
    ],
    ids=repr,
)
def test_the_headers_tell_the_mode(headers: dict[bytes, bytes], mode: Mode | None) -> None:
    assert mode_of(headers) is mode


@pytest.mark.parametrize(
    "form", [b"", b"+xml", b"+avro", b"+protobuf", b"-batch", b"-batch+avro", b"+json2", b"+json+gzip"]
)
def test_another_format_of_cloudevents_is_refused(form: bytes) -> None:
    with pytest.raises(UnsupportedEncoding) as caught:
        mode_of({b"content-type": b"application/cloudevents" + form, b"ce-specversion": b"1.0"})
    assert caught.value.reason == "unsupported_media_type"
    assert "application/cloudevents+json" in caught.value.message


# --- Identity ---------------------------------------------------------------------------------------------------------


def test_an_id_that_is_a_uuid_is_the_event_id_and_is_not_kept_twice() -> None:
    for spelling in (str(ID), str(ID).upper()):
        event = taken(id=spelling).event
        assert event["event_id"] == ID
        assert "id" not in event["context"]["cloudevents"]


@pytest.mark.parametrize(
    "other", ["7", ID.hex, ID.urn, f"{{{ID}}}", f" {ID}", f"{ID}\n", f"{ID}0", "\u0661" * 8 + str(ID)[8:]]
)
def test_any_other_id_and_its_source_make_the_event_id(other: str) -> None:
    event = taken(id=other).event
    assert event["event_id"] == uuid5(ID_NAMESPACE, f"5:/shop{other}")
    assert event["event_id"].version == 5
    assert event["context"]["cloudevents"]["id"] == other


def test_the_namespace_of_ids_never_changes() -> None:
    assert str(ID_NAMESPACE) == "3b3bdb45-2edc-5aa7-893b-b2604f33ab20"
    assert str(taken(id="7").event["event_id"]) == "7b1436b7-7f77-5e93-a001-ed630978ff9d"


def test_source_and_id_together_are_the_identity() -> None:
    pairs = [("a", "bc"), ("ab", "c"), ("1:a", "bc"), ("1", ":abc"), ("a", "bc "), ("A", "bc"), ("b", "ca")]
    assert len({taken(source=source, id=name).event["event_id"] for source, name in pairs}) == len(pairs)
    assert taken(id="x", type="one").event["event_id"] == taken(id="x", type="two").event["event_id"]


# --- Content ----------------------------------------------------------------------------------------------------------


def test_the_content_is_that_of_what_was_sent_and_of_nothing_else() -> None:
    first = structured(body(data={"a": 1, "b": [None]}, x=5), NOW, LIMITS)
    again = b'{"x":5,"data":{"b" : [null], "\\u0061":1},' + body()[1:]
    assert structured(again, NOW + timedelta(days=3), LIMITS).content == first.content


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "other"},
        {"source": "/other"},
        {"subject": "other"},
        {"time": "2026-01-31T12:00:00.123456Z"},
        {"data": {"a": 2}},
        {"data": {"a": "1"}},
        {"data": None},
        {"data": ...},
        {"x": 6},
        {"tenantid": "t"},
        {"dataschema": "/x"},
        {"userid": "u"},
    ],
    ids=str,
)
def test_other_content_is_told_from_the_first(changes: dict[str, Any]) -> None:
    first = {"id": str(ID), "data": {"a": 1}, "x": 5}
    assert taken(**{**first, **changes}).content != taken(**first).content


def test_a_header_and_a_typed_value_are_the_same_content_and_each_is_kept_as_it_was_sent() -> None:
    whole = taken(n=5, negative=-1, yes=True, no=False, data={})
    parts = sent(heads(n="5", negative="-1", yes="true", no="false"))
    assert parts.content == whole.content
    assert whole.event["context"]["cloudevents"]["n"] == 5
    assert whole.event["context"]["cloudevents"]["yes"] is True
    assert parts.event["context"]["cloudevents"]["n"] == "5"


def test_a_time_in_another_zone_is_the_same_content() -> None:
    assert taken(time="2026-01-31T12:00:00Z").content == taken(time="2026-01-31T14:00:00.000+02:00").content


# --- Whose event ------------------------------------------------------------------------------------------------------


def test_the_first_attribute_that_names_the_user_counts() -> None:
    given: dict[str, Any] = {"data": {"user_id": "by data"}, "subject": "s", "partitionkey": "p", "userid": "u"}
    for user, drop in (("u", "userid"), ("p", "partitionkey"), ("s", "subject"), ("by data", "data")):
        assert taken(**given).event["user_id"] == user
        given[drop] = ... if drop == "data" else None
    error = refused(**given)
    assert error.reason == "missing_field"
    for name in ("userid", "partitionkey", "subject", "user_id"):
        assert name in error.message


@pytest.mark.parametrize(
    "data", [{"user_id": 5}, {"user_id": None}, {"user_id": ["u"]}, ["user_id"], "user_id", None, ...]
)
def test_data_that_names_no_user_by_a_text_does_not_count(data: object) -> None:
    assert refused(subject=..., data=data).reason == "missing_field"


def test_partitionkey_and_subject_are_kept_and_userid_and_tenantid_have_their_own_place() -> None:
    event = taken(userid="u", tenantid="t", partitionkey="p").event
    assert (event["user_id"], event["tenant_id"]) == ("u", "t")
    kept = {"specversion": "1.0", "id": "7", "subject": "user_123", "partitionkey": "p"}
    assert event["context"] == {"cloudevents": kept}


def test_a_number_names_a_user_by_its_digits() -> None:
    event = taken(userid=42, tenantid=7).event
    assert (event["user_id"], event["tenant_id"]) == ("42", "7")


@pytest.mark.parametrize("name", ["userid", "partitionkey", "tenantid", "source", "type"])
def test_a_name_has_1_to_256_characters(name: str) -> None:
    assert taken(**{name: "\U0001f600" * 256})
    for wrong in ("", "n" * 257):
        error = refused(**{name: wrong})
        assert error.reason == "bad_length"
        assert name in error.message


@pytest.mark.parametrize("value", [True, 1.5])
@pytest.mark.parametrize("name", ["userid", "partitionkey", "tenantid"])
def test_neither_booleans_nor_fractions_name_anybody(name: str, value: object) -> None:
    assert refused(**{name: value}).reason == "wrong_type"


# --- Attributes -------------------------------------------------------------------------------------------------------


WRONG: list[Any] = [1, True, 1.5, [], {}, ["x"]]


@pytest.mark.parametrize("name", ["id", "source", "type", "specversion"])
def test_what_is_required_must_be_there(name: str) -> None:
    for missing in (..., None):
        error = refused(**{name: missing})
        assert error.reason == "missing_field"
        assert error.details == {"errors": [{"field": name, "reason": "every CloudEvent has it"}]}
    assert refused(**{name: ""}).reason == "bad_length"
    for wrong in WRONG:
        assert refused(**{name: wrong}).reason == "wrong_type"
    assert refused_binary(heads(**{name: ...})).reason == "missing_field"
    assert refused_binary(heads(**{name: ""})).reason == "bad_length"


@pytest.mark.parametrize("name", ["time", "subject", "dataschema", "datacontenttype"])
def test_what_is_optional_may_be_null_but_not_of_another_type(name: str) -> None:
    assert taken(**{name: None, "userid": "u"}) == taken(**{name: ..., "userid": "u"})
    for wrong in WRONG:
        assert refused(**{name: wrong}).reason == "wrong_type"
    assert refused(**{name: ""}).reason == "bad_length"


@pytest.mark.parametrize("version", ["0.3", "1.0.2", "1", "1.1", "2.0", " 1.0"])
def test_only_version_1_0_is_taken(version: str) -> None:
    assert refused(specversion=version).reason == "unsupported_specversion"
    if not version.startswith(" "):
        assert refused_binary(heads(specversion=version)).reason == "unsupported_specversion"


@pytest.mark.parametrize(
    "name", ["", "Upper", "under_score", "da-sh", "\u00e9", "\u0661", "a b", "x\n", "_platform", "a" * 9999 + "_"]
)
def test_a_name_of_an_attribute_holds_only_small_letters_and_digits(name: str) -> None:
    error = refused(**{name: "x"})
    assert error.reason == "bad_attribute_name"
    assert len(error.message) < 200


@pytest.mark.parametrize("value", [[], {}, [1], {"a": 1}])
def test_an_extension_is_a_single_value(value: object) -> None:
    assert refused(x=value).reason == "wrong_type"


def test_extensions_keep_their_types_and_nulls_are_none() -> None:
    event = taken(s="a", i=-5, t=True, f=False, n=None, x=1.25, cloudevents="c").event
    assert event["context"]["cloudevents"] == {
        "specversion": "1.0",
        "id": "7",
        "subject": "user_123",
        "s": "a",
        "i": -5,
        "t": True,
        "f": False,
        "x": 1.25,
        "cloudevents": "c",
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**64, -(2**63) - 1, "a\x00"])
@pytest.mark.parametrize("where", ["x", "data"])
def test_what_no_store_can_hold_is_refused_when_it_is_encoded(where: str, value: object) -> None:
    with pytest.raises(Unstorable):
        encode(taken(**{where: value}).event)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31t12:00:00.5z", datetime(2026, 1, 31, 12, 0, 0, 500000, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123456789Z", datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2026-01-31T12:00:00.1234567+05:30", datetime(2026, 1, 31, 6, 30, 0, 123456, tzinfo=UTC)),
        ("2026-01-31 12:00:00-02:00", datetime(2026, 1, 31, 14, tzinfo=UTC)),
        ("2026-01-31T12:00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (..., NOW),
    ],
)
def test_time_is_when_it_happened(text: object, expected: datetime) -> None:
    event = taken(time=text).event
    assert (event["timestamp"], event["received_at"]) == (expected, NOW)
    assert event["timestamp"].utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "text",
    [
        "now",
        "2026-01-31",
        "1769860800",
        "20260131T120000Z",
        "2026-01-31T12:00Z",
        "2026-02-30T12:00:00Z",
        "2026-01-31T25:00:00Z",
        "2026-01-31T12:00:00Z\n",
        "\u0662026-01-31T12:00:00Z",
        "0001-01-01T00:00:00+10:00",
        "0000-01-01T00:00:00Z",
        "P1D",
        "9999-12-31T23:59:59.999999Z",
        "2026-01-31T12:00:00+99:99",
        "2026-01-31T12:00:00." + "9" * 5000 + "x",
    ],
)
def test_anything_else_is_no_time(text: str) -> None:
    error = refused(time=text)
    assert error.reason == "bad_timestamp"
    assert len(error.message) < 200


def test_a_time_far_ahead_is_stored_and_flagged() -> None:
    accepted = taken(time="2026-03-01T00:00:00Z")
    assert accepted.event["context"]["_platform"] == {"future_timestamp": True}
    assert accepted.content == structured(body(time="2026-03-01T00:00:00Z"), NOW + timedelta(days=60), LIMITS).content


# --- Data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "metadata"),
    [
        ({}, {}),
        ({"data": {}}, {}),
        ({"data": {"a": None}}, {"a": None}),
        ({"data": None}, {"data": None}),
        ({"data": 0}, {"data": 0}),
        ({"data": "text"}, {"data": "text"}),
        ({"data": [{"a": 1}]}, {"data": [{"a": 1}]}),
        ({"data": '{"a": 1}', "datacontenttype": "application/json"}, {"data": '{"a": 1}'}),
        ({"data": "<a/>", "datacontenttype": "text/xml"}, {"data": "<a/>"}),
        ({"data": {"a": 1}, "datacontenttype": "text/xml"}, {"a": 1}),
        ({"data": {"_platform": 1, "data_base64": 2}}, {"_platform": 1, "data_base64": 2}),
        ({"data_base64": "AP8="}, {"data_base64": "AP8="}),
        ({"data_base64": ""}, {"data_base64": ""}),
        ({"data_base64": None}, {}),
        ({"data_base64": None, "data": 1}, {"data": 1}),
        ({"data_base64": "AP8=", "data": None}, {"data_base64": "AP8="}),
        ({"data_base64": "eyJhIjoxfQ=="}, {"data_base64": "eyJhIjoxfQ=="}),
        ({"data_base64": "eyJhIjoxfQ==", "datacontenttype": "application/x+JSON;v=1"}, {"a": 1}),
        ({"data_base64": "eyJhIjoxfQ==", "datacontenttype": "text/plain"}, {"data": '{"a":1}'}),
        ({"data_base64": "AP8=", "datacontenttype": "application/json"}, {"data_base64": "AP8="}),
    ],
    ids=str,
)
def test_data_in_a_json_event(changes: dict[str, Any], metadata: dict[str, Any]) -> None:
    assert taken(**changes).event["metadata"] == metadata


@pytest.mark.parametrize("encoded", ["A", "AP8", "AP8=\n", " AP8=", "AP8==", "A-_=", "A=P8", "\u00e9", "AP8=AP8="])
def test_what_is_not_base64_is_refused(encoded: str) -> None:
    assert refused(data_base64=encoded).reason == "bad_base64"


@pytest.mark.parametrize("encoded", [1, True, [], {}])
def test_base64_is_a_text(encoded: object) -> None:
    assert refused(data_base64=encoded).reason == "wrong_type"


def test_data_comes_once() -> None:
    assert refused(data={}, data_base64="AP8=").reason == "ambiguous_data"


@pytest.mark.parametrize(
    ("raw", "content_type", "metadata"),
    [
        (b"", None, {}),
        (b"", b"application/json", {}),
        (b"", b"text/plain", {}),
        (b'{"a": 1}', None, {"a": 1}),
        (b'{"a": 1}', b"", {"a": 1}),
        (b'{"a": 1}', b"application/json", {"a": 1}),
        (b'{"a": 1}', b"APPLICATION/Vnd.X+JSON; charset=utf-8", {"a": 1}),
        (b'{"a": 1}', b"text/plain", {"data": '{"a": 1}'}),
        (b"null", b"application/json", {"data": None}),
        (b' "x" ', b"application/json", {"data": "x"}),
        (b"a=b", b"application/x-www-form-urlencoded", {"data": "a=b"}),
        (b"<a/>", b"image/svg+xml", {"data": "<a/>"}),
        (b"\xff", b"text/plain", {"data_base64": "/w=="}),
        (b"plain", b"x", {"data_base64": "cGxhaW4="}),
    ],
    ids=repr,
)
def test_data_as_a_body(raw: bytes, content_type: bytes | None, metadata: dict[str, Any]) -> None:
    assert sent(heads(content_type), raw).event["metadata"] == metadata


@pytest.mark.parametrize("raw", [b"{", b"text", b" ", b"\xff", b'"\xff"', rb'"\ud800"', b"{} {}", b"\xef\xbb\xbf{}"])
@pytest.mark.parametrize("content_type", [None, b"application/json"])
def test_a_body_that_should_be_json_and_is_not_is_malformed(raw: bytes, content_type: bytes | None) -> None:
    assert type(refused_binary(heads(content_type), raw)) is MalformedBody


# --- Headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro \u20ac \U0001f600"),  # the specification's example
        (b"%e2%82%ac", "\u20ac"),
        (b"%41%42C", "ABC"),
        (b"%2541", "%41"),
        (b"%22%25%20", '"% '),
        (b"100%", "100%"),
        (b"%zz%4", "%zz%4"),
        (b'"quoted text"', "quoted text"),
        (b'"a \\"b\\" \\\\ c"', 'a "b" \\ c'),
        (b'"%41 \\%42"', "A B"),
        (b'""', ""),
        (b'"', '"'),
        (b'a"b"', 'a"b"'),
        (b"a+b c", "a+b c"),
        ("\u00e9".encode(), "\u00e9"),
        (b"  padded\t", "padded"),
    ],
    ids=repr,
)
def test_a_header_value_is_unquoted_then_decoded_once(value: bytes, text: str) -> None:
    assert sent(heads(x=value)).event["context"]["cloudevents"]["x"] == text


@pytest.mark.parametrize("value", [b"%C0%A0", b"%ff", b"%ED%A0%80", b"\xe9", b'"\\\xff"'])
def test_a_header_value_that_is_not_utf_8_is_refused(value: bytes) -> None:
    error = refused_binary(heads(x=value))
    assert error.reason == "bad_header"
    assert "'x'" in error.message


def test_an_attribute_that_comes_twice_is_refused() -> None:
    assert refused_binary([*heads(), (b"ce-type", b"other")]).reason == "duplicate_attribute"
    assert refused_binary([*heads(), (b"ce-type", GOOD["type"].encode())]).reason == "duplicate_attribute"


@pytest.mark.parametrize("name", [b"ce-datacontenttype", b"ce-data"])
def test_what_has_another_place_in_binary_mode_is_refused_as_a_header(name: bytes) -> None:
    assert refused_binary([*heads(), (name, b"text/plain")]).reason == "bad_attribute"
    assert refused_binary([(name, b"text/plain"), *heads()]).reason == "bad_attribute"


@pytest.mark.parametrize("name", [b"ce-", b"ce-a_b", b"ce-x-y", b"ce-data_base64", b"ce-\xe9"])
def test_a_header_whose_name_is_no_attribute_is_refused(name: bytes) -> None:
    assert refused_binary([*heads(), (name, b"x")]).reason == "bad_attribute_name"


def test_other_headers_mean_nothing() -> None:
    others = [(b"host", b"x"), (b"x-ce-type", b"x"), (b"ce", b"x"), (b"cetype", b"x"), (b"content-length", b"2")]
    assert sent([*others, *heads()]) == sent(heads())


# --- Batches ----------------------------------------------------------------------------------------------------------


def test_one_bad_event_never_fails_its_batch() -> None:
    raws = [
        body(id="0"),
        body(id="1", source=...),
        b"5",
        b'{"id": 3}',
        b"[[]]",
        body(id="5", time="x"),
        b" null ",
        body(id="7"),
    ]
    items = items_of(b" [" + b" , ".join(raws) + b"]\n")
    assert [isinstance(item, Accepted) for item in items] == [True, False, False, False, False, False, False, True]
    bad = [item for item in items if isinstance(item, Refused)]
    assert [(item.index, item.event_id, item.error.reason) for item in bad] == [
        (1, "1", "missing_field"),
        (2, None, "not_an_object"),
        (3, None, "wrong_type"),
        (4, None, "not_an_object"),
        (5, "5", "bad_timestamp"),
        (6, None, "not_an_object"),
    ]
    assert [item.raw for item in bad] == [raws[index].strip() for index in range(1, 7)]


def test_an_event_of_a_batch_is_what_it_is_alone() -> None:
    raws = [body(id=str(number), data={"n": number}, x=number) for number in range(50)]
    assert items_of(b"[" + b",".join(raws) + b"]") == [structured(raw, NOW, LIMITS) for raw in raws]


def test_each_batch_has_an_id_of_its_own() -> None:
    made = [batched(b"[" + body() + b"]", NOW, LIMITS) for _ in range(3)]
    assert len({UUID(batch.batch_id) for batch in made}) == 3
    assert {(UUID(batch.batch_id).version, batch.corrected) for batch in made} == {(7, 0)}


def test_an_event_that_is_nested_too_deep_or_cannot_be_stored_is_refused_alone() -> None:
    deep = body(id="deep", data=0).replace(b'"data": 0', b'"data": ' + b"[" * 99 + b"]" * 99)
    lone = body(id="lone").replace(b"user_123", rb"\ud800")
    long = body(id="long", data=0).replace(b'"data": 0', b'"data": ' + b"9" * 5000)
    items = items_of(b"[" + b",".join([deep, lone, long, body()]) + b"]")
    bad = [item for item in items if isinstance(item, Refused)]
    assert [(type(item.error), item.event_id) for item in bad] == [
        (TooLarge, None),
        (Unstorable, "lone"),
        (Unstorable, "long"),
    ]
    assert [item.raw for item in bad] == [deep, lone, long]
    assert isinstance(items[3], Accepted)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty_body"),
        (b" \n", "empty_body"),
        (b"[]", "empty_batch"),
        (b" [ ] ", "empty_batch"),
        (b"{}", "not_a_batch"),
        (b'{"events": []}', "not_a_batch"),
        (b'{"events": [{}]}', "not_a_batch"),
        (b"5", "not_a_batch"),
        (b'"[]"', "not_a_batch"),
        (b"null", "not_a_batch"),
        (b"[", "malformed_body"),
        (b"[{}", "malformed_body"),
        (b"[{}]]", "malformed_body"),
        (b"[{},]", "malformed_body"),
        (b"[{} {}]", "malformed_body"),
        (b"[{'id': 1}]", "malformed_body"),
        (b'[{"id" 1}]', "malformed_body"),
        (b"[{}, x]", "malformed_body"),
        (b"\xff", "malformed_body"),
        (b'["\xff"]', "malformed_body"),
    ],
)
def test_what_is_no_batch_is_malformed(raw: bytes, reason: str) -> None:
    error = refused_batch(raw)
    assert (type(error), error.reason) == (MalformedBody, reason)


def test_a_batch_holds_as_many_events_as_the_limit_says() -> None:
    limits = Limits(events=3)
    one = body()
    assert len(list(batched(b"[" + b",".join([one] * 3) + b"]", NOW, limits).items)) == 3
    error = refused_batch(b"[" + b",".join([one] * 4) + b"]", limits)
    assert (type(error), error.reason) == (TooLarge, "batch_too_large")


# --- Hostile ----------------------------------------------------------------------------------------------------------


def test_nesting_is_taken_up_to_the_limit_of_the_stored_event() -> None:
    def nested(levels: int, open_: bytes, close: bytes) -> bytes:
        return body(data=0).replace(b'"data": 0', b'"data": ' + open_ * levels + b"0" + close * levels)

    deepest = structured(nested(63, b'{"a":', b"}"), NOW, LIMITS).event
    assert decode(encode(deepest).value) == deepest
    structured(nested(62, b"[", b"]"), NOW, LIMITS)
    for raw in (nested(64, b'{"a":', b"}"), nested(63, b"[", b"]"), nested(10**5, b"[", b"]")):
        with pytest.raises(TooLarge) as caught:
            structured(raw, NOW, LIMITS)
        assert caught.value.reason in ("too_deep", "too_wide")
    for levels in (63, 64, 10**4, 10**6):
        error = refused_binary(heads(), b"[" * levels + b"]" * levels)
        assert error.reason in ("too_deep", "too_wide")


def test_json_within_base64_is_held_to_the_same_limits() -> None:
    for raw in (b"[" * 10**4 + b"]" * 10**4, b"[" + b"0," * 10**5 + b"0]"):
        encoded = base64.b64encode(raw).decode()
        assert taken(data_base64=encoded, datacontenttype="application/json").event["metadata"] == {
            "data_base64": encoded
        }


def test_separators_are_counted_before_anything_is_parsed() -> None:
    wide = b"[" + b"[]," * 50_001 + b"[]]"
    with pytest.raises(TooLarge):
        structured(body(data=0).replace(b'"data": 0', b'"data": ' + wide), NOW, LIMITS)
    assert type(refused_binary(heads(), wide)) is TooLarge
    assert type(refused_batch(wide)) is TooLarge
    assert sent(heads(b"text/plain"), wide).event["metadata"] == {"data": wide.decode()}  # never parsed


@pytest.mark.parametrize(
    "raw", [b"[", b'"', b"{", b'{"a":', b"[[]", b"\\", b'"\\', b"\x00", b"[{", b'["', b"[]", b" "], ids=repr
)
def test_a_hostile_mebibyte_is_judged_quickly(raw: bytes) -> None:
    whole = raw * (2**20 // len(raw))
    began = time.perf_counter()
    assert_decided(whole, heads())
    assert_decided(whole, heads(b"text/plain"))
    assert time.perf_counter() - began < QUICK_SECONDS


def test_a_hostile_header_is_judged_quickly() -> None:
    began = time.perf_counter()
    for value in (b"%" * 2**16, b'"' + b"\\" * 2**16 + b'"', b'"' * 2**16, b"%41" * 2**14, b"9" * 2**16):
        for name in ("id", "source", "time", "x", "userid"):
            assert_decided(b"{}", heads(**{name: value}))
    assert time.perf_counter() - began < QUICK_SECONDS


def assert_decided(raw: bytes, headers: Headers) -> None:
    for accept in (
        lambda: [structured(raw, NOW, LIMITS)],
        lambda: [binary(headers, raw, NOW, LIMITS)],
        lambda: items_of(raw),
        lambda: items_of(b"[" + raw + b"]"),
    ):
        try:
            for item in accept():
                if isinstance(item, Accepted):
                    assert decode(encode(item.event).value) == item.event
                    assert item.content is not None
        except InvalidEvent:
            continue


@settings(max_examples=200)
@given(
    st.binary(max_size=200),
    st.lists(st.tuples(st.binary(max_size=10).map(lambda name: b"ce-" + name), st.binary(max_size=30))),
)
def test_any_bytes_are_events_or_a_refusal(raw: bytes, headers: Headers) -> None:
    assert_decided(raw, headers)
    assert_decided(raw, [*heads(), *headers])


ANY_TEXT = st.text(st.characters(), max_size=8)  # with lone surrogates and NUL
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
NAMES = [
    *GOOD,
    "time",
    "dataschema",
    "datacontenttype",
    "userid",
    "partitionkey",
    "tenantid",
    "data",
    "data_base64",
    "x",
]
NEARLY = st.dictionaries(st.sampled_from(NAMES) | ANY_TEXT, ANYTHING, max_size=6)
HEADER_VALUES = st.binary(max_size=12) | st.text('%"\\ 0aE', max_size=12).map(str.encode)
EDITS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)


@settings(max_examples=300)
@given(NEARLY, EDITS, st.dictionaries(st.sampled_from(NAMES), HEADER_VALUES, max_size=3))
def test_a_nearly_right_request_is_an_event_or_a_refusal(
    fields: dict[str, Any], edits: list[tuple[int, int]], values: dict[str, bytes]
) -> None:
    raw = bytearray(json.dumps({**GOOD, **fields}).encode())
    assert_decided(bytes(raw), heads(**values))
    for place, value in edits:
        raw[place % len(raw)] = value
    assert_decided(bytes(raw), heads(values.get("datacontenttype"), **values))


@given(ANYTHING)
def test_the_id_of_a_refused_event_can_always_be_repeated(fields: Any) -> None:
    for sent_fields in (fields, {"id": fields}):
        name = cloudevent_id(sent_fields)
        assert name is None or (len(name) <= 256 and name.encode() is not None)
    assert cloudevent_id({"id": "7"}) == "7"
    assert cloudevent_id({"id": "7" * 257}) is None
