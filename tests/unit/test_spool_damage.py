"""Row 13 of the fault matrix: torn and corrupt spool files. What can be read is used, the rest is counted and kept aside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from structlog.testing import capture_logs

from event_core.codec import Record
from ingestion_service.spool import columns, image
from ingestion_service.spool.damage import Damage
from ingestion_service.spool.damaged import Damaged
from ingestion_service.spool.files import SpoolFile
from ingestion_service.spool.store import SpoolStore
from ingestion_service.spool.tuning import Tuning
from tests.support.spool import (
    LANES,
    MIB,
    compact_all,
    copy_as_killed,
    drain,
    entries,
    files_in,
    fill_every_kind,
    number_of,
    record,
)

SAMPLED = 25
SEGMENT, SEALED, OPEN, LOG, CURSOR = (
    "slot-0/000001-000001.segment",
    "slot-0/000002.journal",
    "slot-0/000003.journal",
    "slot-0/000003.journal-wal",
    "slot-0/cursor",
)


class Victim(NamedTuple):
    """The files of a spool that was killed, and how many events are in them."""

    files: dict[str, bytes]
    events: int


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    """A segment, a sealed journal, and one that was being written to."""
    directory = tmp_path_factory.mktemp("spool")
    store = SpoolStore.open(directory, max_bytes=100 * MIB, tuning=Tuning(enough_records=100))
    fill_every_kind(store, 406, 7, segment_at=203, journal_at=343)
    found = {name: (directory / name).read_bytes() for name in [*files_in(directory), CURSOR]}
    store.close()
    assert set(found) == {SEGMENT, SEALED, OPEN, LOG, CURSOR}
    return Victim(found, 406)


Change = Callable[[bytes, int], bytes]


def cut(data: bytes, at: int) -> bytes:
    return data[:at]


def flip(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << at % 8
    return bytes(changed)


def zero_a_page(data: bytes, at: int) -> bytes:
    at -= at % image.PAGE
    return data[:at] + bytes(len(data[at : at + image.PAGE])) + data[at + image.PAGE :]


def survives(directory: Path, victim: Victim, name: str, change: Change, at: int) -> tuple[int, SpoolStore]:
    """Opens and drains a changed spool, twice; returns how many events were lost, and the (closed) store."""
    for other, data in victim.files.items():
        path = directory / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(change(data, at) if other == name else data)
    where = (name, change.__name__, at)
    begun = time.monotonic()
    store = SpoolStore.open(directory, max_bytes=100 * MIB)
    records = drain(store)
    assert time.monotonic() - begun < 5, where
    numbers = list(map(number_of, records))
    assert len(set(numbers)) == len(numbers), where
    assert all(each == record(number) for each, number in zip(records, numbers, strict=True)), where
    assert set(numbers) <= set(range(victim.events)), where
    store.append(entries([victim.events]))
    store.seal()
    assert list(map(number_of, drain(store))) == [victim.events], where
    assert files_in(directory) == [each for each in files_in(directory) if each.startswith("damaged/")], where
    store.close()
    again = SpoolStore.open(directory, max_bytes=100 * MIB)
    assert (again.records, again.damaged.files, again.damaged.records) == (0, 0, 0), where
    again.close()
    lost = victim.events - len(numbers)
    if (name, change) == (LOG, cut):
        # A log that just ends is what a kill leaves: nobody can tell that there was more.
        return lost, store
    if lost:
        assert store.damaged.files == 1, where
        assert store.damaged.bytes > 0 or at == 0, where
    if lost and name != LOG:
        assert store.damaged.records == lost, where
    assert len(files_in(directory)) == store.damaged.files + (name == LOG and store.damaged.files), where
    return lost, store


def clear(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            path.unlink()


WORST: dict[tuple[str, Change], int] = {
    # Segment and journals are small here: a page is much of them, and a page that is no page any more takes all its rows along.
    (SEGMENT, flip): 91,
    (SEALED, flip): 21,
    (SEALED, zero_a_page): 21,
    (OPEN, cut): 0,
    (OPEN, flip): 0,
    (OPEN, zero_a_page): 0,
    (LOG, flip): 7,
    (LOG, zero_a_page): 14,
    (CURSOR, cut): 0,
    (CURSOR, flip): 0,
    (CURSOR, zero_a_page): 0,
}
"""The most events that one fault may cost: what lies in the bytes that are gone, and no more."""

every_fault = pytest.mark.parametrize("change", [cut, flip, zero_a_page])
every_file = pytest.mark.parametrize("name", [SEGMENT, SEALED, OPEN, LOG, CURSOR])


def walk(directory: Path, victim: Victim, name: str, change: Change, places: Iterator[int]) -> None:
    worst = 0
    for at in places:
        with capture_logs():  # thousands of warnings help nobody
            lost, _ = survives(directory, victim, name, change, at)
        worst = max(worst, lost)
        clear(directory)
    assert worst <= WORST.get((name, change), victim.events)


@every_file
@every_fault
def test_damage_anywhere_is_survived_and_counted(tmp_path: Path, victim: Victim, name: str, change: Change) -> None:
    size = len(victim.files[name])
    places = [0, size - 1, *(Random(f"{name} {change.__name__}").randrange(size) for _ in range(SAMPLED))]
    walk(tmp_path, victim, name, change, iter(places))


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@every_file
@every_fault
def test_damage_at_every_byte_is_survived_and_counted(
    tmp_path: Path, victim: Victim, name: str, change: Change
) -> None:
    size = len(victim.files[name])
    places = range(0, size, image.PAGE if change is zero_a_page else 1)
    # Most of a cursor is reserved and empty.
    walk(
        tmp_path,
        victim,
        name,
        change,
        (at for at in places if name != CURSOR or any(victim.files[name][at - 1 : at + 8])),
    )


def put(directory: Path, victim: Victim, changed: dict[str, bytes | None]) -> None:
    """The victim's files with some changed, or (None) gone."""
    for name, data in {**victim.files, **changed}.items():
        if data is not None:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(data)


