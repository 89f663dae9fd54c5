"""A buffer looked at from outside: nothing is locked, opened for writing or changed, whoever works on it meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from event_core.codec import Record
from ingestion_service.spool import cursor, disk, files
from ingestion_service.spool.damaged import Damaged
from ingestion_service.spool.files import Content, Piece, SpoolFile
from ingestion_service.spool.frame import Unpack
from ingestion_service.spool.lane import Lane

DAMAGED: Final = "damaged"
_LOCKS: Final = Path("/proc/locks")

Problem = Callable[[str], None]


class Seen(NamedTuple):
    """A record that waits in the buffer."""

    file: Path
    lane: Lane
    position: int
    record: Record


class Summary(NamedTuple):
    """``owner``: the process that holds the slot; None where nobody does. ``ends``: each lane's oldest and newest record."""

    owner: int | None
    size: int
    files: list[Path]
    waiting: dict[Lane, int]
    ends: list[Record]


def slots(directory: Path) -> list[Path]:
    """The folders of the slots, by number."""
    found = [path for path in directory.glob("slot-*") if path.is_dir() and path.name[5:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def summary(slot: Path, unpack: Unpack, problem: Problem) -> Summary:
    """What waits in a slot; ``problem`` is told what cannot be read."""
    found: list[Path] = []
    waiting: dict[Lane, int] = {}
    oldest: dict[Lane, Record] = {}
    newest: dict[Lane, Record] = {}
    for file, content, starts in _contents(slot, problem):
        found.append(file.path)
        for lane, runs in content.runs().items():
            low = starts.get(lane, 0)
            count = runs.count_between(low, runs.end)
            if not count:
                continue
            waiting[lane] = waiting.get(lane, 0) + count
            with suppress(Damaged):  # ``export`` tells
                pieces = [piece for piece in content.pieces[lane] if piece.group.end > low]
                oldest.setdefault(lane, _wanted(pieces[0], low, unpack)[0])
                newest[lane] = _wanted(pieces[-1], low, unpack)[-1]
    return Summary(_owner(slot / "lock"), disk.tree_size(slot), found, waiting, [*oldest.values(), *newest.values()])


def waiting(slot: Path, unpack: Unpack, problem: Problem) -> Iterator[Seen]:
    """Every record that waits in a slot, those of a lane in their order; ``problem`` is told what cannot be read."""
    for file, content, starts in _contents(slot, problem):
        yield from _records(file, content, starts, unpack, problem)


def all_of(file: SpoolFile, unpack: Unpack, problem: Problem) -> Iterator[Seen]:
    """Every record of one file, also those that are in Kafka already."""
    content = file.content()
    _tell(file, content, {}, problem)
    return _records(file, content, {}, unpack, problem)


def _records(
    file: SpoolFile, content: Content, starts: dict[Lane, int], unpack: Unpack, problem: Problem
) -> Iterator[Seen]:
    for lane, pieces in content.pieces.items():
        low = starts.get(lane, 0)
        for piece in pieces:
            if piece.group.end <= low:
                continue
            try:
                records = _wanted(piece, low, unpack)
            except Damaged as error:
                problem(f"{file.path}: {piece.group.records} records cannot be read: {error}")
                continue
            for position, record in enumerate(records, max(low, piece.group.start)):
                yield Seen(file.path, lane, position, record)


def _wanted(piece: Piece, low: int, unpack: Unpack) -> list[Record]:
    return piece.records(unpack)[max(0, low - piece.group.start) :]


def _contents(slot: Path, problem: Problem) -> Iterator[tuple[SpoolFile, Content, dict[Lane, int]]]:
    """Each file with the positions from which its records are wanted.

    A file that is compacted or drained while we look is met again under its segment's name, or not wanted any more.
    """
    starts = dict(cursor.read(slot / cursor.NAME) or {})
    done: set[str] = set()
    while True:
        found = [file for path in slot.iterdir() if path.name not in done and (file := files.named(path)) is not None]
        if not found:
            return
        file = min(found, key=files.order)
        done.add(file.path.name)
        content = file.content()
        if not file.path.exists():  # it may have gone while it was read
            continue
        _tell(file, content, starts, problem)
        yield file, content, dict(starts)
        for lane, runs in content.runs().items():
            starts[lane] = max(starts.get(lane, 0), runs.end)


def _tell(file: SpoolFile, content: Content, starts: dict[Lane, int], problem: Problem) -> None:
    missing = content.missing(starts)
    if missing or not content.sound or (content.seal is None and file.is_segment):
        problem(f"{file.path}: damaged" + (f", {missing} records are missing" if missing else ""))


def _owner(lock: Path) -> int | None:
    """The process that holds a lock, as the kernel tells it; asking does not take the lock, not even for a moment."""
    try:
        inode = f":{lock.stat().st_ino}"
        held = [line.split() for line in _LOCKS.read_text().splitlines()]
    except OSError:
        return None
    for fields in held:
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].endswith(inode):
            return _written(lock) or int(fields[4])
    return None


def _written(lock: Path) -> int | None:
    """The process as it called itself: the kernel's number may be of another namespace."""
    with suppress(OSError, ValueError):
        number = int(lock.read_text())
        os.kill(number, 0)
        return number
    return None
