"""SQLite's write-ahead log, read without SQLite: the database's pages as its last commit left them. Pure.

SQLite recovers a log up to the first frame that does not check and drops the rest silently; it also writes while it
reads. This reads a log as it lies there, goes on behind a broken frame, and says what it found.
Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log. A spool's log is never reset, so that all of its
frames carry the same salts.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import Final, NamedTuple

_HEADER: Final = struct.Struct(">IIIIIIII")
_FRAME: Final = struct.Struct(">IIIIII")
_MAGIC: Final = 0x377F0682
_VERSION: Final = 3007000
_MASK: Final = 0xFFFFFFFF
_PAGES: Final = {512 << shift for shift in range(8)}


class Overlay(NamedTuple):
    """``image``: the database. ``broken``: complete frames that do not check, or a header that does not.

    Where any is, the image takes what may be true as true, for its reader checks each row; ``pages`` are then all that the
    log holds, so that he can look for rows in older states of a page.
    """

    image: bytes
    broken: int
    pages: list[bytes]


def overlay(database: bytes, log: bytes, page_size: int) -> Overlay:
    """``database`` with every committed page of ``log`` (a -wal file of ``page_size``) put over it.

    A log that ends in the middle of a frame or a transaction is what a process leaves that was killed: not broken.
    """
    if len(log) < _HEADER.size:
        return Overlay(database, 0, [])
    starts = range(_HEADER.size, len(log) - _FRAME.size - page_size + 1, _FRAME.size + page_size)
    magic, version, size, _, salt1, salt2, sum1, sum2 = _HEADER.unpack_from(log)
    little = magic == _MAGIC
    own = _checksum(log[:24], (0, 0), little=little)
    broken = 0
    seeds = {(sum1, sum2)}
    if magic not in (_MAGIC, _MAGIC + 1) or version != _VERSION or size != page_size or own != (sum1, sum2):
        broken += 1
        little = True
        seeds |= {own, _checksum(log[:24], (0, 0), little=True)}
        salts = Counter(_FRAME.unpack_from(log, at)[2:4] for at in starts)
        if salts:
            ((salt1, salt2), _), *_ = salts.most_common(1)
    pages: dict[int, int] = {}
    pending: dict[int, int] = {}
    bodies: list[bytes] = []
    pages_in_all = 0
    most = (len(database) + len(log)) // page_size + 1
    for at in starts:
        number, commit, frame_salt1, frame_salt2, sum1, sum2 = _FRAME.unpack_from(log, at)
        body = at + _FRAME.size
        computed = {
            seed: _checksum(
                log[body : body + page_size], _checksum(log[at : at + 8], seed, little=little), little=little
            )
            for seed in seeds
        }
        ours = (frame_salt1, frame_salt2) == (salt1, salt2) and 0 < number <= most
        if not ours or (sum1, sum2) not in computed.values():
            broken += 1
            if ours:
                pending[number] = body
                bodies.append(log[body : body + page_size])
            # The next frame's checksum goes on from this one's, as it is written or as it should be.
            seeds = {(sum1, sum2), *list(computed.values())[:2]}
            continue
        bodies.append(log[body : body + page_size])
        seeds = {(sum1, sum2)}
        pending[number] = body
        if commit:
            pages |= pending
            pending = {}
            pages_in_all = commit
    if broken:
        pages |= pending  # their commit may be the broken frame; whoever reads checks what he finds
    if not pages:
        return Overlay(database, broken, [])
    image = bytearray(database)
    if broken:
        pages_in_all = max(pages_in_all, *pages, len(database) // page_size)
    image.extend(bytes(max(0, pages_in_all * page_size - len(image))))
    for number, body in pages.items():
        if number <= pages_in_all:
            image[(number - 1) * page_size : number * page_size] = log[body : body + page_size]
    return Overlay(bytes(image[: pages_in_all * page_size]), broken, bodies if broken else [])


def _checksum(data: bytes, seed: tuple[int, int], *, little: bool) -> tuple[int, int]:
    first, second = seed
    for one, other in struct.iter_unpack("<II" if little else ">II", data):
        first = (first + one + second) & _MASK
        second = (second + other + first) & _MASK
    return first, second
