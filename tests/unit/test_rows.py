"""From a message to the row that analysts see."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from event_consumer.events.rows import decoder, to_row
from event_core.codec import encode
from event_core.errors import UndecodableMessage
from event_core.instants import from_micros
from event_core.source import FakeMessage
from tests.unit.test_codec import EVENT, changed

GOLDEN = (Path(__file__).parent / "golden" / "event-1.json").read_bytes()


def reason(value: bytes | None) -> str:
    with pytest.raises(UndecodableMessage) as caught:
        to_row(value)
    return caught.value.reason


def test_every_field_of_the_event_is_in_the_row() -> None:
    made = to_row(changed(experiment_id="x", variant="b", source="sdk"))
    assert made[:3] == (EVENT["event_id"], "user_123", "page_view")
    assert (from_micros(made.timestamp), from_micros(made.received_at)) == (EVENT["timestamp"], EVENT["received_at"])
    assert made.tenant_id == "default"
    assert (json.loads(made.metadata), json.loads(made.context)) == (EVENT["metadata"], EVENT["context"])
    assert (made.experiment_id, made.variant, made.source) == ("x", "b", "sdk")


def test_what_an_event_does_not_have_is_null() -> None:
    made = to_row(GOLDEN)
    assert (made.experiment_id, made.variant, made.source) == (None, None, None)


def test_no_metadata_is_an_empty_object() -> None:
    made = to_row(changed(metadata={}, context={}))
    assert (made.metadata, made.context) == ("{}", "{}")


@pytest.mark.parametrize("value", [{"a": "\\u0000"}, {"a": None}, {"null": "null"}, {"\\u0000": 1}], ids=repr)
def test_what_only_looks_like_poison_is_stored_as_it_is(value: dict[str, Any]) -> None:
    assert json.loads(to_row(encode({**EVENT, "metadata": value}).value).metadata) == value


def with_hole(field: str, filled: bytes) -> bytes:
    """The golden message whose ``field`` is the text ``filled``."""
    return changed(**{field: "HOLE"}).replace(b'"HOLE"', filled)


POISON = {
    rb'{"a":"\u0000"}': "unstorable_value",
    rb'{"\u0000":1}': "unstorable_value",
    rb'{"a":[{"b":"x\u0000y"}]}': "unstorable_value",
    b'{"a":NaN}': "not_json",
    b'{"a":[-Infinity]}': "not_json",
    b'{"a":"\xff"}': "not_json",
    b'{"a":"\xed\xa0\x80"}': "not_json",
    b'{"a":"\x01"}': "not_json",
    b'{"a":01}': "not_json",
}


@pytest.mark.parametrize(("poison", "expected"), POISON.items(), ids=repr)
@pytest.mark.parametrize("field", ["metadata", "context"])
def test_json_that_no_store_can_hold_is_set_aside(field: str, poison: bytes, expected: str) -> None:
    assert reason(with_hole(field, poison)) == expected


@pytest.mark.parametrize("escape", [rb"\ud800", rb"\udc00", rb"\udc00\ud800", rb"\ud800\u0041"])
@pytest.mark.parametrize("filled", [b'{"a":"%b"}', b'{"%b":1}'])
@pytest.mark.parametrize("field", ["metadata", "context"])
def test_half_a_character_is_set_aside(field: str, filled: bytes, escape: bytes) -> None:
    assert reason(with_hole(field, filled % escape)) in ("unstorable_value", "not_json")


@pytest.mark.parametrize("escape", [rb"\ud800", rb"\udc00", rb"a\udfff"])
@pytest.mark.parametrize("field", ["user_id", "event_name", "tenant_id", "experiment_id", "variant", "source"])
def test_a_name_with_half_a_character_is_set_aside(field: str, escape: bytes) -> None:
    assert reason(with_hole(field, b'"%b"' % escape)) in ("unstorable_value", "not_json")


NUMBERS = [
    b"1e999",
    b"1e131072",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"9" * 5000,
    b"1e2",
    b"-0.0",
    b"1.50",
]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: repr(number)[:20])
@pytest.mark.parametrize("field", ["metadata", "context"])
def test_numbers_are_left_to_the_store_with_every_digit(field: str, number: bytes) -> None:
    value = changed(**{"metadata": {}, "context": {}, field: "HOLE"}).replace(b'"HOLE"', b'{"a":%b}' % number)
    assert getattr(to_row(value), field) == f'{{"a":{number.decode()}}}'


@pytest.mark.parametrize("filled", [b"null", b"[]", b'"{}"', b"1", b"true", b"[{}]"])
@pytest.mark.parametrize("field", ["metadata", "context"])
def test_metadata_and_context_that_are_no_objects_are_no_event(field: str, filled: bytes) -> None:
    assert reason(with_hole(field, filled)) == "invalid_event"


def test_space_around_an_object_makes_no_difference() -> None:
    assert json.loads(to_row(with_hole("metadata", b' \n{"a": 1}\t ')).metadata) == {"a": 1}


@pytest.mark.parametrize("field", ["user_id", "event_name", "tenant_id", "experiment_id", "variant", "source"])
def test_a_name_with_nul_is_set_aside(field: str) -> None:
    assert reason(changed(**{field: "a\x00b"})) == "unstorable_value"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "not_json"),
        (b"", "not_json"),
        (b"\xff\x00", "not_json"),
        (b"{}", "invalid_event"),
        (with_hole("metadata", b'{"a":%b%b}' % (b"[" * 20_000, b"]" * 20_000)), "unstorable_value"),
    ],
    ids=["tombstone", "empty", "binary", "no event", "nested 20,000 deep"],
)
def test_a_message_that_is_no_event_says_so(value: bytes | None, expected: str) -> None:
    assert reason(value) == expected


@pytest.mark.parametrize("depth", [60, 100, 150, 190, 199, 200, 201, 250, 254, 255, 300])
def test_any_nesting_makes_a_row_or_a_dead_letter(depth: int) -> None:
    metadata = b'{"a":%b%b}' % (b"[" * depth, b"]" * depth)
    try:
        made = to_row(changed(metadata="HOLE").replace(b'"HOLE"', metadata)).metadata
    except UndecodableMessage:
        made = ""
    assert made.encode() == metadata or depth > 100


@pytest.mark.parametrize("seconds", [0, 1, -1, 951_782_400, -63_082_281_600])
def test_times_before_and_after_2000_are_microseconds_from_it(seconds: int) -> None:
    moment = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, microseconds=1)
    assert to_row(changed(timestamp=moment.isoformat())).timestamp == seconds * 1_000_000 + 1


def test_a_batch_of_messages_becomes_rows_and_dead_letters_with_the_message_each_was_made_of() -> None:
    messages = [FakeMessage("events", 2, n, GOLDEN if n % 2 else b"bad") for n in range(6)]
    items, dead = decoder("dlq")(messages)
    assert [item.message for item in items] == messages[1::2]
    assert {item.row for item in items} == {to_row(GOLDEN)}
    assert [(letter.partition, letter.offset, letter.reason) for letter in dead] == [
        (2, n, "not_json") for n in (0, 2, 4)
    ]


def test_every_record_of_the_dead_letters_topic_is_a_dead_letter_even_an_event() -> None:
    messages = [FakeMessage("dlq", 0, 0, GOLDEN), FakeMessage("dlq", 0, 1, None)]
    items, dead = decoder("dlq")(messages)
    assert items == []
    assert [(letter.offset, letter.value, letter.on_topic) for letter in dead] == [(0, GOLDEN, True), (1, None, True)]
    assert decoder("dlq")([]) == ([], [])
