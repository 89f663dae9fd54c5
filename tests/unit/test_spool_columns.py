"""The spool's blobs: every byte comes back, damage is noticed, and events that are alike cost little."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from event_core.codec import Record, encode
from event_core.event import Event
from event_core.topics import partition_for
from ingestion_service.spool import column_kinds, columns
from ingestion_service.spool.column_io import Column, Reader, Writer
from ingestion_service.spool.columns import pack, unpack
from ingestion_service.spool.damaged import Damaged

EXAMPLE_TIME = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)
STARTED = datetime(2026, 5, 3, 12, 0, 0, 123456, tzinfo=UTC)


def lane(count: int, *, ticking: bool = False, batches_of: int = 1, version: int = 4, seed: int = 1) -> list[Record]:
    """S4's example event as one of six partitions gets it, of 1,000 learners who send 2,000 events a second.

    ``ticking``: the clients' times go on, otherwise they are the example's. ``batches_of``: events that share a received_at.
    """
    chance = random.Random(seed)
    records: list[Record] = []
    sent = 0
    received_at = STARTED
    while len(records) < count:
        now = STARTED + timedelta(microseconds=500 * sent + chance.randrange(200))
        if sent % batches_of == 0:
            received_at = now + timedelta(microseconds=3000 + chance.randrange(3000))
        sent += 1
        event_id = UUID(int=chance.getrandbits(128), version=4)
        if version == 7:
            event_id = UUID(int=int(now.timestamp() * 1000) << 80 | 7 << 76 | event_id.int & (1 << 76) - 1)
        learner = f"learner_{chance.randrange(1000):03d}"
        if partition_for(learner.encode(), 6) == 0:
            timestamp = now if ticking else EXAMPLE_TIME
            records.append(example(event_id, learner, timestamp, received_at))
    return records


def example(event_id: UUID, learner: str, timestamp: datetime, received_at: datetime, **fields: Any) -> Record:
    event: Event = {
        "event_id": event_id,
        "tenant_id": "tenant_alpha",
        "user_id": learner,
        "event_name": "interaction",
        "timestamp": timestamp,
        "received_at": received_at,
        "metadata": fields.pop("metadata", {"action": "click", "element": "next_button"}),
        "context": fields.pop("context", {}),
        "source": "learning-app",
    }
    return encode(event, **fields)


@pytest.mark.parametrize("batches_of", [1, 100])
@pytest.mark.parametrize("ticking", [False, True])
def test_the_example_event_costs_little_more_than_its_random_id(ticking: bool, batches_of: int) -> None:
    records = lane(2000, ticking=ticking, batches_of=batches_of)
    blob = pack(records)
    assert unpack(blob) == records
    assert len(blob) / len(records) < 22


def test_ids_that_hold_the_time_cost_less_than_random_ones() -> None:
    records = lane(2000, ticking=True, version=7)
    blob = pack(records)
    assert unpack(blob) == records
    assert len(blob) / len(records) < 15


def test_one_record_costs_no_more_than_its_compressed_bytes_and_a_head() -> None:
    for record in [lane(1)[0], Record(b"", b"", []), Record(b"k", random.Random(1).randbytes(300_000), [("h", b"v")])]:
        blob = pack([record])
        assert unpack(blob) == [record]
        plain = record.key + record.value + b"".join(name.encode() + value for name, value in record.headers)
        assert len(blob) <= len(zstandard.compress(plain, 9)) + 100


def test_records_of_many_shapes_keep_their_order() -> None:
    chance = random.Random(2)
    forms: list[dict[str, Any]] = [
        {"page": "/"},
        {"query": 'red "shoes"', "results": 7},
        {"items": [{"sku": "A"}, {"sku": "B"}]},
        {},
    ]
    records = []
    for number in range(700):
        form = {**chance.choice(forms), "at": number}
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" if chance.random() < 0.1 else None
        now = STARTED + timedelta(milliseconds=number)
        event_id = UUID(int=chance.getrandbits(128), version=4)
        records.append(example(event_id, f'"{number % 9}"', now, now, metadata=form, traceparent=trace))
        if number % 50 == 0:
            records.append(Record(b"", b"no JSON at all", [("other", b"\xff")]))
    blob = pack(records)
    assert unpack(blob) == records
    assert len(blob) / len(records) < 50


def assert_comes_back(records: list[Record]) -> None:
    assert unpack(pack(records)) == records
    # pack writes plain columns where the others do not come back, which would hide that they do not.
    assert unpack(columns._pack(records, plain=False)) == records
    assert unpack(columns._pack(records, plain=True)) == records


HEADERS = st.lists(
    st.tuples(st.sampled_from(["a", "event-id", "é", ""]) | st.text(max_size=3), st.binary(max_size=9)), max_size=3
)
ANYTHING = st.builds(Record, st.binary(max_size=9), st.binary(max_size=40), HEADERS)
QUOTED = st.lists(st.sampled_from([b'"', b"a", b"{", b"12", b'":', b"\x00"]), max_size=12).map(b"".join)
LIKENESSES = [
    b"1a2b8f1f-f1fd-42a2-9755-d4c13a902931",
    b"018f3c5e-7b3c-7def-8123-456789abcdef",
    b"018f3c5e-7b3c-7def-8123-456789abcdeF",
    b"018f3c5e7b3c-7def-8123-456789abcdef-",
    b"018f3c5e-7b3c-7def-8123-456789abcd  ",
    b"2024-01-15T10:30:00Z",
    b"2024-01-15T10:30:01Z",
    b"2024-01-15T10:30:00.000001Z",
    b"2024-01-15T10:30:00.000000Z",
    b"2024-01-15T10:30:00.12Z",
    b"2024-01-15T10:30:00.Z",
    b"2024-01-15T10:30:60Z",
    b"2024-01-15 10:30:00Z",
    b"2024-01-15T10:30+01Z",
    b"0001-01-01T00:00:00.-00001Z",
    b"0001-01-01T00:00:00.000001Z",
    b"9999-12-31T23:59:59.999999Z",
    b"9999-12-31T23:59:59.999999999Z",
    b"0",
    b"-0",
    b"007",
    b"008",
    b"-07",
    b"+5",
    b"1_0",
    b" 1",
    b"12",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"18446744073709551616",
    b"",
]


@given(st.lists(ANYTHING | st.builds(Record, QUOTED, QUOTED, HEADERS), max_size=24))
def test_any_records_come_back(records: list[Record]) -> None:
    assert_comes_back(records)


@given(
    st.lists(st.sampled_from(LIKENESSES), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(0, 3), max_size=40),
    st.booleans(),
)
def test_what_only_looks_like_an_id_a_time_or_a_number_comes_back(
    texts: list[bytes], order: list[int], wrapped: bool
) -> None:
    chosen = [texts[number % len(texts)] for number in order]
    records = [Record(text, b'{"a":"x%by"}' % text if wrapped else text, [("h", text)]) for text in chosen]
    assert_comes_back(records)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["page", "x", 'a"b', ""]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
EVENTS = st.builds(
    example,
    st.uuids(),
    st.sampled_from(["learner_001", "learner_27", 'a"b', "é\\"]) | st.text("ab", min_size=1, max_size=3),
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001 - the bounds have no zone
    st.sampled_from([STARTED, STARTED.replace(microsecond=0), EXAMPLE_TIME]),
    metadata=st.dictionaries(st.sampled_from(["page", "price"]), JSON, max_size=2),
    context=st.sampled_from([{}, {"priority": "high"}]),
    traceparent=st.none() | st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
)


@given(st.lists(EVENTS, max_size=12), st.lists(st.integers(0, 11), max_size=40))
def test_any_events_come_back(events: list[Record], order: list[int]) -> None:
    records = events + [events[number % len(events)] for number in order if events]
    assert_comes_back(records)


@pytest.mark.parametrize(
    "values",
    [
        [b'"' * 270_000, b'"' * 269_999],
        [b'"a' * number for number in range(0, 600, 7)],
        [b'"%d' % number * 255 for number in range(300)],
        [b"<" + b'>"<'.join(b"%d" % (number * place) for place in range(300)) + b">" for number in range(40)],
        [random.Random(number).randbytes(100_000) for number in range(3)],
        [b"x" * 270_000 + b"%d" % number for number in range(20)],
        [b""] * 50 + [b'"'],
    ],
    ids=["quotes", "growing", "many pieces", "wide", "noise", "long", "empty"],
)
def test_values_that_no_one_hopes_for_come_back(values: list[bytes]) -> None:
    records = [Record(value[:9], value, []) for value in values]
    assert_comes_back(records)


def test_each_flipped_bit_and_each_cut_is_damage() -> None:
    blob = pack(lane(8, ticking=True))
    for place in range(8 * len(blob)):
        changed = bytearray(blob)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(Damaged):
            unpack(bytes(changed))
    for length in range(len(blob)):
        with pytest.raises(Damaged):
            unpack(blob[:length])
    for wrong in [blob + b"\x00", blob[:4] + bytes(len(blob)), bytes(4096), blob + blob]:
        with pytest.raises(Damaged):
            unpack(wrong)


@given(st.binary(max_size=60))
def test_garbage_is_damage(garbage: bytes) -> None:
    for blob in (garbage, b"EPC\x01" + garbage, forged(3, 100, garbage)):
        with pytest.raises(Damaged):
            unpack(blob)


def forged(count: int, size: int, raw: bytes, frame: bytes | None = None) -> bytes:
    """A blob whose checksum is right, whatever its inside is."""
    head = Writer()
    head.number(count)
    head.number(size)
    body = bytes(head.meta) + (zstandard.compress(raw, 1) if frame is None else frame)
    return b"EPC\x01" + zlib.crc32(b"EPC\x01" + body).to_bytes(4, "big") + body


def opened(blob: bytes) -> tuple[int, int, bytes]:
    """A blob's records, bytes and decompressed inside."""
    head = Reader(blob[8:], b"", 0, 0)
    count, size = head.number(), head.number()
    return count, size, zstandard.decompress(blob[8 + head.at :])


