"""A spool file as bytes: an SQLite database of one table, made and read in memory. Pure.

Read so, a file needs no lock, no -shm, no space on a full disk, and nothing that looks at it can change it.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Final

from ingestion_service.spool.damaged import Damaged
from ingestion_service.spool.frame import Frame, parse

PAGE: Final = 1024
"""Bytes of a page. A commit writes every page that it touches, and of a blob's last page half is wasted."""
STEP: Final = 200
"""Rows that are read in one step where reading is done in steps: some milliseconds."""
INSERT: Final = "INSERT INTO frames (id, frame) VALUES (?, ?)"
_CREATE: Final = "CREATE TABLE frames (id INTEGER PRIMARY KEY, frame BLOB NOT NULL)"
_SELECT: Final = "SELECT frame FROM frames"
_VERSIONS: Final = slice(18, 20)
_ROLLBACK, _WAL = b"\x01\x01", b"\x02\x02"
_LEAF: Final = 0x0D
_MAGIC: Final = b"SQLite format 3\0"
_FILE_HEADER: Final = 100


def build(frames: Iterable[bytes], *, wal: bool = False) -> bytes:
    """The image of a file with ``frames``, numbered from 0; ``wal``: SQLite shall open it in WAL mode."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.execute(f"PRAGMA page_size={PAGE}")
        database.execute(_CREATE)
        database.execute("BEGIN")
        database.executemany(INSERT, enumerate(frames))
        database.execute("COMMIT")
        image = bytearray(database.serialize())
    if wal:
        image[_VERSIONS] = _WAL
    return bytes(image)


def select(image: bytes) -> Generator[None, None, tuple[dict[bytes, Frame], bool]]:
    """The frames that SQLite finds in an image, by their bytes; False where it met something wrong. In steps."""
    found: dict[bytes, Frame] = {}
    try:
        # Steps that are not taken to the end may be ended by another thread.
        with closing(sqlite3.connect(":memory:", check_same_thread=False)) as database:
            patched = bytearray(image)
            patched[_VERSIONS] = _ROLLBACK  # there is no log beside a database in memory
            database.deserialize(bytes(patched))
            database.execute("PRAGMA cell_size_check=ON")
            sound = len(image) > 0
            for number, (data,) in enumerate(database.execute(_SELECT), 1):
                sound &= _keep(found, data)
                if number % STEP == 0:
                    yield
            return found, sound
    except (sqlite3.Error, ValueError, MemoryError, OverflowError):  # whatever damaged bytes make of names and sizes
        return found, False


def search(image: bytes, pages: Sequence[bytes] = ()) -> dict[bytes, Frame]:
    """The frames in every page that looks like one of a table, whatever points to it; ``pages``: older states of some."""
    found: dict[bytes, Frame] = {}
    for data in _scan(image, pages):
        _keep(found, data)
    return found


def _keep(found: dict[bytes, Frame], data: object) -> bool:
    """Keeps a frame whose checksum is right."""
    try:
        frame = parse(data)
    except Damaged:
        return False
    if isinstance(data, bytes):
        found[data] = frame
    return True


def _scan(image: bytes, pages: Sequence[bytes]) -> Iterator[bytes]:
    every = chain((image[start : start + PAGE] for start in range(0, len(image), PAGE)), pages)
    for page in every:
        header = _FILE_HEADER if page.startswith(_MAGIC) else 0
        if len(page) < header + 8 or page[header] != _LEAF:
            continue
        cells = int.from_bytes(page[header + 3 : header + 5], "big")
        for index in range(min(cells, PAGE // 4)):
            at = header + 8 + 2 * index
            try:
                yield _cell(image, page, int.from_bytes(page[at : at + 2], "big"))
            except (struct.error, IndexError, Damaged):
                continue


def _cell(image: bytes, page: bytes, at: int) -> bytes:
    """A row's frame. A row is its payload's size, its number, its columns; what does not fit in follows on a chain of pages."""
    size, at = _varint(page, at)
    _, at = _varint(page, at)
    if size > len(image):
        raise Damaged("a cell larger than the file")
    payload = bytearray(page[at : at + _local(size)])
    if len(payload) < size:
        (following,) = struct.unpack_from(">I", page, at + len(payload))
        for _ in range(len(image) // PAGE):
            if not following or len(payload) >= size:
                break
            at = (following - 1) * PAGE
            (following,) = struct.unpack_from(">I", image, at)
            payload += image[at + 4 : at + PAGE]
        del payload[size:]
    columns, at = _varint(payload, 0)
    _, at = _varint(payload, at)  # the row's number is its key: this column is NULL
    kind, at = _varint(payload, at)
    if at != columns or kind < 12 or kind % 2:
        raise Damaged("not a row of frames")
    return bytes(payload[at : at + (kind - 12) // 2])


def _local(size: int) -> int:
    """How much of a payload stays in a leaf: "B-tree Cell Format" of SQLite's file format."""
    largest, smallest = PAGE - 35, (PAGE - 12) * 32 // 255 - 23
    if size <= largest:
        return size
    kept = smallest + (size - smallest) % (PAGE - 4)
    return kept if kept <= largest else smallest


def _varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9
