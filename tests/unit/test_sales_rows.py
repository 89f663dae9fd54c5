"""From a record to the document that S3 describes, or to a dead letter."""

from __future__ import annotations

import hashlib
import json
import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.sales.rows import decoder, to_row
from event_consumer.sales.sales_event_pb2 import SalesEvent
from event_consumer.sales.wire import read_sale
from event_core.errors import UndecodableMessage
from tests.support.sales import SALE, encoded, message


def refused(value: bytes | None) -> UndecodableMessage:
    with pytest.raises(UndecodableMessage) as caught:
        to_row(value, 0.0)
    return caught.value


def test_the_document_is_as_documented() -> None:
    """The example of the Sales Ingest Service, and MongoDB's own _id."""
    row = to_row(encoded(), 1705320600.123)
    assert row.document == {**SALE, "_id": "event-001", "processed_at": 1705320600.123}
    assert row.sale_id == "event-001"


@pytest.mark.parametrize(
    "ts",
    [
        *("2024-01-15T10:30:00Z", "2024-01-15T10:30:00+05:30", "2024-01-15T10:30:00.123456Z", "2024-01-15T10:30Z"),
        *("20240115T103000Z", "2024-01-15 10:30:00", "2024-01-15t10:30:00z", "2024-02-29T23:59:59,5-08"),
    ],
)
def test_any_iso_8601_date_and_time_is_kept_as_it_was_sent(ts: str) -> None:
    assert to_row(encoded(ts=ts), 0.0).document["ts"] == ts


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("sku", None), ("sku", "x" * 257)),
        *(("qty", 0), ("qty", None), ("qty", -1)),
        *(("price", -0.01), ("price", float("nan")), ("price", float("inf")), ("price", float("-inf"))),
        *(
            ("ts", None),
            ("ts", "yesterday"),
            ("ts", "2024-01-15"),
            ("ts", "1705320600"),
            ("ts", "2024-02-30T00:00:00Z"),
        ),
        *(("ts", "2024-01-15T25:00:00Z"), ("ts", "2024-01-15T10:30:00Z "), ("ts", "2024-W03-1T10:30:00Z")),
        ("event_id", "x" * 257),
    ],
)
def test_what_is_no_sale_is_refused_and_the_field_is_named(field: str, value: Any) -> None:
    error = refused(encoded(**{field: value}))
    assert error.reason == "invalid_sale"
    assert error.message.startswith(f"{field}: ")


def test_all_that_is_wrong_is_named_at_once() -> None:
    message = refused(encoded(sku=None, qty=0, price=-1.0)).message
    assert all(f"{field}: " in message for field in ("sku", "qty", "price"))


def test_a_price_of_0_is_a_gift_and_the_largest_quantity_a_sale() -> None:
    document = to_row(encoded(price=0.0, qty=2**31 - 1), 0.0).document
    assert (document["price"], document["qty"]) == (0.0, 2**31 - 1)


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"not protobuf at all", encoded()[:-3], b"{}"])
def test_what_is_no_protobuf_is_refused(value: bytes | None) -> None:
    assert refused(value).reason == "not_protobuf"


def test_fields_of_a_later_schema_are_tolerated() -> None:
    later = encoded() + b"\x32\x05store" + b"\x38\x07" + b"\x42\x02\x08\x01"  # 6: a string, 7: a number, 8: a message
    assert to_row(later, 0.0) == to_row(encoded(), 0.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("qty", b"\x15\x05\x00\x00\x00"),  # fixed32
        ("price", b"\x1d\xf5\x28\x50\x41"),  # float
        ("price", b"\x18\x1d"),  # an integer
        ("price", b"\x1a\x0529.99"),  # a text
        ("event_id", b"\x28\x07"),  # an integer
    ],
)
def test_a_field_of_another_type_is_refused_and_not_taken_for_absent(field: str, value: bytes) -> None:
    error = refused(encoded(**{field: None}) + value)
    assert error.reason == "not_protobuf"
    assert f"({field})" in error.message