def test_a_forged_blob_is_damage_or_other_records_and_nothing_worse() -> None:
    chance = random.Random(3)
    odd = [Record(b'k"%d' % number, b'"' * number, [("a", b"%d" % number)] * (number % 3)) for number in range(30)]
    insides = [opened(pack(records)) for records in (lane(5), lane(40, ticking=True, version=7), lane(5) + odd)]
    refused = 0
    for _ in range(3000):
        count, size, raw = chance.choice(insides)
        changed = bytearray(raw)
        for _ in range(chance.choice([1, 1, 2, 5])):
            changed[chance.randrange(len(raw))] = chance.choice([chance.randrange(256), chance.randrange(12), 255])
        if chance.random() < 0.2:
            del changed[chance.randrange(len(raw)) :]
        if chance.random() < 0.2:
            count = chance.choice([0, 1, count + 1, columns.MAX_RECORDS])
        try:
            unpack(forged(count, size, bytes(changed)))
        except Damaged:
            refused += 1
    assert refused > 1000


def test_a_small_blob_never_fills_the_memory() -> None:
    kinds = column_kinds
    joined = Writer()
    joined.number(1)  # one group, without headers
    joined.number(0)
    joined.meta += bytes((kinds.SAME, 0, kinds.JOINED, 2, kinds.SAME))  # an empty key; a value of two parts
    joined.text(bytes(1 << 20))
    joined.meta += bytes((kinds.SAME, 0))
    inside = Writer()
    inside.text(bytes(joined.meta))
    repeated = Writer()
    repeated.number(1)
    repeated.number(1 << 17)  # headers
    repeated.meta += bytes(1 << 17) + bytes((kinds.SAME, 0)) * ((1 << 17) + 2)
    headers = Writer()
    headers.text(bytes(repeated.meta))
    huge = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 26))
    unsized = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(bytes(1 << 26))
    blobs = [
        forged(columns.MAX_RECORDS, 1 << 22, bytes(inside.meta)),
        forged(columns.MAX_RECORDS, 1 << 10, bytes(headers.meta)),
        forged(16, 1 << 16, bytes(headers.meta)),
        forged(1, 1, b"", huge),
        forged(1, 1, b"", unsized),
        forged(1 << 40, 1, b"\x00"),
        forged(1, 1 << 40, b"\x00"),
    ]
    tracemalloc.start()
    try:
        for blob in blobs:
            with pytest.raises(Damaged):
                unpack(blob)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("fault", ["other numbers", "an error"])
