"""Row 11 of the fault matrix: the disk spool on a disk that is full."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion_service.errors import BufferFull
from ingestion_service.spool.store import SpoolStore
from tests.support.spool import IN_CI, MIB, compact_all, drain, entries, files_in, number_of, recovered


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mount = [*sudo, "mount", "-t", "tmpfs", "-o", f"size=8m,mode=0777,uid={os.geteuid()}", "tmpfs", str(path)]
    try:
        result = subprocess.run(mount, capture_output=True, text=True)
        problem = result.stderr.strip() if result.returncode else None
    except FileNotFoundError as error:
        problem = str(error)
    if problem is not None:
        if IN_CI:
            pytest.fail(f"no small disk can be mounted, and this row of the fault matrix must run here: {problem}")
        pytest.skip(f"no small disk can be mounted: {problem}")
    yield path
    subprocess.run([*sudo, "umount", "-l", str(path)], check=True)


def fill(store: SpoolStore, numbers: Iterator[int]) -> list[int]:
    """Appends until the spool takes no more; returns what was acknowledged."""
    taken: list[int] = []
    for _ in range(5000):
        some = [next(numbers) for _ in range(20)]
        try:
            store.append(entries(some, size=400))
        except BufferFull:
            return taken
        taken += some
    raise AssertionError("an 8 MiB disk took 100,000 events")


def counting() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def takes_again(store: SpoolStore, numbers: Iterator[int], within: float = 5.0) -> list[int]:
    """Appends one event as soon as the spool takes it."""
    until = time.monotonic() + within
    while True:
        some = [next(numbers)]
        try:
            store.append(entries(some, size=400))
        except BufferFull:
            assert time.monotonic() < until, "the spool did not take events again in time"
            time.sleep(0.1)
        else:
            return some


def waits(store: SpoolStore, numbers: list[int]) -> bool:
    store.seal()
    got = list(map(number_of, drain(store)))
    return len(got) == len(numbers) and set(got) == set(numbers)


def test_a_full_disk_is_refused_and_resumes_when_there_is_room(small_disk: Path) -> None:
    numbers = counting()
    store = SpoolStore.open(small_disk / "buffer", max_bytes=100 * MIB)
    taken = fill(store, numbers)
    assert len(taken) > 1000
    for _ in range(20):  # it stays full, and says so at once
        begun = time.monotonic()
        with pytest.raises(BufferFull):
            store.append(entries([next(numbers)], size=400))
        assert time.monotonic() - begun < 1
    got = map(number_of, drain(store))
    assert set(got) >= set(taken)
    again = takes_again(store, numbers)
    assert waits(store, again)
    store.close()


def test_a_disk_that_others_filled_resumes_when_they_make_room(small_disk: Path) -> None:
    numbers = counting()
    store = SpoolStore.open(small_disk / "buffer", max_bytes=100 * MIB)
    taken = [next(numbers) for _ in range(20)]
    store.append(entries(taken))
    other = small_disk / "other"
    fill_up(other)
    taken += fill(store, numbers)
    other.unlink()
    taken += takes_again(store, numbers)
    assert waits(store, taken)
    store.close()


def fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_a_spool_on_a_full_disk_is_opened_compacted_and_drained(small_disk: Path, closed: bool) -> None:
    numbers = counting()
    store = SpoolStore.open(small_disk / "buffer", max_bytes=100 * MIB)
    taken = fill(store, numbers)
    if closed:
        store.close()
    else:
        abandon(store)
    fill_up(small_disk / "other")
    again = recovered(small_disk / "buffer")
    assert again.records == len(taken)
    compact_all(again)
    assert waits(again, taken)
    assert files_in(small_disk / "buffer") == []
    taken = takes_again(again, numbers)
    assert waits(again, taken)
    again.close()


def test_compaction_alone_makes_room_on_a_full_disk(small_disk: Path) -> None:
    numbers = counting()
    store = SpoolStore.open(small_disk / "buffer", max_bytes=100 * MIB)
    taken: list[int] = []
    more = True
    while more:
        some = [next(numbers) for _ in range(5)]
        try:
            store.append(entries(some))
            taken += some
        except BufferFull:
            more = False
    compact_all(store)
    taken += takes_again(store, numbers)
    assert waits(store, taken)
    store.close()


_abandoned: list[SpoolStore] = []


def abandon(store: SpoolStore) -> None:
    """What a kill leaves: the lock is free, nothing was closed."""
    os.close(store._slot._lock)
    _abandoned.append(store)
