"""A sale that is set aside, as a record of its topic."""

from __future__ import annotations

from datetime import UTC, datetime

from event_consumer.dead_letter import DeadLetter, dead_letter
from event_consumer.sales.letters import letter_id, letter_record
from event_core.dead_letters import MAX_DEAD_LETTER_BYTES, read_headers
from event_core.errors import UndecodableMessage
from event_core.source import FakeMessage
from tests.support.sales import message

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
BAD = UndecodableMessage("qty: must be greater than 0", reason="invalid_sale")


def letter(of: FakeMessage) -> DeadLetter:
    return dead_letter(of, BAD)


def test_the_record_holds_the_original_bytes_and_where_and_why() -> None:
    record = letter_record(letter(message(b"\xff\x00", offset=7)), NOW, MAX_DEAD_LETTER_BYTES)
    assert (record.key, record.value) == (b"key", b"\xff\x00")
    said = read_headers(record.headers)
    assert said is not None
    assert (said.topic, said.partition, said.offset) == ("sales_txn", 0, 7)
    assert (said.source, said.reason, said.error) == ("event_consumer_sales", "invalid_sale", BAD.message)
    assert said.headers == [("traceparent", b"00-x")]


def test_a_record_that_is_read_again_makes_no_second_letter() -> None:
    assert letter_id(letter(message(b"x"))) == letter_id(letter(message(b"x")))


def test_other_records_make_other_letters() -> None:
    ids = {
        letter_id(letter(message(b"x"))),
        letter_id(letter(message(b"x", offset=1))),
        letter_id(letter(FakeMessage("sales_txn", 1, 0, b"x", timestamp=1_000))),
        letter_id(letter(FakeMessage("other", 0, 0, b"x", timestamp=1_000))),
        letter_id(letter(message(b"x", timestamp=2_000))),  # the topic was made anew
    }
    assert len(ids) == 5


def test_a_replayed_sale_keeps_its_letters_id() -> None:
    first = letter_id(letter(message(b"x")))
    replayed = FakeMessage(
        "sales_txn", 0, 99, b"y", headers=(("retry-count", b"1"), ("dead-letter-id", str(first).encode()))
    )
    assert letter_id(letter(replayed)) == first
    assert letter_record(letter(replayed), NOW, MAX_DEAD_LETTER_BYTES).value == b"y"


def test_a_large_original_becomes_a_stub() -> None:
    record = letter_record(letter(message(b"\xff" * 100_000)), NOW, 8 << 10)
    said = read_headers(record.headers)
    assert said is not None
    assert said.stub
    assert len(record.value) <= 8 << 10
