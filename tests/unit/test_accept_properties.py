"""Whatever is sent: an event or a refusal for each, the same one at a time as together, and within a bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event_core.codec import encode
from event_core.errors import InvalidEvent, MalformedBody, TooLarge
from ingestion_service import collect as module
from ingestion_service.accept import accept
from ingestion_service.collect import collect, originals
from ingestion_service.forms import Accepted, Refused
from ingestion_service.limits import Limits
from tests.unit.decoded import decode
from tests.unit.test_accepted_events import ANYTHING, EDITS, NAMES, OBJECTS

NOW = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
LIMITS = Limits()

TIMES = (
    st.none()
    | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)
    | st.integers(-(10**11), 10**11)
    | st.floats(-1e11, 1e11)
)
IDS = st.none() | st.uuids().map(str)
TYPES = st.sampled_from(["interaction", "progress", "assessment", "error", "system"])
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "learner_id": NAMES,
    "event_type": TYPES,
    "tenant_id": st.none() | NAMES,
    "priority": st.none() | st.sampled_from(["low", "medium", "high", "critical"]),
    "timestamp": TIMES,
    "source_service": st.none() | NAMES,
    "event_data": st.none() | OBJECTS,
    "metadata": st.none() | OBJECTS,
    "event_id": IDS,
}
REQUIRED = {"learner_id", "event_type"}
OPTIONAL = {name: values for name, values in GOOD.items() if name not in REQUIRED}
LEARNERS = st.fixed_dictionaries({name: GOOD[name] for name in REQUIRED}, optional=OPTIONAL)
NEARLY = st.dictionaries(st.sampled_from([*GOOD, "extra", "_platform"]), ANYTHING)
ELEMENTS = LEARNERS | st.builds(lambda good, odd: {**good, **odd}, LEARNERS, NEARLY) | ANYTHING
SPACE = st.text(st.sampled_from(" \t\r\n"), max_size=2)
BESIDE = st.fixed_dictionaries(
    {},
    optional={
        "batch_id": NAMES,
        "metadata": OBJECTS,
        "sent_at": st.just("2026-01-01T00:00:00Z"),
        "x": st.integers(0, 9),
    },
)


@contextmanager
def one_by_one(*, large: bool = False) -> Iterator[None]:
    """Turns the quick way off; ``large``: treats every body as a large one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_at_once", lambda *_: None)
        if large:
            real = module._check_element
            patched.setattr(module, "_check_element", lambda raw, limits: large_element(real, raw, limits))
            patched.setattr(module, "WHOLE_BYTES", -1)
        yield


def large_element(real: Callable[[bytes, Limits], None], raw: bytes, limits: Limits) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "WHOLE_BYTES", 1 << 20)
        real(raw, limits)


