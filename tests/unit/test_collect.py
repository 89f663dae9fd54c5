"""What a sender of a batch gets for each of its events."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from event_core.codec import encode
from event_core.errors import InvalidEvent, MalformedBody, TooLarge, Unstorable
from event_core.event import Event
from ingestion_service import collect as module
from ingestion_service.collect import Batch, collect, original_of, originals
from ingestion_service.forms import Accepted, Form, Refused, field_of
from ingestion_service.learner import MAX_NOTE_BYTES
from ingestion_service.limits import Limits
from tests.unit.decoded import decode

NOW = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
LIMITS = Limits()
ID = UUID("123e4567-e89b-12d3-a456-426614174000")
EXAMPLE = {
    "event_id": str(ID),
    "learner_id": "learner_001",
    "tenant_id": "tenant_alpha",
    "event_type": "interaction",
    "timestamp": "2024-01-15T10:30:00Z",
    "source_service": "learning-app",
    "event_data": {"action": "click", "element": "next_button"},
    "metadata": {},
}


def learner(**changes: Any) -> dict[str, Any]:
    """A good event with ``changes``; a field changed to ``...`` is left out."""
    fields = {"learner_id": "l", "event_type": "system", **changes}
    return {name: value for name, value in fields.items() if value is not ...}


def read(raw: bytes, limits: Limits = LIMITS) -> tuple[Batch, list[Accepted | Refused]]:
    batch = collect(raw, NOW, limits)
    return batch, list(batch.items)


def sent(*events: object, **beside: Any) -> list[Accepted | Refused]:
    return read(json.dumps({"events": events, **beside}).encode())[1]


def taken(item: Accepted | Refused) -> Event:
    assert isinstance(item, Accepted), item
    return item.event


def refused(item: Accepted | Refused) -> Refused:
    assert isinstance(item, Refused), item
    return item


def refusal(raw: bytes, limits: Limits = LIMITS) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        read(raw, limits)
    return caught.value


@pytest.fixture(params=["at once", "in pieces", "one by one"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way of taking a batch: they must not differ."""
    if request.param == "in pieces":
        monkeypatch.setattr(module, "PIECE_BYTES", 1)
    if request.param == "one by one":
        monkeypatch.setattr(module, "_at_once", lambda *_: None)


# --- What is taken ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
def test_what_looks_like_the_end_of_an_event_is_none() -> None:
    odd = [
        learner(event_data={"text": "},{", "list": [{"a": 1}, {"b": [{}, {"c": "} , {"}]}], "empty": {}}),
        learner(learner_id='\\"},{"'),
        learner(event_data={"like an event": [learner(), learner()]}),
    ]
    for separators in ((",", ":"), (" , ", " : "), (", \n\t", ":")):
        _, items = read(json.dumps(odd * 3, separators=separators).encode())
        assert [taken(item)["metadata"] for item in items] == [event.get("event_data", {}) for event in odd * 3]
        assert [taken(item)["user_id"] for item in items] == [event["learner_id"] for event in odd * 3]


def test_a_bad_event_behind_good_pieces_is_refused_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 1)
    for place in range(9):
        events: list[object] = [learner(learner_id=f"l{number}") for number in range(9)]
        events[place] = learner(event_type="nothing known")
        _, items = read(json.dumps(events).encode())
        assert [isinstance(item, Refused) for item in items] == [number == place for number in range(9)]
        assert refused(items[place]).index == place


@pytest.mark.usefixtures("way")
def test_the_documented_event_is_taken_as_it_is_documented() -> None:
    batch, (item,) = read(json.dumps([EXAMPLE]).encode())
    assert taken(item) == {
        "event_id": ID,
        "tenant_id": "tenant_alpha",
        "user_id": "learner_001",
        "event_name": "interaction",
        "timestamp": datetime(2024, 1, 15, 10, 30, tzinfo=UTC),
        "received_at": NOW,
        "metadata": {"action": "click", "element": "next_button"},
        "context": {},
        "source": "learning-app",
    }
    assert isinstance(item, Accepted)
    assert item.form is Form.EVENT
    assert UUID(batch.batch_id).version == 7
    assert batch.corrected == 0
    assert decode(encode(item.event).value) == item.event


