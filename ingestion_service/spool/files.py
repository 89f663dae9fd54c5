"""The finished files of a slot: their names, what they hold, and what is wrong with them.

``000007.journal`` is the seventh journal of the slot, with its ``-wal`` where a process ended without sealing it.
``000003-000006.segment`` holds what was left of the journals 3 to 6 when it was made, in columns: those are void beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from event_core.codec import Record
from ingestion_service.spool import disk, image, wal
from ingestion_service.spool.damaged import Damaged
from ingestion_service.spool.frame import Frame, Group, Kind, Unpack, decode_records, encode, split_rows
from ingestion_service.spool.journal import LOG_SUFFIX, SUFFIX, seal_groups
from ingestion_service.spool.lane import Lane
from ingestion_service.spool.runs import Runs

SEGMENT_SUFFIX: Final = ".segment"
_NAME: Final = re.compile(r"(?P<first>\d{6,})(?:\.journal|-(?P<last>\d{6,})\.segment)")


class Piece(NamedTuple):
    """Records of one lane that are decoded together."""

    group: Group
    kind: Kind
    data: bytes

    def records(self, unpack: Unpack) -> list[Record]:
        """Raises Damaged."""
        if self.kind is Kind.PACKED:
            records = unpack(self.data)
            if len(records) != self.group.records:
                raise Damaged("a blob holds another number of records than it should")
            return records
        return decode_records(self.data, self.group.records)


class Content(NamedTuple):
    """What a file holds: the pieces of each lane in order; its last word, where it has one; whether all could be read."""

    pieces: dict[Lane, list[Piece]]
    seal: Frame | None
    sound: bool
    size: int

    def runs(self) -> dict[Lane, Runs]:
        found: dict[Lane, Runs] = {}
        for lane, pieces in self.pieces.items():
            runs = found[lane] = Runs()
            for piece in pieces:
                runs.add(piece.group.start, piece.group.end, skipped=piece.group.skipped)
        return found

    def sealed_runs(self) -> dict[Lane, Runs] | None:
        """What should be in it; None where nobody finished the file."""
        if self.seal is None:
            return None
        said: dict[Lane, Runs] = {}
        for group in self.seal.groups:
            said.setdefault(group.lane, Runs()).add(group.start, group.end, skipped=group.skipped)
        return said

    def missing(self, forgotten: Mapping[Lane, int]) -> int:
        """How many positions it should hold and does not, of those that are still wanted; 0 where nobody knows."""
        said, found = self.sealed_runs() or {}, self.runs()
        missing = 0
        for lane, runs in said.items():
            low = forgotten.get(lane, 0)
            missing += runs.count_between(low, runs.end)
            if lane in found:
                missing -= found[lane].count_between(low, runs.end)
        return max(0, missing)


Loading = Generator[None, None, Content]
"""Ends with a content; what is between two steps is short."""


@dataclass(eq=False)
class SpoolFile:
    """A file that is not written to any more. ``lanes``: the positions that it is known to hold."""

    path: Path
    first: int
    last: int
    size: int = 0
    level: int = 0
    lanes: dict[Lane, Runs] = field(default_factory=dict)
    damaged: bool = False

    @property
    def is_segment(self) -> bool:
        return self.path.suffix == SEGMENT_SUFFIX

    @property
    def records(self) -> int:
        return sum(runs.count for runs in self.lanes.values())

    @property
    def log(self) -> Path:
        return self.path.with_name(self.path.name + LOG_SUFFIX)

    def content(self) -> Content:
        """Reads all of it; what is damaged or gone is left out. Raises OSError where trying again may help."""
        return at_once(self.loading())

    def loading(self) -> Loading:
        """``content`` in steps."""
        log, log_whole = b"", True
        with suppress(FileNotFoundError):
            log, log_whole = disk.read(self.log)
        try:
            database, whole = disk.read(self.path)
        except FileNotFoundError:
            database, whole = b"", False
        content = yield from _reading(database, log)
        return content if whole and log_whole else content._replace(sound=False)

    def measure(self) -> None:
        self.size = disk.size_of(self.path) + disk.size_of(self.log)

    def unlink(self) -> None:
        """The log first: a log without its database would look like damage."""
        disk.remove(self.log)
        disk.remove(self.path)

    def set_aside(self, directory: Path) -> None:
        """Moves it into ``directory``, where it is never read again by the service."""
        with suppress(OSError):
            directory.mkdir(exist_ok=True)
        for path in (self.log, self.path):
            with suppress(OSError):
                path.rename(_unused(directory / f"{path.parent.name}.{path.name}"))


def _unused(path: Path) -> Path:
    """``path``, or one like it where it is taken."""
    number, target = 0, path
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.{number}")
    return target


def order(file: SpoolFile) -> tuple[int, int, bool]:
    """Sorts files from the oldest records to the newest, and a segment before the journals that it replaced."""
    return file.first, -file.last, not file.is_segment


def journal_name(number: int) -> str:
    return f"{number:06d}{SUFFIX}"


def segment_name(first: int, last: int) -> str:
    return f"{first:06d}-{last:06d}{SEGMENT_SUFFIX}"


def named(path: Path) -> SpoolFile | None:
    """The file that this name tells of, not yet read; None where it is another file."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    first = int(match["first"])
    return SpoolFile(path, first, int(match["last"] or first))


def at_once(loading: Loading) -> Content:
    """What a loading ends with."""
    while True:
        try:
            next(loading)
        except StopIteration as end:
            content: Content = end.value
            return content


def _reading(database: bytes, log: bytes) -> Loading:
    whole = wal.overlay(database, log, image.PAGE)
    yield
    frames, sound = yield from image.select(whole.image)
    content = yield from _sorting(frames.values(), sound=sound and not whole.broken)
    if content.sound and content.seal is not None and not content.missing({}):
        return content
    # Where nothing says that this is all, a damaged tree of pages may hide rows from SQLite.
    more = image.search(whole.image, whole.pages)
    if more.keys() <= frames.keys():
        return content
    return (yield from _sorting({**frames, **more}.values(), sound=False))


def _sorting(frames: Iterable[Frame], *, sound: bool) -> Loading:
    pieces: dict[Lane, list[Piece]] = {}
    seal, size = None, 0
    for number, frame in enumerate(frames, 1):
        if number % image.STEP == 0:
            yield
        if frame.kind is Kind.SEAL:
            seal = frame
            continue
        parts = split_rows(frame) if frame.kind is Kind.ROWS else [frame.payload] * len(frame.groups)
        for group, part in zip(frame.groups, parts, strict=True):
            pieces.setdefault(group.lane, []).append(Piece(group, frame.kind, part))
            size += len(part)
    for found in pieces.values():
        found.sort(key=lambda piece: piece.group.start)
    return Content(pieces, seal, sound, size)


class Seal(NamedTuple):
    """What a segment says of itself beside its positions: how often it was merged, which damaged files it replaced."""

    level: int = 0
    damaged: Sequence[str] = ()


def encode_seal(lanes: Mapping[Lane, Runs], seal: Seal) -> bytes:
    return encode(Kind.SEAL, seal_groups(lanes), json.dumps(seal._asdict()).encode())


def decode_seal(frame: Frame | None) -> Seal:
    if frame is None or not frame.payload:
        return Seal()
    with suppress(ValueError, LookupError, TypeError):  # the checksum is right: another version wrote it
        given = json.loads(frame.payload)
        return Seal(int(given["level"]), [str(name) for name in given["damaged"]])
    return Seal()
