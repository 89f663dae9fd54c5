"""How far each lane of a slot has been forgotten, kept over a restart so that little is sent twice.

Two places in one file are written in turn: the older one survives a write that is cut off, and nothing of it needs new
space on a full disk. Losing the file only sends again what is still there.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from zlib import crc32

import zstandard

from ingestion_service.spool.lane import Lane

NAME: Final = "cursor"
_HALF: Final = 16384
SIZE: Final = 2 * _HALF
_HEAD: Final = struct.Struct("<IIQ")


def read(path: Path) -> dict[Lane, int] | None:
    """The position of each lane before which nothing is wanted any more; None where there is no cursor."""
    turn, positions = _newest(path)
    return positions if turn else None


class Cursor:
    """The cursor of a slot that this process holds; used by the reader's thread."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where the file cannot be opened. ``positions`` is None where nothing is known."""
        self._turn, positions = _newest(path)
        self.positions = positions if self._turn else None
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        if not self._turn:
            os.ftruncate(self._file, 0)  # a place that cannot be read now must not be believed later
        with suppress(OSError):
            os.posix_fallocate(self._file, 0, SIZE)

    def write(self, positions: Mapping[Lane, int], *, durably: bool) -> None:
        """Best effort: the next one is right again."""
        content = [[*lane, position] for lane, position in positions.items()]
        data = zstandard.ZstdCompressor(level=1).compress(json.dumps(content).encode())
        if _HEAD.size + len(data) > _HALF:
            return  # many hundreds of lanes: a restart sends more of them again
        self._turn += 1
        body = _HEAD.pack(0, len(data), self._turn)[4:] + data
        with suppress(OSError):
            os.pwrite(self._file, crc32(body).to_bytes(4, "little") + body, self._turn % 2 * _HALF)
            if durably:
                os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


def _newest(path: Path) -> tuple[int, dict[Lane, int]]:
    try:
        data = path.read_bytes()
    except OSError:
        return 0, {}
    best: tuple[int, dict[Lane, int]] = (0, {})
    for half in (data[:_HALF], data[_HALF:SIZE]):
        if len(half) < _HEAD.size:
            continue
        checksum, length, turn = _HEAD.unpack_from(half)
        end = _HEAD.size + length
        if end > len(half) or crc32(half[4:end]) != checksum or turn <= best[0]:
            continue
        content = json.loads(zstandard.ZstdDecompressor().decompress(half[_HEAD.size : end], max_output_size=1 << 20))
        best = turn, {Lane(topic, number, of): position for topic, number, of, position in content}
    return best
