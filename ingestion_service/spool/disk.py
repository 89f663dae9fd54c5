"""What the spool asks of the file system: durable names, whole files, and how much room is left."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
UNREADABLE: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})
"""What a disk says of bytes that it has lost; other errors may pass."""
BLOCK: Final = 4096


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o640)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def occupied(size: int) -> int:
    """Bytes of disk that a file of ``size`` bytes takes."""
    return -(-size // BLOCK) * BLOCK


def size_of(path: Path) -> int:
    """Bytes of disk that the file takes; 0 where there is none."""
    try:
        return occupied(path.stat().st_size)
    except FileNotFoundError:
        return 0


def read(path: Path) -> tuple[bytes, bool]:
    """A file's bytes, and whether the disk gave them all: blocks that it has lost are zeros. Raises OSError."""
    try:
        return path.read_bytes(), True
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
    blocks = []
    with _opened(path, os.O_RDONLY) as descriptor:
        for start in range(0, os.fstat(descriptor).st_size, BLOCK):
            try:
                blocks.append(os.pread(descriptor, BLOCK, start))
            except OSError as error:
                if error.errno not in UNREADABLE:
                    raise
                blocks.append(bytes(BLOCK))
    return b"".join(blocks), False


def tree_size(directory: Path, *, without: frozenset[Path] = frozenset()) -> int:
    """Bytes of disk that the files below take, leaving out some folders."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    path = Path(entry.path)
                    total += 0 if path in without else tree_size(path)
                else:
                    total += occupied(entry.stat(follow_symlinks=False).st_size)
    return total


def sync_directory(directory: Path) -> None:
    """Makes the names in a folder durable."""
    with _opened(directory, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """``write`` until all is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync(path: Path) -> None:
    """Makes what lies in a file durable, where there is one and the disk can: best effort."""
    with suppress(OSError), _opened(path, os.O_RDWR) as descriptor:
        os.fdatasync(descriptor)


def replace_durably(path: Path, data: bytes) -> None:
    """A file that survives a power cut once this returns, its name too; the old one is replaced whole or not at all.

    Raises OSError, and leaves no part of the new one.
    """
    temporary = path.with_name(path.name + ".tmp")
    remove(temporary)
    try:
        with _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
            write_all(descriptor, data)
            os.fsync(descriptor)
        temporary.rename(path)
        sync_directory(path.parent)
    except OSError:
        remove(temporary)
        raise


def remove(path: Path) -> None:
    """Unlinks, where there is something; a file that cannot be unlinked is met again at the next start."""
    with suppress(OSError):
        path.unlink()


def reserve(path: Path, size: int) -> bool:
    """A file of ``size`` bytes with real blocks behind it; False (and no file) where there is no room."""
    try:
        with _opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
            os.posix_fallocate(descriptor, 0, size)
            os.ftruncate(descriptor, size)
    except OSError:
        remove(path)
        return False
    return True


def free_bytes(directory: Path) -> int:
    """What the file system still gives to this user."""
    state = os.statvfs(directory)
    return state.f_bavail * state.f_frsize
