"""The disk spool as its writer and its reader see it."""

from __future__ import annotations

import os
import random
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from event_core.errors import ConfigurationError
from ingestion_service.errors import BufferFull
from ingestion_service.spool import disk, tuning
from ingestion_service.spool.lane import Entry, Lane
from ingestion_service.spool.store import SpoolStore
from tests.support.spool import (
    LANES,
    MIB,
    chunks,
    compact_all,
    copy_as_killed,
    drain,
    entries,
    entry,
    files_in,
    number_of,
    record,
)

LANE = LANES[0]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SpoolStore]:
    opened = SpoolStore.open(tmp_path / "buffer", max_bytes=100 * MIB)
    yield opened
    opened.close()


def test_nobody_else_can_read_what_is_kept(store: SpoolStore, tmp_path: Path) -> None:
    folders = [tmp_path / "buffer", *(path for path in (tmp_path / "buffer").iterdir() if path.is_dir())]
    assert len(folders) > 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


def in_lane(*numbers: int, size: int = 0) -> list[Entry]:
    return [Entry(LANE, record(number, size=size)) for number in numbers]


def numbers_in(store: SpoolStore) -> list[int]:
    return [number_of(each) for each in drain(store)]


def test_what_was_appended_can_be_read_once_it_is_sealed(store: SpoolStore) -> None:
    store.append(in_lane(1, 2))
    store.append(in_lane(3))
    assert store.read(LANE) is None
    assert store.waiting() == {LANE: 3}
    store.seal()
    chunk = store.read(LANE)
    assert chunk is not None
    assert chunk.records == [record(1), record(2), record(3)]
    assert store.read(LANE) is None
    assert store.waiting() == {LANE: 3}
    store.forget(chunk)
    assert store.waiting() == {}


def test_nothing_is_an_append_and_a_seal_too(store: SpoolStore, tmp_path: Path) -> None:
    store.append([])
    store.seal()
    store.seal()
    assert files_in(tmp_path) == []
    assert store.compact() is False


def test_any_bytes_and_names_come_back(store: SpoolStore) -> None:
    records = [
        entry(1).record._replace(key=b"", value=b"", headers=[]),
        entry(2).record._replace(key=bytes(range(256)), value=b"\xff\x00" * 9, headers=[("ü", b"\x80"), ("", b"")]),
        entry(3).record._replace(value=random.Random(1).randbytes(300_000)),
    ]
    lane = Lane("ünïcode.topic", 2**31, 2**32 - 1)
    store.append([Entry(lane, each) for each in records])
    store.seal()
    while store.compact():
        pass
    assert drain(store) == records
    assert store.waiting() == {}


def test_a_chunk_has_at_least_one_record_and_then_the_bytes_that_were_asked_for(store: SpoolStore) -> None:
    store.append(in_lane(*range(100), size=1000))
    store.seal()
    sizes = []
    while (chunk := store.read(LANE, max_bytes=10_000)) is not None:
        sizes.append(len(chunk.records))
    assert sum(sizes) == 100
    assert 8 <= max(sizes) <= 11
    store.rewind(LANE)
    one = store.read(LANE, max_bytes=1)
    assert one is not None
    assert [number_of(each) for each in one.records] == [0]


def test_a_chunk_goes_on_over_the_ends_of_files(store: SpoolStore) -> None:
    for number in range(5):
        store.append(in_lane(number))
        store.seal()
    chunk = store.read(LANE)
    assert chunk is not None
    assert [number_of(each) for each in chunk.records] == [0, 1, 2, 3, 4]
    assert store.files == 5
    store.forget(chunk)
    assert store.files == 0


def test_rewinding_reads_again_what_is_not_forgotten(store: SpoolStore) -> None:
    store.append(in_lane(*range(10)))
    store.seal()
    first, second = store.read(LANE, max_bytes=1), store.read(LANE, max_bytes=1)
    assert first is not None
    assert second is not None
    store.forget(first)
    store.rewind(LANE)
    assert numbers_in(store) == list(range(1, 10))


def test_chunks_may_be_forgotten_in_any_order(store: SpoolStore) -> None:
    store.append(in_lane(*range(6)))
    store.seal()
    read = [store.read(LANE, max_bytes=1) for _ in range(6)]
    for index in (3, 1, 0, 5, 4, 2):
        chunk = read[index]
        assert chunk is not None
        assert store.files == 1
        store.forget(chunk)
    assert store.waiting() == {}
    assert store.files == 0


