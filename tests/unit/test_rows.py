"""From a message to the row that analysts see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from event_consumer.events.rows import EventRow, to_row
from event_core.codec import encode
from event_core.errors import UndecodableMessage
from event_core.source import FakeMessage
from tests.unit.test_codec import EVENT, changed

GOLDEN = (Path(__file__).parent / "golden" / "event-1.json").read_bytes()


def row(value: bytes | None) -> EventRow:
    return to_row(FakeMessage("events", 0, 0, value))


def reason(value: bytes | None) -> str:
    with pytest.raises(UndecodableMessage) as caught:
        row(value)
    return caught.value.reason


def test_every_field_of_the_event_is_in_the_row() -> None:
    made = row(changed(experiment_id="x", variant="b", source="sdk"))
    assert made[:3] == (EVENT["event_id"], "user_123", "page_view")
    assert (made.timestamp, made.received_at, made.tenant_id) == (EVENT["timestamp"], EVENT["received_at"], "default")
    assert (json.loads(made.metadata), json.loads(made.context)) == (EVENT["metadata"], EVENT["context"])
    assert (made.experiment_id, made.variant, made.source) == ("x", "b", "sdk")


def test_what_an_event_does_not_have_is_null() -> None:
    made = row(GOLDEN)
    assert (made.experiment_id, made.variant, made.source) == (None, None, None)


def test_no_metadata_is_an_empty_object() -> None:
    made = row(changed(metadata={}, context={}))
    assert (made.metadata, made.context) == ("{}", "{}")


@pytest.mark.parametrize("value", [{"a": "\\u0000"}, {"a": None}, {"null": "null"}, {"\\u0000": 1}], ids=repr)
def test_what_only_looks_like_poison_is_stored_as_it_is(value: dict[str, Any]) -> None:
    assert json.loads(row(encode({**EVENT, "metadata": value}).value).metadata) == value


POISON = [
    rb'{"a":"\u0000"}',
    rb'{"\u0000":1}',
    rb'{"a":[{"b":"x\u0000y"}]}',
    b'{"a":NaN}',
    b'{"a":[-Infinity]}',
    b'{"a":1e999}',
    b'{"a":1e131072}',
    b'{"a":18446744073709551616}',
    b'{"a":-9223372036854775809}',
]


@pytest.mark.parametrize("poison", POISON, ids=repr)
@pytest.mark.parametrize("field", ["metadata", "context"])
def test_json_that_postgres_cannot_hold_is_set_aside(field: str, poison: bytes) -> None:
    assert reason(changed(**{field: "HOLE"}).replace(b'"HOLE"', poison)) == "unstorable_value"


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
        (changed(metadata="HOLE").replace(b'"HOLE"', rb'{"a":"\ud800"}'), "not_json"),
        (changed(metadata="HOLE").replace(b'"HOLE"', b'{"a":%b%b}' % (b"[" * 20_000, b"]" * 20_000)), "not_json"),
        (changed(metadata="HOLE").replace(b'"HOLE"', b'{"a":%b}' % (b"9" * 5000)), "not_json"),
    ],
    ids=["tombstone", "empty", "binary", "no event", "lone surrogate", "nested 20,000 deep", "5,000 digits"],
)
def test_a_message_that_is_no_event_says_so(value: bytes | None, expected: str) -> None:
    assert reason(value) == expected


@pytest.mark.parametrize("depth", [60, 100, 150, 190, 199, 200, 201, 250, 254, 255, 300])
def test_any_nesting_makes_a_row_or_a_dead_letter(depth: int) -> None:
    metadata = b'{"a":%b%b}' % (b"[" * depth, b"]" * depth)
    try:
        made = row(changed(metadata="HOLE").replace(b'"HOLE"', metadata)).metadata
    except UndecodableMessage:
        made = ""
    assert made.encode() == metadata or depth > 100
