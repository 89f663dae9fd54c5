"""Events that not even the dead-letter topic takes, or that failed too often: JSON lines, kept until somebody looks.

``BUFFER_DIR/quarantine/NNN.jsonl``; each process writes files of its own. A line has ``at``, ``topic``, ``reason``,
``error``, ``retry_count`` and the record (text.py).
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Final

from event_core.clock import rfc3339
from event_core.codec import Record
from ingestion_service.errors import BufferFull
from ingestion_service.spool import disk
from ingestion_service.spool.journal import failure
from ingestion_service.spool.text import as_json

DIRECTORY: Final = "quarantine"
SUFFIX: Final = ".jsonl"
MAX_FILE_BYTES: Final = 8 << 20


class Quarantine:
    """The quarantine of a buffer. Any thread; ``keep`` waits for the disk."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """``directory`` is BUFFER_DIR; ``max_bytes`` bounds all files of the quarantine together."""
        self._directory = directory / DIRECTORY
        self._max_bytes = max_bytes
        self._guard = Lock()
        self._file: int | None = None
        self._size = 0
        self._count = sum(_lines(path) for path in files(directory))

    @property
    def count(self) -> int:
        """Events in quarantine: those found at the start and those kept since."""
        return self._count

    def keep(self, topic: str, record: Record, reason: str, error: str, retry_count: int, at: datetime) -> None:
        """Adds an event; it is durable on return.

        Raises:
            BufferFull: the quarantine or the disk is full.
            BufferBroken: the disk failed.
        """
        line = {"at": rfc3339(at), "topic": topic, "reason": reason, "error": error, "retry_count": retry_count}
        data = json.dumps(line | as_json(record)).encode() + b"\n"
        with self._guard:
            taken = sum(path.stat().st_size for path in files(self._directory.parent))
            if taken + len(data) > self._max_bytes:
                raise BufferFull(f"the quarantine is full: look at {self._directory} and empty it", retry_after=60)
            try:
                self._write(data)
            except OSError as problem:
                self._give_up()
                raise failure(problem) from problem
            self._count += 1

    def close(self) -> None:
        with self._guard:
            if self._file is not None:
                os.close(self._file)
            self._file = None

    def _write(self, data: bytes) -> None:
        if self._file is not None and self._size + len(data) > MAX_FILE_BYTES:
            os.close(self._file)
            self._file = None
        if self._file is None:
            self._file, self._size = self._new(), 0
        disk.write_all(self._file, data)
        os.fsync(self._file)
        self._size += len(data)

    def _new(self) -> int:
        if not self._directory.is_dir():
            self._directory.mkdir(exist_ok=True)
            disk.sync_directory(self._directory.parent)
        number = max((int(path.stem) for path in files(self._directory.parent)), default=0)
        while True:
            number += 1
            with suppress(FileExistsError):
                path = self._directory / f"{number:03d}{SUFFIX}"
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
                disk.sync_directory(self._directory)
                return descriptor

    def _give_up(self) -> None:
        """What was written of a line is cut off again; the next line goes to a new file."""
        if self._file is None:
            return
        with suppress(OSError):
            os.ftruncate(self._file, self._size)
        with suppress(OSError):
            os.close(self._file)
        self._file = None


def files(directory: Path) -> list[Path]:
    """The files of BUFFER_DIR's quarantine, oldest first."""
    found = [path for path in (directory / DIRECTORY).glob(f"*{SUFFIX}") if path.stem.isdecimal()]
    return sorted(found, key=lambda path: int(path.stem))


def _lines(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.endswith(b"\n"))