def test_a_chunk_forgotten_after_a_rewind_is_not_read_again(store: SpoolStore) -> None:
    store.append(in_lane(*range(4)))
    store.seal()
    chunk = store.read(LANE, max_bytes=1)
    assert chunk is not None
    store.rewind(LANE)
    store.forget(chunk)
    store.forget(chunk)
    assert numbers_in(store) == [1, 2, 3]


def test_a_lane_that_is_stuck_holds_up_no_other(store: SpoolStore, tmp_path: Path) -> None:
    stuck, free = LANES[0], LANES[1]
    for number in range(40):
        store.append([Entry(stuck, record(number)), Entry(free, record(number))])
        if number % 5 == 4:
            store.seal()
        chunk = store.read(free)
        if chunk is not None:
            store.forget(chunk)
    assert store.waiting() == {stuck: 40}
    assert numbers_in(store) == list(range(40))
    assert files_in(tmp_path) == []


def test_order_holds_through_journals_segments_and_restarts(tmp_path: Path) -> None:
    small = tuning.Tuning(seal_records=40, enough_records=60, blob_records=25, fan_in=2)
    last = 0
    for _ in range(4):
        store = SpoolStore.open(tmp_path, max_bytes=100 * MIB, tuning=small)
        for _ in range(50):
            store.append(entries(range(last, last + 7)))
            last += 7
        for _ in range(20):
            store.compact()
        store.close()
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    assert store.records == last
    seen: set[int] = set()
    for chunk in chunks(store):
        numbers = list(map(number_of, chunk.records))
        assert numbers == sorted(numbers)
        assert {entry(number).lane for number in numbers} == {chunk.lane}
        assert chunk.records == [record(number) for number in numbers]
        seen |= set(numbers)
        store.forget(chunk)
    assert seen == set(range(last))
    store.close()


def test_a_restart_sends_again_only_what_was_not_forgotten(tmp_path: Path) -> None:
    store = SpoolStore.open(tmp_path / "a", max_bytes=100 * MIB)
    store.append(in_lane(*range(10)))
    store.seal()
    for _ in range(4):
        chunk = store.read(LANE, max_bytes=1)
        assert chunk is not None
        store.forget(chunk)
    killed = SpoolStore.open(copy_as_killed(tmp_path / "a", tmp_path / "b"), max_bytes=100 * MIB)
    assert killed.waiting() == {LANE: 6}
    assert numbers_in(killed) == list(range(4, 10))
    killed.append(in_lane(77))
    killed.seal()
    assert numbers_in(killed) == [77]
    killed.close()
    store.close()


def test_without_a_cursor_everything_left_is_sent_again_and_nothing_is_missed(tmp_path: Path) -> None:
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    for start in (0, 5):
        store.append(in_lane(*range(start, start + 5)))
        store.seal()
    chunk = store.read(LANE, max_bytes=1)
    assert chunk is not None
    store.forget(chunk)
    store.close()
    (tmp_path / "slot-0" / "cursor").unlink()
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    assert numbers_in(store) == list(range(10))
    assert (store.damaged.files, store.damaged.records) == (0, 0)
    store.close()


def test_what_was_appended_before_a_kill_is_there(tmp_path: Path) -> None:
    store = SpoolStore.open(tmp_path / "a", max_bytes=100 * MIB)
    store.append(in_lane(*range(5)))
    store.seal()
    store.append(in_lane(*range(5, 9)))
    killed = SpoolStore.open(copy_as_killed(tmp_path / "a", tmp_path / "b"), max_bytes=100 * MIB)
    assert killed.waiting() == {LANE: 9}
    killed.append(in_lane(9))
    killed.seal()
    assert numbers_in(killed) == list(range(10))
    assert (killed.damaged.files, killed.damaged.records) == (0, 0)
    killed.close()
    store.close()


