"""The message on the topic: old ones are read for ever, and what is no event says why."""

from __future__ import annotations

import inspect
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.events.rows import EventRow, decoder, to_row
from event_core import codec
from event_core.codec import encode
from event_core.errors import UndecodableMessage
from event_core.event import Event
from event_core.source import FakeMessage
from event_core.topics import TopicPartition, partition_for
from tests.unit.decoded import decode

GOLDEN = Path(__file__).parent / "golden"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EVENT: Event = {
    "event_id": UUID("0190a3f2-7b3c-7def-8123-456789abcdef"),
    "tenant_id": "default",
    "user_id": "user_123",
    "event_name": "page_view",
    "timestamp": datetime(2023, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    "received_at": datetime(2023, 1, 1, 0, 0, 1, tzinfo=UTC),
    "metadata": {
        "page": "/checkout",
        "price": 12.5,
        "big": 2**64 - 1,
        "small": -(2**63),
        "text": 'é "quoted" \\u0000 \U0001f600',
        "list": [None, True, []],
        "": {},
    },
    "context": {"_platform": {"future_timestamp": True}, "session": "s"},
}


def changed(**fields: Any) -> bytes:
    """The golden message with ``fields`` changed; one changed to ``...`` is left out."""
    message = {**json.loads((GOLDEN / "event-1.json").read_bytes()), **fields}
    return json.dumps({name: value for name, value in message.items() if value is not ...}).encode()


def test_the_golden_message_of_schema_1_is_read_as_it_was_meant() -> None:
    assert decode((GOLDEN / "event-1.json").read_bytes()) == EVENT


def test_the_golden_message_is_what_is_written_today() -> None:
    record = encode(EVENT, TRACEPARENT)
    assert json.loads(record.value) == json.loads((GOLDEN / "event-1.json").read_bytes())
    headers = json.loads((GOLDEN / "event-1.headers.json").read_bytes())
    assert {name: value.decode() for name, value in record.headers} == headers
    assert record.key == b"user_123"


def test_without_a_trace_there_is_no_trace_header() -> None:
    assert [name for name, _ in encode(EVENT).headers] == ["event-id", "content-type", "schema"]


@pytest.mark.parametrize("value", [None, 1, "text", {"a": [1]}, [[]]])
def test_fields_of_a_newer_writer_are_ignored(value: object) -> None:
    assert decode(changed(added_in_schema_2=value)) == EVENT


@pytest.mark.parametrize("field", ["experiment_id", "variant", "source"])
def test_fields_that_only_some_forms_have_are_read_where_they_are_there(field: str) -> None:
    assert decode(changed(**{field: "x"})).get(field) == "x"
    assert getattr(codec.decode(changed(**{field: None})), field) is None
    assert getattr(codec.decode(changed()), field) is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2023-01-01T02:00:00+02:00", datetime(2023, 1, 1, tzinfo=UTC)),
        ("2023-01-01T00:00:00", datetime(2023, 1, 1, tzinfo=UTC)),
    ],
)
def test_times_of_other_writers_are_read_as_utc(text: str, moment: datetime) -> None:
    event = decode(changed(timestamp=text, received_at=text))
    assert event["timestamp"] == event["received_at"] == moment


GOLDEN_EVENT = (GOLDEN / "event-1.json").read_bytes().strip()
NOT_JSON = [
    *(None, b"", b" ", b"{", b"\xff", b"\x00\x00\x00\x00\x01\x02", b"not json", rb'"\ud800"'),
    *(GOLDEN_EVENT + b"x", GOLDEN_EVENT[:-1] + b",}", GOLDEN_EVENT[:-1], GOLDEN_EVENT + GOLDEN_EVENT),
]


@pytest.mark.parametrize("value", NOT_JSON, ids=lambda value: repr(value)[:20])
def test_what_is_not_json_is_undecodable_for_that_reason(value: bytes | None) -> None:
    with pytest.raises(UndecodableMessage) as caught:
        decode(value)
    assert caught.value.reason == "not_json"


NO_EVENT = [b"[]", b"null", b"1", b'"text"', b"{}", b'[{"event_id":1}]', b"[" * 5000]


@pytest.mark.parametrize("value", NO_EVENT, ids=lambda value: repr(value)[:20])
def test_json_that_is_no_event_is_undecodable_for_that_reason(value: bytes) -> None:
    with pytest.raises(UndecodableMessage) as caught:
        decode(value)
    assert caught.value.reason == "invalid_event"


REQUIRED = ["event_id", "tenant_id", "user_id", "event_name", "timestamp", "received_at", "metadata", "context"]


@pytest.mark.parametrize("field", REQUIRED)
@pytest.mark.parametrize("value", [..., None, [], "", False], ids=repr)
def test_a_missing_or_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(UndecodableMessage) as caught:
        to_row(changed(**{field: value}))
    assert caught.value.reason == "invalid_event"
    assert caught.value.message.startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["timestamp", "received_at"])