# --- identity


def test_zero_has_no_sign() -> None:
    assert to_row(encoded(price=-0.0, event_id=None), 0.0) == to_row(encoded(price=0.0, event_id=None), 0.0)


def test_without_an_id_the_content_is_the_identity() -> None:
    """As documented, so that others can compute it."""
    text = json.dumps(["SKU-ABC-123", 5, 29.99, "2024-01-15T10:30:00Z"], separators=(",", ":"))
    row = to_row(encoded(event_id=None), 0.0)
    assert row.sale_id == hashlib.sha256(text.encode()).hexdigest()
    assert row.document["_id"] == row.document["event_id"] == row.sale_id


@given(st.sampled_from(["sku", "qty", "price", "ts"]))
def test_another_content_is_another_identity(field: str) -> None:
    other = {"sku": "other", "qty": 6, "price": 29.990000000000002, "ts": "2024-01-15T10:30:01Z"}
    one, two = to_row(encoded(event_id=None), 0.0), to_row(encoded(event_id=None, **{field: other[field]}), 0.0)
    assert one.sale_id != two.sale_id


# --- the schema registry's prefix

FIRST = b"\x00" + struct.pack(">I", 42)


@pytest.mark.parametrize("indexes", [b"\x00", b"\x02\x00"], ids=["short", "long"])
def test_the_registrys_prefix_is_recognised(indexes: bytes) -> None:
    assert to_row(FIRST + indexes + encoded(), 0.0) == to_row(encoded(), 0.0)


@pytest.mark.parametrize(
    "prefix",
    [b"\x00", FIRST, FIRST[:3], FIRST + b"\x02\x02", FIRST + b"\x04\x00\x00", FIRST + b"\x01", FIRST + b"\xff" * 9],
    ids=["magic only", "no indexes", "cut id", "second message", "nested", "negative", "endless"],
)
def test_a_prefix_that_is_cut_off_or_means_another_message_is_refused(prefix: bytes) -> None:
    assert refused(prefix + (encoded() if len(prefix) > 5 else b"")).reason in ("not_protobuf", "invalid_sale")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_sale_or_a_dead_letter(value: bytes) -> None:
    for sent in (value, FIRST + b"\x00" + value):
        reason = None
        try:
            row = to_row(sent, 0.0)
        except UndecodableMessage as error:
            reason = error.reason
        assert reason in ("not_protobuf", "invalid_sale") or row.document["qty"] > 0


sales = st.builds(
    SalesEvent,
    sku=st.text(max_size=20),
    qty=st.integers(-(2**31), 2**31 - 1),
    price=st.floats(),
    ts=st.sampled_from(["2024-01-15T10:30:00Z", "", "x"]),
    event_id=st.text(max_size=10),
)


@given(sales, st.integers(0, 2**32 - 1))
def test_no_protobuf_message_is_taken_for_a_prefix(sale: SalesEvent, schema: int) -> None:
    plain = sale.SerializeToString()
    prefixed = b"\x00" + struct.pack(">I", schema) + b"\x00" + plain
    if plain:
        assert read_sale(plain).SerializeToString() == plain
    assert read_sale(prefixed).SerializeToString() == plain
    with pytest.raises(DecodeError):
        SalesEvent.FromString(prefixed)


# --- a poll's worth


def test_a_bad_message_takes_none_of_its_neighbours_along() -> None:
    values = [encoded(event_id="a"), b"\xff", encoded(event_id="b", qty=0), encoded(event_id="c")]
    clock = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)
    items, dead = decoder(lambda: clock)([message(value, offset) for offset, value in enumerate(values)])
    assert [(item.row.sale_id, item.message.offset) for item in items] == [("a", 0), ("c", 3)]
    assert {item.row.document["processed_at"] for item in items} == {clock.timestamp()}
    assert [(letter.offset, letter.reason, letter.value) for letter in dead] == [
        (1, "not_protobuf", b"\xff"),
        (2, "invalid_sale", values[2]),
    ]