def test_two_stores_share_a_folder_and_its_limit(tmp_path: Path) -> None:
    now = [0.0]
    first = SpoolStore.open(tmp_path, max_bytes=8 * MIB, clock=lambda: now[0])
    second = SpoolStore.open(tmp_path, max_bytes=8 * MIB, clock=lambda: now[0])
    assert (first.slot, second.slot) == ("slot-0", "slot-1")
    first.append(in_lane(*range(2000), size=1000))
    first.seal()
    now[0] += 2
    assert second.size_bytes == first.size_bytes > 2 * MIB
    refusal = fill(second, iter(range(5000)))
    assert 1 <= refusal.retry_after <= 60
    now[0] += 2
    assert first.size_bytes <= 8 * MIB
    assert first.waiting() == {LANE: 2000}
    assert 0 < second.waiting()[LANE] < 5000
    first.close()
    second.close()


def test_an_orphaned_slot_is_adopted_and_comes_first(tmp_path: Path) -> None:
    other = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    store.append(in_lane(10))
    store.seal()
    other.append(in_lane(1, 2))
    assert store.adopt_orphans() == 0
    other.close()
    assert store.waiting() == {LANE: 1}
    assert store.adopt_orphans() == 2
    assert store.waiting() == {LANE: 3}
    assert store.adopt_orphans() == 0
    third = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    assert third.slot == "slot-2"
    assert third.waiting() == {}
    assert numbers_in(store) == [1, 2, 10]
    assert files_in(tmp_path) == []
    fourth = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    assert fourth.slot == other.slot
    for each in (store, third, fourth):
        each.close()


def test_a_chunk_of_an_adopted_slot_can_be_sent_again(tmp_path: Path) -> None:
    other = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    other.append(in_lane(1, 2))
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    store.append(in_lane(3))
    store.seal()
    other.close()
    store.adopt_orphans()
    for _ in range(2):
        assert [number_of(each) for chunk in chunks(store) for each in chunk.records] == [1, 2, 3]
        store.rewind(LANE)
    store.close()


def fill(store: SpoolStore, numbers: Iterator[int]) -> BufferFull:
    """Appends, compacts between, and returns the refusal."""
    for number in numbers:
        try:
            store.append(in_lane(number, size=20_000))
        except BufferFull as refusal:
            return refusal
        store.compact()
    raise AssertionError("it was never full")


def test_the_limit_is_kept_on_disk_too_and_draining_makes_room(tmp_path: Path) -> None:
    largest = 0

    def numbers() -> Iterator[int]:
        nonlocal largest
        for number in range(2000):
            largest = max(largest, disk.tree_size(tmp_path))
            yield number

    store = SpoolStore.open(tmp_path, max_bytes=8 * MIB)
    for _ in range(3):
        fill(store, numbers())
        waiting = store.records
        assert waiting > 150
        compact_all(store)
        largest = max(largest, disk.tree_size(tmp_path))
        assert store.size_bytes == disk.tree_size(tmp_path)
        assert numbers_in(store) == list(range(waiting))
    assert 7 * MIB < largest <= 8 * MIB
    store.close()


def test_an_append_larger_than_the_limit_is_refused_alone(tmp_path: Path) -> None:
    store = SpoolStore.open(tmp_path, max_bytes=8 * MIB)
    with pytest.raises(BufferFull):
        store.append(in_lane(1, size=9 * MIB))
    store.append(in_lane(2))
    store.seal()
    assert numbers_in(store) == [2]
    store.close()


def test_a_writer_and_a_reader_work_at_the_same_time(tmp_path: Path) -> None:
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB, tuning=tuning.Tuning(seal_records=50, fan_in=2))
    last, got = 1000, list[int]()
    written = threading.Event()

    def write() -> None:
        for start in range(0, last, 10):
            store.append(entries(range(start, start + 10)))
        store.seal()
        written.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not written.is_set() or store.records:
        store.compact()
        for chunk in chunks(store):
            got += map(number_of, chunk.records)
            store.forget(chunk)
    thread.join()
    assert sorted(got) == list(range(last))
    assert files_in(tmp_path) == []
    store.close()


def test_a_folder_that_cannot_be_used_is_the_operators_business(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigurationError, match=r"BUFFER_DIR=.*file"):
        SpoolStore.open(tmp_path / "file", max_bytes=8 * MIB)


def test_leftovers_of_an_unfinished_segment_are_removed(tmp_path: Path) -> None:
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    store.append(in_lane(1))
    store.close()
    (tmp_path / "slot-0" / "000001-000001.segment.tmp").write_bytes(os.urandom(1000))
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    assert files_in(tmp_path) == ["slot-0/000001.journal"]
    assert numbers_in(store) == [1]
    store.close()
