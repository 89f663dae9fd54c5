"""Sealed journals become segments: the same records by lane in columns, a fraction of the size.

The work is cut into steps, for it shares the interpreter with whoever answers requests. A segment is whole and durable
before what it replaces is unlinked, and recovery knows that it replaces them: a crash at any point leaves one copy.

What is rewritten is bounded: a record is packed once from its journal; eight small segments of one level make one of the
next level; a segment is written anew when three quarters of it are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from event_core.codec import Record
from event_core.telemetry import get_logger
from ingestion_service.spool import disk, files, frame, image
from ingestion_service.spool.files import Seal, SpoolFile
from ingestion_service.spool.frame import Group, Kind, Pack
from ingestion_service.spool.lane import Lane
from ingestion_service.spool.runs import Runs
from ingestion_service.spool.slot import Slot
from ingestion_service.spool.tuning import Tuning

_PIECES: Final = 100
_log = get_logger(__name__)


def choose(slot: Slot, tuning: Tuning, *, eager: bool) -> list[SpoolFile]:
    """The files to make one segment of next, neighbours in order; none where nothing is worth it yet.

    ``eager``: space is short, any journal is worth it.
    """
    journals: list[SpoolFile] = []
    for file in slot.files:
        if not file.is_segment:
            journals.append(file)
            if (
                sum(each.size for each in journals) >= tuning.enough_bytes
                or _records(journals) >= tuning.enough_records
            ):
                return journals
        elif journals:
            break
    if len(journals) >= tuning.fan_in or (eager and journals):
        return journals
    for file in slot.files:
        sparse = file.is_segment and not file.damaged and slot.live(file) * tuning.sparse <= file.records
        if sparse and file.size >= tuning.worth_bytes:
            return [file]
    for (level, sound), group in groupby(slot.files, key=lambda each: (each.level, not each.damaged)):
        small: list[SpoolFile] = []
        for file in group if level and sound else ():
            small.append(file)
            if sum(map(slot.live, small)) > tuning.merged_records:
                small = [file]
            elif len(small) == tuning.fan_in:
                return small
    return []


def _records(chosen: Sequence[SpoolFile]) -> int:
    return sum(file.records for file in chosen)


class _Buffer(NamedTuple):
    """Records of a lane in a row, on their way into one blob."""

    start: int
    skipped: int
    records: list[Record]

    @property
    def end(self) -> int:
        return self.start + len(self.records)


class Compaction:
    """One segment in the making. ``steps()`` does the work; dropped half-way it leaves nothing behind."""

    def __init__(
        self,
        slot: Slot,
        sources: Sequence[SpoolFile],
        pack: Pack,
        room: Callable[[int], bool],
        tuning: Tuning,
    ) -> None:
        self._slot = slot
        self._sources = list(sources)
        self._pack = pack
        self._room = room
        self._tuning = tuning
        self._buffers: dict[Lane, _Buffer] = {}
        self._buffered: dict[Lane, int] = {}
        self._frames: list[bytes] = []
        self._lanes: dict[Lane, Runs] = {}

    def steps(self) -> Iterator[None]:
        """Does a little more each time. Raises OSError where the disk does not take the segment: the sources stay."""
        for file in self._sources:
            if file in self._slot.files:  # else it was forgotten meanwhile
                yield from self._slot.loading(file)
            for lane in list(file.lanes):
                yield from self._gather(file, lane)
        for lane in list(self._buffers):
            yield from self._flush(lane)
        yield from self._finish()

    def _gather(self, file: SpoolFile, lane: Lane) -> Iterator[None]:
        position, known, pieces = 0, None, 0
        # What is forgotten between two steps is not looked for any more: its file may be gone.
        while run := file.lanes[lane].following(max(position, self._slot.forgotten.get(lane, 0))):
            known = self._slot.decode(file, lane, run.start, known)
            if known is None:
                continue  # those are out of the books now
            piece, decoded = known
            offset = piece.group.start
            taken = decoded[run.start - offset : run.end - offset]
            yield from self._take(lane, run.start, run.skipped, taken)
            position = run.start + len(taken)
            pieces += 1
            if pieces % _PIECES == 0:
                yield

    def _take(self, lane: Lane, start: int, skipped: int, records: list[Record]) -> Iterator[None]:
        buffer = self._buffers.get(lane)
        if buffer is not None and buffer.end != start:
            yield from self._flush(lane)
            buffer = None
        while records:
            if buffer is None:
                ended = self._lanes[lane].end if lane in self._lanes else start
                # A hole within the segment has been counted where it was found.
                buffer = self._buffers[lane] = _Buffer(start, max(skipped, start - ended), [])
            room = self._tuning.blob_records - len(buffer.records)
            taken, records = records[:room], records[room:]
            start, skipped = start + len(taken), 0
            buffer.records.extend(taken)
            size = sum(len(record.value) + len(record.key) for record in taken)
            self._buffered[lane] = self._buffered.get(lane, 0) + size
            if len(buffer.records) >= self._tuning.blob_records:
                yield from self._flush(lane)
            elif sum(self._buffered.values()) > self._tuning.buffered_bytes:
                yield from self._flush(max(self._buffered, key=lambda each: self._buffered[each]))
            buffer = self._buffers.get(lane)

    def _flush(self, lane: Lane) -> Iterator[None]:
        buffer = self._buffers.pop(lane)
        self._buffered.pop(lane)
        yield
        try:
            packed = self._pack(buffer.records)  # which reads again what it packed
        except ValueError as error:
            _log.warning(
                "records cannot be packed; they are kept as rows", records=len(buffer.records), error=str(error)
            )
            rows = [(lane, buffer.start, buffer.skipped, buffer.records)]
            self._frames.append(frame.encode_rows(rows)[0])
        else:
            group = Group(lane, buffer.start, buffer.skipped, len(buffer.records), len(packed))
            self._frames.append(frame.encode(Kind.PACKED, [group], packed))
        self._lanes.setdefault(lane, Runs()).add(buffer.start, buffer.end, skipped=buffer.skipped)
        yield

    def _finish(self) -> Iterator[None]:
        slot, first, last = self._slot, self._sources[0].first, self._sources[-1].last
        damaged = [file.path.name for file in self._sources if file.damaged]
        merged = max(file.level for file in self._sources) + (len(self._sources) > 1)
        seal = Seal(max(1, merged), damaged)
        path = slot.directory / files.segment_name(first, last)
        segment = SpoolFile(path, first, last, level=seal.level, lanes=self._lanes)
        content = image.build([files.encode_seal(self._lanes, seal), *self._frames])
        yield
        present = [file for file in self._sources if file in slot.files]  # the others were forgotten meanwhile
        if slot.is_finished(segment):
            slot.retire(present)
        elif self._room(len(content)):
            disk.replace_durably(path, content)
            segment.measure()
            slot.replace(present, segment)