def test_a_damaged_file_is_named_once_and_kept_as_it_was(tmp_path: Path, victim: Victim) -> None:
    broken = flip(victim.files[SEALED], 5000)
    put(tmp_path, victim, {SEALED: broken})
    with capture_logs() as logs:
        store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
        assert store.records == victim.events - 7
        drain(store)
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert warning["file"].endswith(SEALED)
    assert warning["records_lost"] == 7
    assert (tmp_path / "damaged" / "slot-0.000002.journal").read_bytes() == broken
    assert (store.damaged.files, store.damaged.records) == (1, 7)
    store.close()


def test_a_damaged_file_is_kept_aside_when_it_is_compacted_too(tmp_path: Path, victim: Victim) -> None:
    broken = flip(victim.files[SEALED], 5000)
    put(tmp_path, victim, {SEALED: broken})
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB, tuning=Tuning(enough_records=50))
    compact_all(store)
    assert (tmp_path / "damaged" / "slot-0.000002.journal").read_bytes() == broken
    assert len(drain(store)) == victim.events - 7
    store.close()
    assert store.damaged.files == 1


def test_a_kill_between_a_segment_and_what_it_replaced_keeps_damage_aside(tmp_path: Path, victim: Victim) -> None:
    broken = flip(victim.files[SEALED], 5000)
    put(tmp_path / "a", victim, {SEALED: broken})
    store = SpoolStore.open(tmp_path / "a", max_bytes=100 * MIB, tuning=Tuning(enough_records=50))
    compact_all(store)
    killed = copy_as_killed(tmp_path / "a", tmp_path / "b")
    store.close()
    (killed / "damaged" / "slot-0.000002.journal").rename(killed / SEALED)
    again = SpoolStore.open(killed, max_bytes=100 * MIB)
    assert (killed / "damaged" / "slot-0.000002.journal").read_bytes() == broken
    assert len(drain(again)) == victim.events - 7
    assert again.damaged.records == 0
    again.close()


def test_a_damaged_segment_is_completed_from_what_it_replaced(tmp_path: Path) -> None:
    store = SpoolStore.open(tmp_path / "a", max_bytes=100 * MIB, tuning=Tuning(enough_records=100, blob_records=20))
    for start in range(0, 300, 10):
        store.append(entries(range(start, start + 10)))
    store.seal()
    journal = tmp_path / "a" / "slot-0" / "000001.journal"
    kept = journal.read_bytes()
    compact_all(store)
    killed = copy_as_killed(tmp_path / "a", tmp_path / "b")
    store.close()
    (killed / "slot-0" / "000001.journal").write_bytes(kept)
    segment = killed / SEGMENT
    segment.write_bytes(zero_a_page(segment.read_bytes(), 3000))
    again = SpoolStore.open(killed, max_bytes=100 * MIB)
    assert again.records == 300
    numbers = list(map(number_of, drain(again)))
    assert sorted(numbers) == list(range(300))
    assert again.damaged.files == 1
    assert files_in(killed) == ["damaged/slot-0.000001-000001.segment"]
    again.close()


