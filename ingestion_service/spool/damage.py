"""What was found damaged: counted, told once, and kept aside for people to look at."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from event_core.telemetry import get_logger
from ingestion_service.spool import disk
from ingestion_service.spool.files import SpoolFile

DIRECTORY: Final = "damaged"
_log = get_logger(__name__)


class Damage:
    """Counts since the process started. ``records``: those known to be lost; ``bytes``: of the files concerned.

    Files kept aside take at most ``max_bytes``; beyond, the oldest go, for they take room from events.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self.files = 0
        self.records = 0
        self.bytes = 0

    def found(self, file: SpoolFile, records: int) -> None:
        """``file`` is damaged; ``records`` more of it are lost. The first time a warning names it."""
        self.records += records
        if not file.damaged:
            file.damaged = True
            self.files += 1
            self.bytes += file.size
            _log.warning(
                "a file of the disk buffer is damaged; what can be read of it is used, the rest is lost",
                file=str(file.path),
                bytes=file.size,
                records_lost=records,
                records_left=file.records,
                kept_in=str(self._directory),
            )

    def hole(self, file: SpoolFile, records: int) -> None:
        """``records`` that should lie before those of ``file`` are nowhere."""
        self.records += records
        _log.warning("events are missing from the disk buffer", before=str(file.path), records_lost=records)

    def dispose(self, file: SpoolFile, *, aside: bool | None = None) -> None:
        """Unlinks a file that is done with, or keeps it aside where it is damaged (or ``aside`` says so)."""
        if file.damaged if aside is None else aside:
            file.set_aside(self._directory)
            self._make_room()
        else:
            file.unlink()

    def _make_room(self) -> None:
        kept = []
        with suppress(OSError):
            kept = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self._directory.iterdir())
        total = sum(disk.occupied(size) for _, size, _ in kept)
        for _, size, path in kept[:-1]:
            if total <= self._max_bytes:
                return
            _log.warning("a damaged file is removed: newer ones need the room", file=str(path), bytes=size)
            disk.remove(path)
            total -= disk.occupied(size)