@pytest.mark.usefixtures("way")
def test_a_batch_may_name_itself_and_say_more() -> None:
    raw = json.dumps({"batch_id": "b-1", "events": [learner(), learner()], "metadata": {"version": "2.1.0"}})
    batch, items = read(raw.encode())
    assert batch.batch_id == "b-1"
    note = {"batch": {"batch_id": "b-1", "metadata": {"version": "2.1.0"}}}
    assert [taken(item)["context"] for item in items] == [{"_platform": note}] * 2


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ({}, {}),
        ({"batch_id": None, "metadata": None, "sent_at": None}, {}),
        ({"metadata": {}}, {}),
        ({"batch_id": "b"}, {"_platform": {"batch": {"batch_id": "b"}}}),
        ({"metadata": {"a": [None]}}, {"_platform": {"batch": {"metadata": {"a": [None]}}}}),
        ({"client": "x", "sent_at": NOW.isoformat()}, {"_platform": {"batch": {"client": "x"}}}),
    ],
    ids=repr,
)
def test_what_a_batch_says_is_noted_where_it_says_something(beside: dict[str, Any], expected: dict[str, Any]) -> None:
    (item,) = sent(learner(), **beside)
    assert taken(item)["context"] == expected


@pytest.mark.usefixtures("way")
def test_optional_fields_may_be_null_or_absent() -> None:
    names = ["event_id", "tenant_id", "priority", "timestamp", "source_service", "event_data", "metadata"]
    for item in sent(learner(), learner(**dict.fromkeys(names))):
        event = taken(item)
        assert (event["tenant_id"], event["timestamp"], event["metadata"], event["context"]) == ("default", NOW, {}, {})
        assert "source" not in event
        assert event["event_id"].version == 7


@pytest.mark.usefixtures("way")
def test_priority_metadata_and_unknown_fields_are_kept_in_the_context() -> None:
    extra = {"session": [1], "user_id": 5, "": None, "received_at": "x"}
    (item,) = sent(learner(priority="high", metadata={"session_id": "s"}, **extra))
    assert taken(item)["context"] == {"priority": "high", "metadata": {"session_id": "s"}, **extra}


@pytest.mark.parametrize("name", ["learner_001", "5", " padded ", "l" * 256, "\U0001f600" * 256, str(ID)])
def test_learners_and_tenants_are_any_text(name: str) -> None:
    (item,) = sent(learner(learner_id=name, tenant_id=name))
    assert (taken(item)["user_id"], taken(item)["tenant_id"]) == (name, name)


