"""Disk space held back, so that sealing and compaction, which free space, never lack it."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Final

from event_core.clock import Monotonic, monotonic
from ingestion_service.spool import disk

NAME: Final = "ballast"
SIZE: Final = 2 << 20
_SPARE: Final = 256 << 10
_RETRY_SECONDS: Final = 0.5


class Ballast:
    """A file with real blocks; nothing is appended while it is missing. Any thread."""

    def __init__(self, path: Path, clock: Monotonic = monotonic) -> None:
        self._path = path
        self._clock = clock
        self._guard = Lock()
        self._tried = clock() - _RETRY_SECONDS
        disk.remove(path)
        self._held = False

    @property
    def size(self) -> int:
        return SIZE if self._held else 0

    def hold(self, room: int) -> bool:
        """Whether it is there, made anew where the disk and ``room`` (bytes the buffer may still grow) allow it."""
        if self._held:
            return True
        with self._guard:
            now = self._clock()
            if room < SIZE or now - self._tried < _RETRY_SECONDS:
                return False
            self._tried = now
            # Not the last block: a try must not starve others on this disk.
            self._held = disk.free_bytes(self._path.parent) >= SIZE + _SPARE and disk.reserve(self._path, SIZE)
            return self._held

    def release(self) -> bool:
        """Gives the space to who frees more; False where there was none to give."""
        with self._guard:
            held, self._held = self._held, False
            disk.remove(self._path)
            # The next append may take it back at once, unless the disk is full.
            self._tried = self._clock() - _RETRY_SECONDS
            return held
