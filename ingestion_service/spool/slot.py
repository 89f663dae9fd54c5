"""A slot: the folder of one process, held by a lock that the kernel drops with the process.

Everything but ``add`` belongs to the reader's thread; what other threads ask is answered from numbers kept under a lock.
"""

from __future__ import annotations

import fcntl
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

from event_core.codec import Record
from ingestion_service.spool import cursor, disk
from ingestion_service.spool.damage import Damage
from ingestion_service.spool.damaged import Damaged
from ingestion_service.spool.files import Content, Loading, Piece, SpoolFile, at_once
from ingestion_service.spool.frame import Unpack
from ingestion_service.spool.lane import Lane
from ingestion_service.spool.recovery import recover
from ingestion_service.spool.runs import Run, Runs

LOCK_NAME: Final = "lock"
_CACHED_BYTES: Final = 12 << 20


class SlotTaken(Exception):
    """Another process holds it."""


class Slot:
    """The finished files of a slot, and how far each lane of them was read and forgotten."""

    def __init__(self, directory: Path, damage: Damage, unpack: Unpack) -> None:
        """Takes the slot and recovers it; ``doubtful``: there may be records that could not be read this time.

        Raises SlotTaken or OSError.
        """
        self.directory = directory
        self._damage = damage
        self._unpack = unpack
        self._guard = Lock()
        self._files: list[SpoolFile] = []
        self.changes = 0
        """Grows with each change of what its files are or of what is wanted of them."""
        self._waiting: dict[Lane, int] = {}
        self._read: dict[Lane, int] = {}
        self._early: dict[Lane, dict[int, int]] = {}
        self._cache: OrderedDict[SpoolFile, Content] = OrderedDict()
        self._decoded: dict[Lane, tuple[Piece, list[Record]]] = {}
        self._lock = _lock(directory / LOCK_NAME)
        try:
            self._cursor = cursor.Cursor(directory / cursor.NAME)
        except OSError:
            os.close(self._lock)
            raise
        known = self._cursor.positions
        self.forgotten = dict(known or {})
        try:
            self._files = recover(directory, known, damage)
        except BaseException:
            self._cursor.close()
            os.close(self._lock)
            raise
        self._size = sum(file.size for file in self._files) + disk.occupied(cursor.SIZE) + disk.BLOCK
        for file in self._files:
            for lane, runs in file.lanes.items():
                live = runs.count_between(self.forgotten.get(lane, 0), runs.end)
                self._waiting[lane] = self._waiting.get(lane, 0) + live
        # Also of files that go now: a name is not given again while one of them might still be there.
        self.last_number = max((file.last for file in self._files), default=0)
        self.doubtful = any(file.damaged for file in self._files)
        self._cursor.write(self.forgotten, durably=False)
        self.retire([file for file in self._files if self.is_finished(file)])

    # -- any thread

    def waiting(self) -> dict[Lane, int]:
        """Records that are finished and not forgotten."""
        with self._guard:
            return {lane: records for lane, records in self._waiting.items() if records > 0}

    def waiting_in(self, lane: Lane) -> int:
        """The same of one lane."""
        return max(0, self._waiting.get(lane, 0))

    @property
    def files(self) -> list[SpoolFile]:
        with self._guard:
            return list(self._files)

    @property
    def size(self) -> int:
        """Bytes of disk that its files take."""
        return self._size

    @property
    def ends(self) -> dict[Lane, int]:
        """Behind which positions no record lies: where the next ones may be."""
        ends = dict(self.forgotten)
        for file in self.files:
            for lane, runs in file.lanes.items():
                ends[lane] = max(ends.get(lane, 0), runs.end)
        return ends

    def add(self, file: SpoolFile) -> None:
        """Takes a file that its writer has finished; it holds positions behind all others."""
        with self._guard:
            self._files.append(file)
            self.changes += 1
            self._size += file.size
            for lane, runs in file.lanes.items():
                self._waiting[lane] = self._waiting.get(lane, 0) + runs.count

    # -- the reader's thread

    def read(self, lane: Lane, max_bytes: int) -> tuple[int, int, list[Record]] | None:
        """The next records of a lane (at least one, then up to ``max_bytes``): first position, end, records."""
        position = max(self._read.get(lane, 0), self.forgotten.get(lane, 0))
        first: int | None = None
        records: list[Record] = []
        known = self._decoded.pop(lane, None)
        while max_bytes > 0 and (following := self._following(lane, position)) is not None:
            run, file = following
            position = run.start
            while max_bytes > 0 and position < run.end:
                known = self.decode(file, lane, position, known)
                if known is None:
                    break
                piece, decoded = known
                first = position if first is None else first
                stop = begin = position - piece.group.start
                end = min(len(decoded), run.end - piece.group.start)
                while stop < end and max_bytes > 0:
                    key, value, headers = decoded[stop]
                    max_bytes -= len(key) + len(value) + 64 * len(headers)
                    stop += 1
                records += decoded[begin:stop]
                position = piece.group.start + stop
                if stop < end:
                    self._decoded[lane] = known  # the rest is asked for next
        if first is None:
            return None
        self._read[lane] = position
        return first, position, records

    def rewind(self, lane: Lane) -> None:
        self._read.pop(lane, None)
        self._early.pop(lane, None)
        self._decoded.pop(lane, None)

    def forget(self, lane: Lane, start: int, end: int) -> int:
        """Marks positions that were read as done; returns how many bytes of disk that gave back."""
        forgotten = self.forgotten.get(lane, 0)
        early = self._early.setdefault(lane, {})
        early[start] = max(end, early.get(start, 0))
        files_now = self.files
        while early:
            following = self._following(lane, forgotten)
            start = min(early)
            if following is not None and start > following[0].start:
                break
            forgotten = max(forgotten, early.pop(start))
        before = self.forgotten.get(lane, 0)
        if forgotten == before:
            return 0
        done = sum(file.lanes[lane].count_between(before, forgotten) for file in files_now if lane in file.lanes)
        self.forgotten[lane] = forgotten
        with self._guard:
            self.changes += 1
            self._waiting[lane] = self._waiting.get(lane, 0) - done
        finished = [file for file in files_now if lane in file.lanes and self.is_finished(file)]
        # What is unlinked must never look lost to the process after this one.
        self._cursor.write(self.forgotten, durably=bool(finished))
        return self.retire(finished)

    def is_finished(self, file: SpoolFile) -> bool:
        return all(runs.end <= self.forgotten.get(lane, 0) for lane, runs in file.lanes.items())

    def live(self, file: SpoolFile) -> int:
        """How many of its records are not forgotten."""
        return sum(runs.count_between(self.forgotten.get(lane, 0), runs.end) for lane, runs in file.lanes.items())

    def retire(self, gone: Iterable[SpoolFile]) -> int:
        """Unlinks files, or sets them aside where they are damaged; returns the bytes that they took."""
        freed = 0
        for file in gone:
            with self._guard:
                if file not in self._files:
                    continue
                self._files.remove(file)
                self.changes += 1
                self._size -= file.size
            self._cache.pop(file, None)
            freed += file.size
            self._damage.dispose(file)
        return freed

    def replace(self, sources: Iterable[SpoolFile], segment: SpoolFile) -> None:
        """Puts a segment, which is on disk and durable, into the place of its sources and unlinks them."""
        sources = list(sources)
        with self._guard:
            self._files = [file for file in self._files if file not in sources]
            index = sum(1 for file in self._files if file.first < segment.first)
            self._files.insert(index, segment)
            self.changes += 1
            self._size += segment.size - sum(file.size for file in sources)
        for file in sources:
            self._cache.pop(file, None)
            if file.path != segment.path:
                self._damage.dispose(file)

    def content(self, file: SpoolFile) -> Content:
        """What a file holds, from memory where it was read lately. Raises OSError for what may pass."""
        return at_once(self.loading(file))

    def loading(self, file: SpoolFile) -> Loading:
        """``content`` in steps."""
        content = self._cache.get(file)
        if content is None:
            content = yield from file.loading()
            if file not in self.files:  # it was forgotten meanwhile
                return content
            self._cache[file] = content
            while len(self._cache) > 1 and sum(each.size for each in self._cache.values()) > _CACHED_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(file)
        return content

    def close(self) -> None:
        """Leaves the files as they are and gives the slot back."""
        self._cursor.write(self.forgotten, durably=False)
        self._cursor.close()
        os.close(self._lock)

    def lose(self, file: SpoolFile, lane: Lane, low: int, high: int) -> None:
        """Takes positions that cannot be read out of the books, and counts them."""
        runs, lost = file.lanes[lane], Runs()
        lost.add(low, high)
        forgotten = self.forgotten.get(lane, 0)
        missing = runs.count_between(max(low, forgotten), high)
        file.lanes[lane] = runs.without(lost)
        with self._guard:
            self._waiting[lane] = self._waiting.get(lane, 0) - missing
        self._damage.found(file, missing)
        if self.is_finished(file):
            self.retire([file])

    def _following(self, lane: Lane, position: int) -> tuple[Run, SpoolFile] | None:
        """The first run at or behind ``position`` that is there, and its file."""
        best: tuple[Run, SpoolFile] | None = None
        for file in self.files:
            runs = file.lanes.get(lane)
            found = runs.following(position) if runs is not None else None
            if found is not None and (best is None or found.start < best[0].start):
                best = found, file
        return best

    def decode(
        self, file: SpoolFile, lane: Lane, position: int, known: tuple[Piece, list[Record]] | None = None
    ) -> tuple[Piece, list[Record]] | None:
        """The piece that holds ``position`` (which the file should hold) and its records; None where they are lost.

        ``known`` is what this returned before: that piece need not be decoded again.
        """
        pieces = self.content(file).pieces.get(lane, [])
        index = bisect_right(pieces, position, key=_end)
        if index == len(pieces) or pieces[index].group.start > position:
            self.lose(file, lane, position, pieces[index].group.start if index < len(pieces) else file.lanes[lane].end)
            return None
        piece = pieces[index]
        if known is not None and known[0] is piece:
            return known
        try:
            return piece, piece.records(self._unpack)
        except Damaged:
            self.lose(file, lane, position, piece.group.end)
            return None


def _end(piece: Piece) -> int:
    return piece.group.end


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SlotTaken(path.parent.name) from None
    except OSError:
        os.close(descriptor)
        raise
    with suppress(OSError):  # only for people: a full disk must not stop a start
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