@contextmanager
def in_pieces() -> Iterator[None]:
    """An array is cut wherever that looks possible."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "PIECE_BYTES", 1)
        yield


def outcome(item: Accepted | Refused) -> object:
    """What must be equal whichever way an event went; ids that were made here differ."""
    if isinstance(item, Refused):
        return (item.index, item.event_id, item.raw, item.error.reason, item.error.message, item.error.details)
    event = dict(item.event)
    if item.content is None:
        event.pop("event_id")
    return (item.form, repr(event), item.content)


def outcomes(raw: bytes) -> object:
    try:
        batch = collect(raw, NOW, LIMITS)
        items = [outcome(item) for item in batch.items]
    except InvalidEvent as error:
        return (type(error), error.reason)
    return items, batch.corrected


@settings(max_examples=200)
@given(st.lists(st.tuples(ELEMENTS, SPACE, SPACE, st.booleans()), min_size=1, max_size=6), BESIDE, st.booleans())
def test_each_event_of_a_batch_fares_as_it_would_alone(
    events: list[tuple[object, str, str, bool]], beside: dict[str, object], bare: bool
) -> None:
    texts = [json.dumps(event, ensure_ascii=True, indent=1 if spread else None) for event, _, _, spread in events]
    spaced = ",".join(f"{a}{text}{b}" for text, (_, a, b, _) in zip(texts, events, strict=True))
    rest = "" if bare else json.dumps(beside)[1:-1]

    def body(inner: str) -> bytes:
        return (inner if bare else f'{{{rest}{"," if rest else ""}"events":{inner}}}').encode()

    raw = body(f"[{spaced}]")
    together = list(collect(raw, NOW, LIMITS).items)
    assert [raw[span] for span in originals(raw, LIMITS)] == [text.encode() for text in texts]
    for index, (item, text) in enumerate(zip(together, texts, strict=True)):
        (alone,) = collect(body(f"[{text}]"), NOW, LIMITS).items
        if isinstance(alone, Refused):
            alone = alone._replace(index=index)
            assert alone.raw == text.encode()
        assert outcome(item) == outcome(alone)
    quick = outcomes(raw)
    with one_by_one():
        assert outcomes(raw) == quick
    with one_by_one(large=True):
        assert outcomes(raw) == quick
    with in_pieces():
        assert outcomes(raw) == quick


@settings(max_examples=300)
@given(st.lists(ELEMENTS, max_size=3), BESIDE, EDITS, st.booleans())
def test_any_body_is_a_batch_or_refused_the_same_on_every_way(
    events: list[object], beside: dict[str, object], edits: list[tuple[int, int]], bare: bool
) -> None:
    raw = bytearray(json.dumps(events if bare else {**beside, "events": events}).encode())
    for position, byte in edits:
        raw[position % len(raw)] = byte
    decided(bytes(raw))


@settings(max_examples=200)
@given(st.binary(max_size=100) | st.text(st.sampled_from('[]{},:"\\ ea1'), max_size=100).map(str.encode))
def test_any_bytes_are_a_batch_or_refused(raw: bytes) -> None:
    decided(raw)


def decided(raw: bytes) -> None:
    quick = outcomes(raw)
    with one_by_one():
        assert outcomes(raw) == quick
    with in_pieces():
        assert outcomes(raw) == quick
    if isinstance(quick, tuple) and isinstance(quick[0], type):
        assert issubclass(quick[0], MalformedBody | TooLarge)
        return
    for item in collect(raw, NOW, LIMITS).items:
        if isinstance(item, Accepted):
            try:
                record = encode(item.event)
            except InvalidEvent:
                continue
            assert decode(record.value)["received_at"] == NOW


@settings(max_examples=200)
@given(LEARNERS, st.dictionaries(NAMES.filter(lambda name: name not in {*GOOD, "_platform"}), OBJECTS, max_size=2))
def test_every_learner_event_comes_back_from_kafka_equal(sent: dict[str, Any], extra: dict[str, object]) -> None:
    (item,) = collect(json.dumps([{**extra, **sent}]).encode(), NOW, LIMITS).items
    if isinstance(item, Refused):
        assert item.error.reason == "bad_timestamp"  # the generator reaches the ends of the calendar
        return
    event = decode(encode(item.event).value)
    assert event == item.event
    assert (event["user_id"], event["event_name"]) == (sent["learner_id"], sent["event_type"])
    assert event["metadata"] == (sent.get("event_data") or {})
    assert event["tenant_id"] == (sent.get("tenant_id") or "default")
    assert event.get("source") == sent.get("source_service")
    kept = {name: value for name in ("metadata", "priority") if (value := sent.get(name))}
    assert {name: value for name, value in event["context"].items() if name != "_platform"} == {**extra, **kept}
    if sent.get("event_id"):
        assert event["event_id"] == UUID(sent["event_id"])


PRODUCTS = st.fixed_dictionaries(
    {"user_id": NAMES, "event_type": NAMES},
    optional={
        "event_time": st.none() | st.integers(-(10**13), 10**14),
        "experiment_id": st.none() | NAMES,
        "variant": st.none() | NAMES,
        "properties": st.none() | OBJECTS,
        "event_id": IDS,
    },
)


@settings(max_examples=200)
@given(PRODUCTS)
def test_every_product_event_comes_back_from_kafka_equal(sent: dict[str, Any]) -> None:
    event = accept(json.dumps(sent).encode(), NOW, LIMITS).event
    assert decode(encode(event).value) == event
    assert (event["user_id"], event["event_name"]) == (sent["user_id"], sent["event_type"])
    assert event["metadata"] == (sent.get("properties") or {})
    assert (event.get("experiment_id"), event.get("variant")) == (sent.get("experiment_id"), sent.get("variant"))
    given_time = sent.get("event_time")
    if given_time is not None:
        assert event["timestamp"] == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=given_time)


PROBE = """
import sys
from datetime import UTC, datetime
from event_core.codec import encode
from event_core.errors import InvalidEvent
from ingestion_service.collect import collect
from ingestion_service.forms import Accepted
from ingestion_service.limits import Limits