def test_a_file_that_is_gone_is_missed(tmp_path: Path, victim: Victim) -> None:
    put(tmp_path, victim, {SEALED: None})
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    assert store.damaged.records == 140
    assert len(drain(store)) == victim.events - 140
    store.close()


def test_a_log_without_its_journal_is_read(tmp_path: Path, victim: Victim) -> None:
    put(tmp_path, victim, {OPEN: None})
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    assert len(drain(store)) == victim.events
    store.close()


def test_a_file_damaged_after_the_start_is_counted_when_it_is_read(tmp_path: Path, victim: Victim) -> None:
    put(tmp_path, victim, {})
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    assert store.records == victim.events
    (tmp_path / SEALED).write_bytes(flip(victim.files[SEALED], 5000))
    (tmp_path / SEGMENT).unlink()
    numbers = list(map(number_of, drain(store)))
    assert sorted(numbers) == numbers_but(numbers, victim.events, lost=7 + 210)
    assert store.waiting() == {}
    assert (store.damaged.files, store.damaged.records) == (2, 217)
    assert files_in(tmp_path) == ["damaged/slot-0.000002.journal"]
    store.close()


def numbers_but(numbers: list[int], events: int, *, lost: int) -> list[int]:
    assert len(numbers) == events - lost
    return sorted(set(numbers) & set(range(events)))


def test_a_blob_that_does_not_unpack_is_lost_alone(tmp_path: Path) -> None:
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB, tuning=Tuning(enough_records=10, blob_records=10))
    store.append(entries(range(90)))
    store.seal()
    compact_all(store)
    store.close()
    calls = 0

    def unpack(blob: bytes) -> list[Record]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Damaged("as if")
        return columns.unpack(blob)

    again = SpoolStore.open(tmp_path, max_bytes=100 * MIB, unpack=unpack)
    assert len(drain(again)) == 90 - again.damaged.records
    assert again.damaged.files == 1
    assert 0 < again.damaged.records <= 10
    assert again.waiting() == {}
    again.close()


def test_positions_that_may_be_taken_are_not_given_again(tmp_path: Path, victim: Victim) -> None:
    """What a bad disk hides at one start it may give back at the next: it must not hide what was appended between."""
    put(tmp_path, victim, {SEALED: victim.files[SEALED][:300], OPEN: None, LOG: None})
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    found = store.records
    store.append(entries(range(1000, 1050)))
    store.close()
    (tmp_path / SEALED).write_bytes(victim.files[SEALED])
    again = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    assert found < again.records
    assert set(map(number_of, drain(again))) >= set(range(1000, 1050))
    again.close()


def test_what_is_kept_aside_has_a_limit(tmp_path: Path) -> None:
    damage = Damage(tmp_path / "damaged", max_bytes=10_000)
    slot = tmp_path / "slot-0"
    slot.mkdir()
    for number in range(5):
        file = SpoolFile(slot / f"{number:06d}.journal", number, number)
        file.path.write_bytes(bytes(4000))
        file.measure()
        damage.found(file, 1)
        damage.dispose(file)
        time.sleep(0.01)
    assert [path.name for path in sorted((tmp_path / "damaged").iterdir())] == [
        "slot-0.000003.journal",
        "slot-0.000004.journal",
    ]
    assert (damage.files, damage.records, damage.bytes) == (5, 5, 5 * 4096)


def test_files_of_the_same_name_are_both_kept_aside(tmp_path: Path) -> None:
    damage = Damage(tmp_path / "damaged", max_bytes=MIB)
    slot = tmp_path / "slot-0"
    slot.mkdir()
    for content in (b"one", b"two"):
        file = SpoolFile(slot / "000001.journal", 1, 1)
        file.path.write_bytes(content)
        damage.found(file, 0)
        damage.dispose(file)
    assert sorted(path.read_bytes() for path in (tmp_path / "damaged").iterdir()) == [b"one", b"two"]


def test_a_lane_is_never_a_silent_loss_when_nothing_at_all_is_readable(tmp_path: Path) -> None:
    slot = tmp_path / "slot-0"
    slot.mkdir()
    for name in ("000001.journal", "000002-000009.segment", "000010.journal", "000010.journal-wal"):
        (slot / name).write_bytes(Random(name).randbytes(10_000))
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    assert store.damaged.files == 3
    assert store.waiting() == {}
    assert len(files_in(tmp_path)) == 4
    assert store.read(LANES[0]) is None
    store.append(entries(range(5)))
    store.seal()
    assert len(drain(store)) == 5
    store.close()
