"""Sealed journals become segments: when, of what, and what a reader sees meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from event_core.codec import Record
from ingestion_service.spool import columns, disk
from ingestion_service.spool.lane import Entry, Lane
from ingestion_service.spool.store import SpoolStore
from ingestion_service.spool.tuning import Tuning
from tests.support.spool import LANES, MIB, compact_all, copy_as_killed, drain, entries, files_in, number_of, record

LANE, OTHER = LANES[0], LANES[1]


def opened(directory: Path, **tuning: float) -> SpoolStore:
    return SpoolStore.open(directory, max_bytes=100 * MIB, tuning=Tuning(**tuning))  # type: ignore[arg-type]


def journals(store: SpoolStore, count: int, *, start: int = 0, each: int = 10) -> None:
    for number in range(start, start + count * each, each):
        store.append(entries(range(number, number + each)))
        store.seal()


def test_few_small_journals_are_left_alone(tmp_path: Path) -> None:
    store = opened(tmp_path)
    journals(store, 7)
    assert store.compact() is False
    journals(store, 1, start=70)
    compact_all(store)
    assert files_in(tmp_path) == ["slot-0/000001-000008.segment"]
    assert sorted(map(number_of, drain(store))) == list(range(80))
    store.close()


def test_many_events_are_compacted_at_once(tmp_path: Path) -> None:
    store = opened(tmp_path, enough_records=1000)
    journals(store, 2, each=600)
    journals(store, 1, start=1200)
    compact_all(store)
    assert files_in(tmp_path) == ["slot-0/000001-000002.segment", "slot-0/000003.journal"]
    store.close()


def test_a_segment_takes_far_less_than_its_journals(tmp_path: Path) -> None:
    store = opened(tmp_path, enough_records=1, seal_records=10_000)
    for start in range(0, 6000, 10):
        store.append(entries(range(start, start + 10)))
    store.seal()
    before = store.size_bytes
    compact_all(store)
    (segment,) = files_in(tmp_path)
    assert (tmp_path / segment).stat().st_size * 3 < before
    store.close()


def test_small_segments_are_merged_and_each_event_is_rewritten_few_times(tmp_path: Path) -> None:
    packed = 0

    def pack(records: Sequence[Record]) -> bytes:
        nonlocal packed
        packed += len(records)
        return columns.pack(records)

    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB, pack=pack, tuning=Tuning(fan_in=4))
    count = 300
    for number in range(count):
        journals(store, 1, start=number, each=1)
        compact_all(store)
    assert store.files < 20
    assert packed <= count * 5  # one for each power of four
    assert sorted(map(number_of, drain(store))) == list(range(count))
    store.close()


def test_a_merge_makes_no_file_larger_than_it_should(tmp_path: Path) -> None:
    store = opened(tmp_path, fan_in=2, merged_records=100)
    for number in range(0, 400, 20):
        journals(store, 2, start=number)
        compact_all(store)
    assert 4 <= len(files_in(tmp_path)) <= 10
    assert len(drain(store)) == 400
    store.close()


def test_what_is_forgotten_is_not_written_again(tmp_path: Path) -> None:
    store = opened(tmp_path, enough_records=1)
    for number in range(0, 400, 10):
        some = [record(each, size=200) for each in range(number, number + 10)]
        store.append([*(Entry(LANE, each) for each in some[:9]), Entry(OTHER, some[9])])
    store.seal()
    while (chunk := store.read(LANE)) is not None:
        store.forget(chunk)
    before = store.size_bytes
    compact_all(store)
    assert store.size_bytes < before - 300 * 100
    assert store.waiting() == {OTHER: 40}
    assert list(map(number_of, drain(store))) == list(range(9, 400, 10))
    store.close()


def test_a_segment_of_which_little_is_wanted_is_written_anew(tmp_path: Path) -> None:
    store = opened(tmp_path, enough_records=1, worth_bytes=1000)
    for number in range(0, 400, 10):
        some = [record(each, size=200) for each in range(number, number + 10)]
        store.append([*(Entry(LANE, each) for each in some[:9]), Entry(OTHER, some[9])])
    store.seal()
    compact_all(store)
    (segment,) = files_in(tmp_path)
    before = (tmp_path / segment).stat().st_size
    while (chunk := store.read(LANE)) is not None:
        store.forget(chunk)
    compact_all(store)
    assert files_in(tmp_path) == [segment]
    assert (tmp_path / segment).stat().st_size < before / 4
    killed = SpoolStore.open(copy_as_killed(tmp_path, tmp_path.with_name("killed")), max_bytes=100 * MIB)
    for each in (store, killed):
        assert each.waiting() == {OTHER: 40}
        assert list(map(number_of, drain(each))) == list(range(9, 400, 10))
        assert (each.damaged.files, each.damaged.records) == (0, 0)
        each.close()


def test_what_was_read_before_can_be_sent_again_and_forgotten_after(tmp_path: Path) -> None:
    store = opened(tmp_path, enough_records=1)
    store.append([Entry(LANE, record(number)) for number in range(100)])
    store.seal()
    first = store.read(LANE, max_bytes=2000)
    second = store.read(LANE, max_bytes=2000)
    assert first is not None
    assert second is not None
    compact_all(store)
    store.forget(first)
    store.rewind(LANE)
    again = store.read(LANE, max_bytes=2000)
    assert again is not None
    assert again.records[0] == second.records[0]
    store.forget(second)
    assert list(map(number_of, drain(store))) == list(range(100))[len(first.records + second.records) :]
    assert files_in(tmp_path) == []
    store.close()


@pytest.mark.parametrize("steps", range(12))
def test_forgetting_in_the_middle_of_a_compaction_is_no_damage(tmp_path: Path, steps: int) -> None:
    store = opened(tmp_path, enough_records=1, step_seconds=0, blob_records=10)
    journals(store, 2, each=40)
    for _ in range(steps):
        store.compact()
    assert len(drain(store)) == 80
    compact_all(store)
    assert files_in(tmp_path) == []
    assert (store.damaged.files, store.damaged.records) == (0, 0)
    store.close()


def test_an_append_of_very_many_events_of_a_lane_is_cut_into_blobs(tmp_path: Path) -> None:
    store = opened(tmp_path, enough_records=1)
    count = columns.MAX_RECORDS + 10
    store.append([Entry(LANE, record(number)) for number in range(count)])
    store.seal()
    compact_all(store)
    assert files_in(tmp_path) == ["slot-0/000001-000001.segment"]
    assert list(map(number_of, drain(store))) == list(range(count))
    store.close()


def test_what_cannot_be_packed_is_kept_as_it_is(tmp_path: Path) -> None:
    store = opened(tmp_path, enough_records=1)
    odd = record(1)._replace(headers=[("event-id", b"1")] * 300)
    store.append([Entry(LANE, odd)])
    store.seal()
    compact_all(store)
    assert files_in(tmp_path) == ["slot-0/000001-000001.segment"]
    assert drain(store) == [odd]
    store.close()


def test_near_the_limit_any_journal_is_worth_it(tmp_path: Path) -> None:
    store = SpoolStore.open(tmp_path, max_bytes=8 * MIB)
    (tmp_path / "others").write_bytes(bytes(5 * MIB + MIB // 2))
    now = disk.tree_size(tmp_path)
    assert now < 8 * MIB
    journals(store, 1, each=500)
    compact_all(store)
    assert files_in(tmp_path) == ["others", "slot-0/000001-000001.segment"]
    store.close()


def test_steps_are_short(tmp_path: Path) -> None:
    """Counted, not timed: a step does a bounded piece of work, whatever there is to do."""
    sizes: list[int] = []

    def pack(records: Sequence[Record]) -> bytes:
        sizes.append(len(records))
        return columns.pack(records)

    tuning = Tuning(enough_records=1, step_seconds=0, seal_records=10_000)
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB, pack=pack, tuning=tuning)
    store.append([Entry(Lane("events", 0, 1), record(number)) for number in range(9000)])
    store.seal()
    steps = 0
    while store.compact():
        steps += 1
        assert len(sizes) <= steps
    assert max(sizes) <= 1000
    assert sum(sizes) == 9000
    store.close()


def test_a_compaction_may_be_given_up_by_another_thread(tmp_path: Path) -> None:
    store = opened(tmp_path, enough_records=1, step_seconds=0)
    for number in range(500):
        store.append(entries([number]))
    store.seal()
    with ThreadPoolExecutor(1) as reader:
        for _ in range(2):
            assert reader.submit(store.compact).result()
    store.close()
    again = opened(tmp_path)
    assert sorted(map(number_of, drain(again))) == list(range(500))
    again.close()
