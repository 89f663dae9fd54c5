"""The file that is being appended to: an SQLite database whose log is synced at every commit.

Its log is never checkpointed before the end, so that it is one unbroken chain of frames (wal.py), and no commit has to
wait for a checkpoint. Locking is exclusive: the index of the log lives in memory, and a full disk cannot break it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ingestion_service.errors import BufferBroken, BufferFull
from ingestion_service.spool import disk, image
from ingestion_service.spool.frame import Group, Kind, encode
from ingestion_service.spool.lane import Lane
from ingestion_service.spool.runs import Runs

SUFFIX: Final = ".journal"
LOG_SUFFIX: Final = "-wal"
_EMPTY: Final = image.build([], wal=True)
_LOG_FRAME: Final = image.PAGE + 24
_PRIMARY: Final = 0xFF
NEW_BYTES: Final = 4 * disk.BLOCK
"""More than what a journal takes before its first row."""


def cost(size: int) -> int:
    """An upper bound of the bytes of disk that appending a frame of ``size`` bytes takes, its checkpoint included."""
    pages = size // (image.PAGE - 4) + 5
    return pages * (_LOG_FRAME + image.PAGE)


def seal_groups(lanes: Mapping[Lane, Runs]) -> list[Group]:
    """What a seal says of a file: each run of positions that it holds."""
    return [Group(lane, run.start, run.skipped, run.end - run.start, 0) for lane, runs in lanes.items() for run in runs]


class Journal:
    """One open journal; used by one thread at a time. ``lanes`` and ``records`` tell what was appended durably."""

    def __init__(self, path: Path) -> None:
        """Makes the file. Raises BufferFull or BufferBroken, and leaves nothing."""
        self.path = path
        self.lanes: dict[Lane, Runs] = {}
        self.records = 0
        self.raw_bytes = 0
        self._rows = 0
        self._failed = False
        self._log = path.with_name(path.name + LOG_SUFFIX)
        self._pages = 0
        self.size = 0
        try:
            disk.replace_durably(path, _EMPTY)  # whole from the start: less than this is damage
            self._database = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            disk.remove(path)
            raise failure(error) from error
        try:
            for pragma in ("locking_mode=EXCLUSIVE", "synchronous=FULL", "wal_autocheckpoint=0", "temp_store=MEMORY"):
                self._database.execute(f"PRAGMA {pragma}")
            (mode,) = self._database.execute("PRAGMA journal_mode").fetchone()
            (synchronous,) = self._database.execute("PRAGMA synchronous").fetchone()
            if (mode, synchronous) != ("wal", 2):
                raise sqlite3.OperationalError(f"journal_mode={mode}, synchronous={synchronous}")
        except sqlite3.Error as error:
            self.abandon()
            disk.remove(path)
            raise failure(error) from error
        self._measure()

    @property
    def log_bytes(self) -> int:
        return self.size - self._pages

    def append(self, frame: bytes, groups: Sequence[Group]) -> None:
        """One row, durable on return.

        Raises:
            BufferFull | BufferBroken: it is not, and the journal takes no more: ``seal`` or ``abandon`` it.
        """
        try:
            self._database.execute(image.INSERT, (self._rows, frame))
        except sqlite3.Error as error:
            self._failed = True
            raise failure(error) from error
        self._rows += 1
        for group in groups:
            self.lanes.setdefault(group.lane, Runs()).add(group.start, group.end, skipped=group.skipped)
            self.records += group.records
            self.raw_bytes += group.size
        self._pages += len(frame) + len(frame) // 50 + 64
        self._measure()

    def seal(self) -> None:
        """Says how much is in it, moves the log into the database and closes it.

        Whatever fails leaves the log where it is, where every reader finds it: nothing is raised.
        """
        with suppress(sqlite3.Error):
            if not self._failed:  # a row on top of half a row would look like a broken log
                self._database.execute(image.INSERT, (self._rows, encode(Kind.SEAL, seal_groups(self.lanes), b"")))
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.abandon()

    def abandon(self) -> None:
        """Closes it as it is: after a failed sync nothing of it may be written again and believed."""
        with suppress(sqlite3.Error):
            self._database.close()
        self._pages = 0
        self._measure()

    def _measure(self) -> None:
        """The log as it is and the database as it will be."""
        try:
            log = os.stat(self._log).st_size
        except FileNotFoundError:
            log = 0
        self.size = disk.occupied(log) + max(disk.size_of(self.path), disk.occupied(self._pages) if self._pages else 0)


def disk_full() -> BufferFull:
    """Not the limit: the file system has no room left."""
    return BufferFull(
        "the disk of the buffer is full: make room on it, or wait until Kafka has drained it", retry_after=5
    )


def failure(error: OSError | sqlite3.Error) -> BufferFull | BufferBroken:
    """What a failed write means to the one who waits for it."""
    if isinstance(error, OSError):
        full = error.errno in disk.FULL
    else:
        code = getattr(error, "sqlite_errorcode", None)
        full = code is not None and code & _PRIMARY == sqlite3.SQLITE_FULL
    if full:
        return disk_full()
    return BufferBroken(f"the disk of the buffer did not take the events: {error}", retry_after=1)
