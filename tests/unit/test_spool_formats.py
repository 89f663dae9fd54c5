"""The spool's bytes: frames, SQLite's log read without SQLite, positions, cursors, records as JSON."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_core.codec import Record
from ingestion_service.spool import frame, image, wal
from ingestion_service.spool.cursor import SIZE, Cursor
from ingestion_service.spool.cursor import read as read_cursor
from ingestion_service.spool.damaged import Damaged
from ingestion_service.spool.frame import Group, Kind
from ingestion_service.spool.journal import Journal, cost
from ingestion_service.spool.lane import Lane
from ingestion_service.spool.runs import Run, Runs
from ingestion_service.spool.text import as_json, from_json
from tests.support.spool import LANES, record

names = st.text(max_size=12)
records = st.builds(
    Record,
    st.binary(max_size=20),
    st.binary(max_size=300),
    st.lists(st.tuples(names, st.binary(max_size=20)), max_size=4),
)
lanes = st.builds(Lane, st.text(max_size=40), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))


@given(st.dictionaries(lanes, st.tuples(st.integers(0, 2**60), st.lists(records, min_size=1, max_size=5)), max_size=4))
def test_an_append_comes_back_from_its_frame(appended: dict[Lane, tuple[int, list[Record]]]) -> None:
    data, groups = frame.encode_rows([(lane, start, 0, some) for lane, (start, some) in appended.items()])
    parsed = frame.parse(data)
    assert parsed.kind is Kind.ROWS
    assert parsed.groups == groups
    parts = frame.split_rows(parsed)
    for group, part in zip(groups, parts, strict=True):
        start, some = appended[group.lane]
        assert (group.start, group.end) == (start, start + len(some))
        assert frame.decode_records(part, group.records) == some


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_frame_that_was_changed_is_known(payload: bytes, data: st.DataObject) -> None:
    whole = frame.encode(Kind.PACKED, [Group(LANES[0], 7, 0, 1, 1)], payload)
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(changed), whole[: data.draw(st.integers(0, len(whole) - 1))]):
        with pytest.raises(Damaged):
            frame.parse(bad)


def test_what_is_no_frame_is_known() -> None:
    for bad in (None, 7, "text", b"", bytes(100)):
        with pytest.raises(Damaged):
            frame.parse(bad)
    for body in (b"\x99", b"\x51no zstd", b"\x52", b"\x52\1\0\1\0\1\0\xff"):  # as if from another version
        with pytest.raises(Damaged, match="not a frame of this version"):
            frame.parse(crc32(body).to_bytes(4, "little") + body)
    with pytest.raises(Damaged):
        frame.decode_records(b"\xff" * 30, 1)
    with pytest.raises(Damaged):
        frame.decode_records(frame.encode_records([record(1)]) + b"x", 1)


def selected(whole: bytes) -> tuple[dict[bytes, frame.Frame], bool]:
    steps = image.select(whole)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: tuple[dict[bytes, frame.Frame], bool] = end.value
            return found


@given(st.lists(st.integers(0, 6000), max_size=30))
def test_an_image_holds_frames_of_any_size(sizes: list[int]) -> None:
    random = Random(0)
    frames = [frame.encode(Kind.PACKED, [Group(LANES[0], 0, 0, 1, 1)], random.randbytes(size)) for size in sizes]
    found, sound = selected(image.build(frames))
    assert sound
    assert found == {data: frame.parse(data) for data in frames}
    assert image.search(image.build(frames)) == found


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_a_log_read_here_is_what_sqlite_reads(tmp_path: Path, size: int) -> None:
    path = tmp_path / "1.journal"
    journal = Journal(path)
    for start in range(0, size, 50):
        some = [record(number) for number in range(start, min(size, start + 50))]
        journal.append(*frame.encode_rows([(LANES[0], start, 0, some)]))
    log = (tmp_path / "1.journal-wal").read_bytes()
    overlaid = wal.overlay(path.read_bytes(), log, image.PAGE)
    copy = tmp_path / "copy.journal"
    shutil.copy(path, copy)
    (tmp_path / "copy.journal-wal").write_bytes(log)
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        expected = {data: frame.parse(data) for (data,) in database.execute("SELECT frame FROM frames")}
    assert selected(overlaid.image) == (expected, True)
    assert overlaid.broken == 0
    journal.seal()
    assert not (tmp_path / "1.journal-wal").exists()
    sealed, sound = selected(path.read_bytes())
    assert sound
    assert len(sealed) == len(expected) + 1
    assert sealed.items() >= expected.items()


def test_a_journal_syncs_each_commit_and_says_what_it_takes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "1.journal")
    assert journal._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert journal._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    random = Random(1)
    for number in range(200):
        before = journal.size
        some = [record(number)._replace(value=random.randbytes(random.randrange(5000)))]
        data, groups = frame.encode_rows([(LANES[0], number, 0, some)])
        journal.append(data, groups)
        assert journal.size - before <= cost(len(data)) + 8192  # whole blocks of two files
    said = journal.size
    journal.seal()
    assert journal.size <= said
    assert journal.size == (tmp_path / "1.journal").stat().st_size // 4096 * 4096 + 4096
    assert {path.name for path in tmp_path.iterdir()} == {"1.journal"}


ranges = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), max_size=8)


def made(steps: list[tuple[int, int]]) -> tuple[Runs, set[int]]:
    runs, positions, at = Runs(), set[int](), 0
    for gap, length in steps:
        runs.add(at + gap, at + gap + length)
        positions |= set(range(at + gap, at + gap + length))
        at += gap + length
    return runs, positions


@given(ranges, ranges, st.integers(0, 60), st.integers(0, 60))
def test_runs_are_sets_of_positions(
    first: list[tuple[int, int]], second: list[tuple[int, int]], low: int, high: int
) -> None:
    runs, positions = made(first)
    other, others = made(second)
    assert {each for start, end, _ in runs for each in range(start, end)} == positions
    assert runs.count == len(positions)
    assert runs.count_between(low, high) == sum(low <= each < high for each in positions)
    following = runs.following(low)
    assert (following.start if following else None) == min((each for each in positions if each >= low), default=None)
    left = runs.without(other)
    assert {each for start, end, _ in left for each in range(start, end)} == positions - others


def test_runs_keep_what_was_skipped_and_take_nothing_twice() -> None:
    runs = Runs()
    runs.add(5, 8, skipped=5)
    runs.add(8, 10)
    runs.add(9, 12)
    runs.add(20, 22, skipped=8)
    assert list(runs) == [Run(5, 12, 5), Run(20, 22, 8)]
    assert (runs.end, runs.following(6), runs.following(22)) == (22, Run(6, 12), None)


def test_a_cursor_survives_a_write_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "cursor"
    assert read_cursor(path) is None
    cursor = Cursor(path)
    assert cursor.positions is None
    for position in (10, 20):
        cursor.write({LANES[0]: position}, durably=True)
    assert read_cursor(path) == {LANES[0]: 20}
    whole = path.read_bytes()
    for half in (0, SIZE // 2):
        path.write_bytes(whole[:half] + bytes(20) + whole[half + 20 :])
        assert read_cursor(path) in ({LANES[0]: 10}, {LANES[0]: 20})
    cursor.close()


def test_a_cursor_that_cannot_be_read_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "cursor"
    path.write_bytes(b"\xff" * SIZE)
    cursor = Cursor(path)
    assert cursor.positions is None
    assert path.read_bytes() == bytes(SIZE)
    cursor.close()


def test_a_cursor_of_very_many_lanes_is_left_as_it_was(tmp_path: Path) -> None:
    random = Random(2)
    cursor = Cursor(tmp_path / "cursor")
    cursor.write({LANES[0]: 3}, durably=False)
    cursor.write({Lane(random.randbytes(20).hex(), n, n): random.getrandbits(60) for n in range(2000)}, durably=False)
    assert read_cursor(tmp_path / "cursor") == {LANES[0]: 3}
    cursor.close()


@given(records)
def test_a_record_comes_back_from_json(given: Record) -> None:
    assert from_json(json.loads(json.dumps(as_json(given)))) == given


def test_text_stays_text_in_json() -> None:
    given = Record("kü".encode(), b"\xff", [("h", b"v")])
    assert as_json(given) == {"key": "kü", "value_base64": "/w==", "headers": [{"name": "h", "value": "v"}]}