MIB, EMOJI = 1 << 20, "\\U0001f600".encode()

def event(data):
    return b'{"learner_id":"l","event_type":"system","event_data":{"a":%b}}' % data

def text(size):
    return b'"%b%b"' % (b"x" * size, EMOJI)

def array(event, times):
    return b"[" + b",".join([event] * times) + b"]"

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

BODIES = {
    "one text": lambda: array(event(text(10 * MIB - 99)), 1),
    "texts of 250 KiB": lambda: array(event(text(250 << 10)), 40),
    "a thousand of 10 KiB": lambda: array(event(text(10_300)), 1000),
    "escapes": lambda: array(event(b'"' + b"\\\\n" * 5_100 + b'"'), 1000),
    "short texts": lambda: array(event(b"[" + b",".join([text(8)] * 980) + b"]"), 100),
    "small objects": lambda: array(event(b"[" + b",".join([b'{"x":1}'] * 320) + b"]"), 100),
    "nested": lambda: array(event(b"[" * 62 + b"]" * 62), 740),
    "nested too deep": lambda: array(event(b"[" * 90 + b"]" * 90), 500),
    "all invalid": lambda: array(b'{"learner_id":5,"a":%b}' % text(10_300), 1000),
    "lone surrogates": lambda: array(event(b'"%b\\\\ud800"' % (b"x" * 10_300)), 1000),
    "digits": lambda: array(event(b"9" * 10_300), 1000),
    "quotes": lambda: b'[{' + b'"' * (10 * MIB - 4) + b'}]',
    "a text": lambda: text(10 * MIB - 9),
    "no events": lambda: b'{"a":' + text(10 * MIB - 9) + b'}',
    "metadata": lambda: b'{"metadata":{"a":' + text(10 * MIB - 99) + b'},"events":[{}]}',
    "metadata for all": lambda: b'{"metadata":{"a":' + text(8_100) + b'},"events":' + array(event(b"1"), 1000) + b'}',
}

now, limits = datetime.now(UTC), Limits()
collect(array(event(b"1"), 2), now, limits)
idle = status("VmRSS")
for name, body in BODIES.items():
    raw = body()
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    kept = []
    try:
        for item in collect(raw, now, limits).items:
            try:
                kept.append(encode(item.event).value if isinstance(item, Accepted) else item)
            except InvalidEvent:
                pass
    except InvalidEvent:
        pass
    print(f"{status('VmHWM') - idle:.1f} MiB for {len(raw) / MIB:.1f} MiB: {name}")
    del raw, kept
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of its memory from /proc")
def test_a_hostile_body_with_all_that_is_made_of_it_costs_less_than_50_megabytes() -> None:
    # Without this, glibc keeps freed memory of the bodies before, which would be counted again.
    settled = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    probe = [sys.executable, "-c", PROBE]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=120, check=False, env=settled)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 16
    print(done.stdout)
    assert [line for line in lines if float(line.split()[0]) * 1.048576 > 50] == []