@pytest.mark.parametrize(
    "value", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+01:00", "10000-01-01"]
)
def test_a_time_that_postgres_could_not_give_back_is_undecodable(field: str, value: str) -> None:
    with pytest.raises(UndecodableMessage) as caught:
        decode(changed(**{field: value}))
    assert caught.value.reason == "invalid_event"
    assert caught.value.message.startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["user_id", "event_name", "tenant_id", "experiment_id", "variant", "source"])
def test_a_name_longer_than_an_index_can_hold_is_undecodable(field: str) -> None:
    assert decode(changed(**{field: "\U0001f600" * 256})).get(field) == "\U0001f600" * 256
    with pytest.raises(UndecodableMessage):
        decode(changed(**{field: "n" * 257}))


@given(st.binary(max_size=100))
def test_any_bytes_are_an_event_or_undecodable(value: bytes) -> None:
    with pytest.raises(UndecodableMessage):  # no hundred bytes make an event
        decode(value)


@given(st.integers(0, 399), st.binary(max_size=3))
def test_a_damaged_message_is_an_event_or_undecodable(position: int, damage: bytes) -> None:
    whole = (GOLDEN / "event-1.json").read_bytes()
    value = whole[:position] + damage + whole[position + 1 :]
    items, dead = decoder("dlq")([FakeMessage("events", 0, 0, value)])
    assert len(items) + len(dead) == 1
    for row, _ in items:
        assert all((row.user_id, row.event_name, row.tenant_id))
        assert isinstance(json.loads(row.metadata), dict)
        assert isinstance(json.loads(row.context), dict)
    assert {letter.reason for letter in dead} <= {"not_json", "invalid_event", "unstorable_value"}


DEPTHS = [60, 500, 900, 980, 990, 995, 1_000, 1_010, 1_100, 5_000, 20_000, 1_000_000]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("field", ["metadata", "context", "unknown"])
@pytest.mark.parametrize("text", [b"0", rb'"\u0041"'], ids=["plain", "with an escape"])
@pytest.mark.parametrize("opened", [b"[", b'{"a":'], ids=["arrays", "objects"])
def test_any_nesting_is_read_or_a_dead_letter_and_never_a_crash(
    opened: bytes, text: bytes, field: str, depth: int
) -> None:
    nested = opened * depth + text + (b"]" if opened == b"[" else b"}") * depth
    value = changed(**{field: "HOLE"}).replace(b'"HOLE"', b'{"a":%b}' % nested)
    message = FakeMessage("events", 0, 0, value)
    items, dead = decoder("dlq")([message])
    assert len(items) + len(dead) == 1
    if depth <= 60:
        assert items
    if depth >= 5_000:
        assert (dead[0].reason, dead[0].value) == ("unstorable_value", value)


@pytest.mark.parametrize("depth", [100, 20_000])
@pytest.mark.parametrize("left", [15, 30, 60, 200])
def test_a_deep_stack_of_callers_is_no_crash_either(depth: int, left: int) -> None:
    value = changed(metadata="HOLE").replace(b'"HOLE"', b'{"a":%b%b}' % (b"[" * depth, b"]" * depth))

    def called(levels: int) -> object:
        if levels:
            return called(levels - 1)
        try:
            return to_row(value)
        except UndecodableMessage as error:
            return error.reason

    made = called(sys.getrecursionlimit() - len(inspect.stack()) - left)
    assert made == "unstorable_value" or (depth == 100 and isinstance(made, EventRow))


# Check values: the CRC catalogue's CRC-32/ISO-HDLC (0xCBF43926 for the nine digits), and the CRC's definition for the rest.
@pytest.mark.parametrize(
    ("key", "crc"),
    [
        (b"123456789", 0xCBF43926),
        (b"", 0),
        (b"a", 0xE8B7BE43),
        (b"abc", 0x352441C2),
        (b"The quick brown fox jumps over the lazy dog", 0x414FA339),
    ],
)
@pytest.mark.parametrize("partitions", [1, 3, 6, 1000])
def test_a_keys_partition_is_the_published_crc_32_modulo_the_partitions(key: bytes, crc: int, partitions: int) -> None:
    assert partition_for(key, partitions) == crc % partitions


@given(st.binary(max_size=50), st.integers(1, 100))
def test_a_key_always_has_one_partition_that_exists(key: bytes, partitions: int) -> None:
    assert 0 <= partition_for(key, partitions) < partitions
    assert partition_for(bytes(bytearray(key)), partitions) == partition_for(key, partitions)


def test_many_users_are_spread_over_all_partitions_evenly() -> None:
    counts = [0] * 6
    for user in range(6_000):
        counts[partition_for(f"user_{user}".encode(), 6)] += 1
    assert min(counts) > 800
    assert max(counts) < 1_200


def test_a_partition_is_shown_as_kafkas_tools_show_it() -> None:
    assert str(TopicPartition("events", 3)) == "events-3"