def test_every_documented_type_and_priority_is_taken() -> None:
    types = ["interaction", "progress", "assessment", "error", "system"]
    priorities = ["low", "medium", "high", "critical"]
    items = sent(*(learner(event_type=name, priority=priority) for name in types for priority in priorities))
    assert [taken(item)["event_name"] for item in items] == [name for name in types for _ in priorities]
    assert [taken(item)["context"]["priority"] for item in items] == priorities * len(types)


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("2026-01-31T12:00:00+05:30", datetime(2026, 1, 31, 6, 30, tzinfo=UTC)),
        (1769860800, datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (1769860800123, datetime(2026, 1, 31, 12, 0, 0, 123000, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_on_the_other_endpoint(timestamp: object, expected: datetime) -> None:
    (item,) = sent(learner(timestamp=timestamp))
    assert taken(item)["timestamp"] == expected


def test_a_time_far_ahead_is_flagged_beside_what_the_batch_says() -> None:
    ahead = (NOW + timedelta(days=2)).isoformat()
    first, second = sent(learner(timestamp=ahead), learner(), batch_id="b")
    assert taken(first)["context"] == {"_platform": {"future_timestamp": True, "batch": {"batch_id": "b"}}}
    assert taken(second)["context"] == {"_platform": {"batch": {"batch_id": "b"}}}


def test_a_thousand_events_are_taken_in_their_order() -> None:
    items = sent(*(learner(learner_id=f"l{number}") for number in range(1000)))
    assert [taken(item)["user_id"] for item in items] == [f"l{number}" for number in range(1000)]
    assert len({taken(item)["event_id"] for item in items}) == 1000


# --- The client's clock -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("off", [timedelta(minutes=6), -timedelta(minutes=6), timedelta(days=4000)])
def test_a_skewed_clock_corrects_the_times_that_were_given(off: timedelta) -> None:
    happened = NOW - timedelta(minutes=1)
    raw = json.dumps(
        {
            "events": [learner(timestamp=(happened + off).isoformat()), learner()],
            "sent_at": (NOW + off).isoformat(),
            "batch_id": "b",
        }
    )
    batch, (first, second) = read(raw.encode())
    assert taken(first)["timestamp"] == happened
    original = (happened + off).isoformat().replace("+00:00", "Z")
    assert taken(first)["context"]["_platform"] == {"batch": {"batch_id": "b"}, "original_timestamp": original}
    assert taken(second)["timestamp"] == NOW
    assert taken(second)["context"]["_platform"] == {"batch": {"batch_id": "b"}}
    assert batch.corrected == 1


@pytest.mark.parametrize("off", [timedelta(0), timedelta(minutes=5), -timedelta(minutes=5)])
def test_a_clock_nearly_right_changes_nothing(off: timedelta) -> None:
    given = "2024-01-15T10:30:00Z"
    raw = json.dumps({"events": [learner(timestamp=given)], "sent_at": (NOW + off).isoformat()})
    batch, (item,) = read(raw.encode())
    assert taken(item)["timestamp"] == datetime(2024, 1, 15, 10, 30, tzinfo=UTC)
    assert (taken(item)["context"], batch.corrected) == ({}, 0)


@pytest.mark.parametrize("sent_at", [NOW.timestamp() - 3600, int(NOW.timestamp() - 3600) * 1000])
def test_sent_at_may_be_a_number(sent_at: float) -> None:
    (item,) = sent(learner(timestamp=sent_at), sent_at=sent_at)
    assert taken(item)["timestamp"] == NOW


def test_a_time_that_a_correction_moves_out_of_the_calendar_is_refused_alone() -> None:
    good, bad = sent(
        learner(timestamp="2025-01-01T00:00:00Z"),
        learner(timestamp="9999-12-01T00:00:00Z"),
        sent_at="2025-01-01T00:00:00Z",
    )
    assert taken(good)["timestamp"] == NOW
    assert (refused(bad).error.reason, field_of(refused(bad).error)) == ("bad_timestamp", "timestamp")


def test_only_events_that_were_taken_count_as_corrected() -> None:
    past = "2020-01-01T00:00:00Z"
    events = [learner(timestamp=past), learner(timestamp=past, _platform=1), learner(event_type="x", timestamp=past)]
    batch, _ = read(json.dumps({"events": events, "sent_at": past}).encode())
    assert batch.corrected == 1


# --- What is refused alone --------------------------------------------------------------------------------------------


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


BAD: list[tuple[Any, str, str | None]] = [
    (learner(learner_id=...), "missing_field", "learner_id"),
    (learner(event_type=...), "missing_field", "event_type"),
    (learner(learner_id=None), "wrong_type", "learner_id"),
    (learner(learner_id=5), "wrong_type", "learner_id"),
    (learner(learner_id=""), "bad_length", "learner_id"),
    (learner(learner_id="l" * 257), "bad_length", "learner_id"),
    (learner(tenant_id=""), "bad_length", "tenant_id"),
    (learner(tenant_id=5), "wrong_type", "tenant_id"),
    (learner(event_type="purchase"), "unknown_value", "event_type"),
    (learner(event_type="System"), "unknown_value", "event_type"),
    (learner(event_type=None), "unknown_value", "event_type"),
    (learner(priority="urgent"), "unknown_value", "priority"),
    (learner(source_service=[]), "wrong_type", "source_service"),
    (learner(event_data="a=1"), "wrong_type", "event_data"),
    (learner(event_data=[]), "wrong_type", "event_data"),
    (learner(metadata=0), "wrong_type", "metadata"),
    (learner(event_id="order-17"), "wrong_type", "event_id"),
    (learner(event_id=5), "wrong_type", "event_id"),
    (learner(timestamp="soon"), "bad_timestamp", "timestamp"),
    (learner(timestamp=True), "bad_timestamp", "timestamp"),
    (learner(timestamp=1e18), "bad_timestamp", "timestamp"),
    (learner(timestamp="0001-01-01T00:00:00Z"), "bad_timestamp", "timestamp"),
    (learner(_platform={}), "reserved_field", "_platform"),
    (learner(event_data={"a": nested(63)}), "too_deep", None),
    (learner(extra=nested(64)), "too_deep", None),
    (learner(extra=nested(500)), "too_deep", None),
    (learner(event_data={"a": "\ud83d"}), "unstorable_value", None),
    (learner(learner_id="\udc00"), "unstorable_value", None),
    ({}, "missing_field", "learner_id"),
    ([learner()], "not_an_object", None),
    ("text", "not_an_object", None),
    (None, "not_an_object", None),
    (5, "not_an_object", None),
]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(("bad", "reason", "field"), BAD, ids=lambda value: repr(value)[:60])
def test_one_bad_event_never_fails_its_batch(bad: Any, reason: str, field: str | None, place: int) -> None:
    events = [learner(learner_id="first"), learner(learner_id="last")]
    events.insert(place, bad)
    items = sent(*events)
    item = refused(items.pop(place))
    assert (item.index, item.error.reason, field_of(item.error)) == (place, reason, field)
    assert item.raw == json.dumps(bad).encode()
    assert [taken(item)["user_id"] for item in items] == ["first", "last"]


@pytest.mark.usefixtures("way")
def test_nesting_is_taken_up_to_the_limit() -> None:
    events = [
        learner(event_data={"a": nested(62)}),
        learner(extra=nested(63)),
        learner(metadata={"a": nested(62)}),
        learner(event_data={"a": [[1], {"b": nested(60)}]}),
    ]
    assert [taken(item)["user_id"] for item in sent(*events)] == ["l"] * 4


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("value", [b"NaN", b"18446744073709551616", rb'"\u0000"', rb'{"\u0000":1}', b"1e999"], ids=repr)
def test_what_no_store_can_hold_is_refused_by_the_encoder_and_its_bytes_are_at_hand(value: bytes) -> None:
    good = json.dumps(learner()).encode()
    bad = b'{"learner_id":"l","event_id":"%b","event_type":"system","event_data":{"a":%b}}' % (str(ID).encode(), value)
    raw = b" [ %b ,\n%b\t]" % (good, bad)
    first, second = read(raw)[1]
    encode(taken(first))
    with pytest.raises(Unstorable):
        encode(taken(second))
    original = original_of(raw, LIMITS)
    assert (original(0), original(1), original(0)) == (good, bad, good)
    assert [raw[span] for span in originals(raw, LIMITS)] == [good, bad]


@pytest.mark.parametrize("number", [b"9" * 5000, b"-" + b"9" * 5000], ids=["many digits", "many digits below zero"])
def test_a_number_of_absurd_length_is_refused_alone(number: bytes) -> None:
    raw = b'[{"learner_id":"l","event_type":"system"},{"event_id":"x","a":%b}]' % number
    first, second = read(raw)[1]
    assert isinstance(first, Accepted)
    assert (refused(second).error.reason, refused(second).event_id) == ("unstorable_value", "x")


@pytest.mark.parametrize(
    ("event_id", "expected"),
    [
        ("order-17", "order-17"),
        (str(ID).upper(), str(ID).upper()),
        ("", ""),
        ("\ud800", "?"),
        ("x" * 256, "x" * 256),
        ("x" * 257, None),
        (5, None),
        (None, None),
        (..., None),
        ({"a": 1}, None),
    ],
    ids=repr,
)
def test_a_refused_event_is_named_as_the_client_named_it(event_id: object, expected: str | None) -> None:
    (item,) = sent(learner(event_type="x", event_id=event_id))
    assert refused(item).event_id == expected


def test_everything_that_is_wrong_with_an_event_is_told_and_nothing_that_was_sent() -> None:
    (item,) = sent({"learner_id": {"password": "hunter2"}, "event_type": "hunter2", "metadata": "hunter2"})
    error = refused(item).error
    assert {problem["field"] for problem in (error.details or {})["errors"]} == {"learner_id", "event_type", "metadata"}
    assert "hunter2" not in f"{error.message}{error.details}"


def test_all_may_be_refused() -> None:
    items = sent(*({"learner_id": number} for number in range(1000)))
    assert [refused(item).index for item in items] == list(range(1000))


# --- What fails as a whole --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty_body"),
        (b" \r\n", "empty_body"),
        (b"oops", "malformed_body"),
        (b'[{"learner_id":"l"', "malformed_body"),
        (b'[{"learner_id":"l","event_type":"system"}]]', "malformed_body"),
        (b'[{"learner_id":"l","event_type":"system"},]', "malformed_body"),
        (b'[{"learner_id":"l","event_type":"system"} {}]', "malformed_body"),
        (b"[{'learner_id':'l'}]", "malformed_body"),
        (b'[{"learner_id":"l\n"}]', "malformed_body"),
        (b'[{"learner_id":"\xff"}]', "malformed_body"),
        (b'[{"learner_id":"\xed\xa0\x80"}]', "malformed_body"),
        (b'[{"learner_id":"l","a":01}]', "malformed_body"),
        (b'[{"learner_id":"l","a":tru}]', "malformed_body"),
        (b"[{},oops]", "malformed_body"),
        (b'{"events":[{}],"metadata":oops}', "malformed_body"),
        (b'{"events":[{}],"\xff":1}', "malformed_body"),
        (b"\xef\xbb\xbf[{}]", "malformed_body"),
        (b"\x1f\x8b\x08\x00", "malformed_body"),
        (b"[]", "empty_batch"),
        (b" [ ] ", "empty_batch"),
        (b'{"events":[]}', "empty_batch"),
        (b"{}", "not_a_batch"),
        (b"null", "not_a_batch"),
        (b"5", "not_a_batch"),
        (b'"text"', "not_a_batch"),
        (b'{"learner_id":"l","event_type":"system"}', "not_a_batch"),
        (b'{"events":{}}', "not_a_batch"),
        (b'{"events":null}', "not_a_batch"),
        (b'{"events":"[]"}', "not_a_batch"),
    ],
    ids=repr,
)
def test_what_is_no_batch_is_refused_as_a_whole(raw: bytes, reason: str) -> None:
    error = refusal(raw)
    assert (type(error), error.reason) == (MalformedBody, reason)


@pytest.mark.parametrize(
    ("beside", "reason", "field"),
    [
        ({"batch_id": 5}, "wrong_type", "batch_id"),
        ({"batch_id": ""}, "bad_length", "batch_id"),
        ({"batch_id": "b" * 257}, "bad_length", "batch_id"),
        ({"metadata": []}, "wrong_type", "metadata"),
        ({"sent_at": "soon"}, "bad_timestamp", "sent_at"),
        ({"sent_at": True}, "bad_timestamp", "sent_at"),
        ({"sent_at": "0001-01-01T00:00:00Z"}, "bad_timestamp", "sent_at"),
        ({"batch_id": "a\x00"}, "unstorable_value", None),
        ({"metadata": {"a": float("nan")}}, "unstorable_value", None),
        ({"other": 2**64}, "unstorable_value", None),
    ],
    ids=repr,
)
def test_a_wrong_field_beside_the_events_is_named(beside: dict[str, Any], reason: str, field: str | None) -> None:
    for events in ([learner()], [learner(), {}]):
        error = refusal(json.dumps({"events": events, **beside}).encode())
        assert (type(error), error.reason, field_of(error)) == (MalformedBody, reason, field)


@pytest.mark.parametrize("form", [b"[%b]", b'{"events":[%b]}'], ids=["array", "object"])
@pytest.mark.parametrize("event", [json.dumps(learner()).encode(), b"{}", b"5"], ids=repr)
def test_more_than_a_thousand_events_are_too_many(form: bytes, event: bytes) -> None:
    error = refusal(form % b",".join([event] * 1001))
    assert (type(error), error.reason) == (TooLarge, "batch_too_large")
    assert "1,000" in error.message


def test_a_body_of_separators_is_refused_before_it_is_parsed() -> None:
    error = refusal(json.dumps([learner(event_data={"a": [0] * 100_000})]).encode())
    assert (type(error), error.reason) == (TooLarge, "too_wide")


@pytest.mark.parametrize("bad", [[], [{}]], ids=["all good", "one bad"])
def test_what_goes_with_every_event_is_small(bad: list[Any]) -> None:
    room = MAX_NOTE_BYTES - len('{"metadata":{"a":""}}')
    items = sent(learner(), *bad, metadata={"a": "x" * room})
    assert taken(items[0])["context"]["_platform"]["batch"]["metadata"] == {"a": "x" * room}
    error = refusal(json.dumps({"events": [learner(), *bad], "metadata": {"a": "x" * (room + 1)}}).encode())
    assert (type(error), error.reason) == (TooLarge, "batch_metadata_too_large")


@pytest.mark.parametrize("bad", [[], [{}]], ids=["all good", "one bad"])
def test_what_goes_with_every_event_is_shallow(bad: list[Any]) -> None:
    error = refusal(json.dumps({"events": [learner(), *bad], "metadata": {"a": nested(70)}}).encode())
    assert (type(error), error.reason) == (TooLarge, "too_deep")


# --- Large bodies -----------------------------------------------------------------------------------------------------


def large(*events: bytes) -> bytes:
    """A body too large to be parsed at once."""
    return b"[" + b" " * module.WHOLE_BYTES + b",".join(events) + b"]"


def test_a_large_body_is_taken_event_by_event() -> None:
    good = json.dumps(EXAMPLE).encode()
    batch, (first, second, third) = read(large(good, b'{"event_id":"x"}', rb'{"a":"\ud800"}'))
    assert taken(first) == taken(sent(EXAMPLE)[0])
    assert (refused(second).error.reason, refused(second).event_id) == ("missing_field", "x")
    assert refused(third).error.reason == "unstorable_value"
    assert batch.corrected == 0


def test_an_event_of_absurd_size_is_refused_without_parsing_it() -> None:
    good = json.dumps(learner()).encode()
    huge = b'{"learner_id":"l","event_data":"%b"}' % (b"x" * module.WHOLE_BYTES)
    first, second = read(b"[%b,%b]" % (good, huge))[1]
    assert isinstance(first, Accepted)
    item = refused(second)
    assert (type(item.error), item.error.reason, item.event_id, item.raw) == (TooLarge, "event_too_large", None, huge)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (large(b"{}", b"oops"), "malformed_body"),
        (large(b"{}", b'{"a":\xff}'), "malformed_body"),
        (large(b"{}")[:-1], "malformed_body"),
        (large(), "empty_batch"),
        (b" " * (module.WHOLE_BYTES + 1), "empty_body"),
        (b'"%b"' % (b"x" * module.WHOLE_BYTES), "not_a_batch"),
        (b'{"a":"%b"}' % (b"x" * module.WHOLE_BYTES), "not_a_batch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_large_body_that_is_no_batch_is_refused_before_any_event_is_read(raw: bytes, reason: str) -> None:
    error = refusal(raw)
    assert (type(error), error.reason) == (MalformedBody, reason)


def test_much_beside_the_events_is_refused_without_parsing_it() -> None:
    raw = b'{"metadata":{"a":"%b"},"events":[{}]}' % (b"x" * module.WHOLE_BYTES)
    assert refusal(raw).reason == "batch_metadata_too_large"


# --- Whether two events are the same ----------------------------------------------------------------------------------


def content(batch: dict[str, Any] | None = None, **changes: Any) -> int | None:
    (item,) = sent({name: value for name, value in {**EXAMPLE, **changes}.items() if value is not ...}, **batch or {})
    assert isinstance(item, Accepted)
    return item.content


def test_a_retry_in_another_batch_has_the_same_content() -> None:
    first = content()
    assert first is not None
    for beside in ({"batch_id": "b"}, {"metadata": {"try": 2}}, {"sent_at": "2020-01-01T00:00:00Z"}):
        assert content(beside) == first
    assert content(metadata=None) == content(metadata=...) == first
    assert content(timestamp=1705314600) == first
    assert content(timestamp=...) == content({"sent_at": 0}, timestamp=None)


@pytest.mark.parametrize(
    "changes",
    [
        {"learner_id": "m"},
        {"event_type": "system"},
        {"tenant_id": ...},
        {"timestamp": ...},
        {"source_service": "other"},
        {"event_data": {"action": "click"}},
        {"metadata": {"a": 1}},
        {"priority": "low"},
        {"more": 1},
    ],
    ids=repr,
)
def test_other_content_has_another_hash(changes: dict[str, Any]) -> None:
    assert content(**changes) != content()


def test_without_an_id_of_the_client_there_is_nothing_to_compare() -> None:
    assert content(event_id=...) is None