def test_columns_that_would_not_come_back_are_written_plainly(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(out: Writer, column: Column) -> bool:
        out.begin(column_kinds.NUMBERS)
        out.meta.append(0)
        out.integers([len(text) << (0 if fault == "other numbers" else 99) for text in column])
        return True

    monkeypatch.setattr(column_kinds, "try_numbers", wrong)
    records = [Record(b"k", b'{"a":"%d"}' % (7**number), []) for number in range(20)]
    assert unpack(pack(records)) == records


def test_what_a_blob_cannot_hold_is_refused_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(b"key", b"value", [("h", b"v")])
    with pytest.raises(ValueError, match="records"):
        pack([record] * (columns.MAX_RECORDS + 1))
    with pytest.raises(ValueError, match="headers"):
        pack([Record(b"", b"", [("h", b"v")] * 300)])
    monkeypatch.setattr(columns, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match="bytes"):
        pack([record])
    monkeypatch.undo()
    with pytest.raises(ValueError, match="headers"):
        pack([Record(b"", b"", (("h", b"v"),))])  # type: ignore[arg-type]


def test_threads_do_not_disturb_each_other() -> None:
    lots = [lane(60, ticking=True, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            blobs = list(pool.map(pack, lots))
            assert list(pool.map(unpack, blobs)) == lots
