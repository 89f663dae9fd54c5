"""The programs' logs, together: each line behind its program's name."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

Emit = Callable[[str, str], None]
"""Takes a program's name and one line of its log."""

TAIL_BYTES = 256 * 1024


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file; none when there is no such file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-lines:] if lines else []
    except OSError:
        return []


class Follower:
    """New lines of one log, across its rotation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = b""
        self._inode, self._offset = self._look()

    def _look(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return 0, 0
        return status.st_ino, status.st_size

    def lines(self) -> Iterator[str]:
        """The lines that were completed since the last call."""
        inode, size = self._look()
        if inode != self._inode or size < self._offset:
            self._inode, self._offset, self._partial = inode, 0, b""
        if size == self._offset:
            return
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return
        self._offset += len(new)
        *complete, self._partial = (self._partial + new).split(b"\n")
        for line in complete:
            yield line.decode(errors="replace")


def show(files: Mapping[str, Path], lines: int, emit: Emit, *, follow: bool) -> None:
    """Emits the end of each program's log; with `follow` goes on with what comes, until interrupted."""
    followers = {name: Follower(path) for name, path in files.items()} if follow else {}
    for name, path in files.items():
        for line in tail(path, lines):
            emit(name, line)
    while followers:
        for name, follower in followers.items():
            for line in follower.lines():
                emit(name, line)
        time.sleep(0.2)
