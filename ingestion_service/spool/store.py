"""The spool: what keeps acknowledged events on disk while Kafka is away (docs/decisions/0007-spool.md).

``BUFFER_DIR/slot-N/`` belongs to one process by a lock. Records are appended to a journal (journal.py), which is sealed
when it is large enough; from then on they can be read, by lane and in order, and are compacted into segments
(compaction.py). A file is unlinked when each of its records is forgotten.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Final, NamedTuple

from event_core.clock import Monotonic, monotonic
from event_core.codec import Record
from event_core.errors import ConfigurationError
from event_core.telemetry import get_logger
from ingestion_service.errors import BufferBroken, BufferFull
from ingestion_service.spool import ballast, columns, damage, disk, files, frame, journal
from ingestion_service.spool.compaction import Compaction, choose
from ingestion_service.spool.files import SpoolFile
from ingestion_service.spool.frame import Pack, Unpack
from ingestion_service.spool.journal import Journal
from ingestion_service.spool.lane import Entry, Lane
from ingestion_service.spool.slot import Slot, SlotTaken
from ingestion_service.spool.tuning import DEFAULT, Tuning

MAX_SLOTS: Final = 1024
_SCAN_SECONDS: Final = 1.0
_REST_SECONDS: Final = 2.0
_DRAIN_SECONDS: Final = 10.0
_MAX_RETRY_AFTER: Final = 60
_EAGER: Final = 0.9
_GAP: Final = 1 << 24
_log = get_logger(__name__)


class Token(NamedTuple):
    """Where a chunk came from."""

    slot: Slot
    start: int
    end: int


class Chunk(NamedTuple):
    """Records of one lane in a row."""

    lane: Lane
    records: list[Record]
    token: Token


class SpoolStore:
    """See ``open``. One thread writes (``append``, ``seal``), another reads; what is marked so may be asked by any."""

    def __init__(
        self,
        directory: Path,
        slot: Slot,
        damaged: damage.Damage,
        *,
        max_bytes: int,
        codec: tuple[Pack, Unpack],
        tuning: Tuning,
        clock: Monotonic,
    ) -> None:
        self._directory = directory
        self._slot = slot
        self._slots = [slot]
        self.damaged = damaged
        self.max_bytes = max_bytes
        self._pack, self._unpack = codec
        self._tuning = tuning
        self._clock = clock
        self._guard = Lock()
        self._journal: Journal | None = None
        self._appended: dict[Lane, int] = {}
        # What could not be read this time may be read another time: its positions must not be given again.
        self._gap = _GAP if slot.doubtful else 0
        self._next = {lane: end + self._gap for lane, end in slot.ends.items()}
        self._skipped = dict.fromkeys(self._next, self._gap)
        self._number = slot.last_number
        self._ballast = ballast.Ballast(slot.directory / ballast.NAME, clock)
        self._others = 0
        self._scanned = -math.inf
        self._freed: deque[tuple[float, int]] = deque()
        self._compaction: Iterator[None] | None = None
        self._compaction_rests_until = -math.inf
        self._compaction_failed = False
        self._nothing_to_compact: tuple[object, ...] = ()
        self._seal_log_bytes = min(tuning.seal_log_bytes, max_bytes // 8)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        max_bytes: int,
        pack: Pack = columns.pack,
        unpack: Unpack = columns.unpack,
        tuning: Tuning = DEFAULT,
        clock: Monotonic = monotonic,
    ) -> SpoolStore:
        """Takes a free slot of ``directory``, recovers what is in it and adopts the slots of processes that are gone.

        ``max_bytes`` is for all that lies in ``directory``.

        Raises:
            ConfigurationError: the folder cannot be used.
        """
        damaged = damage.Damage(directory / damage.DIRECTORY, max_bytes // 4)
        try:
            _make(directory)
            for number in range(MAX_SLOTS):
                path = directory / f"slot-{number}"
                with suppress(SlotTaken):
                    _make(path)
                    slot = Slot(path, damaged, unpack)
                    codec = (pack, unpack)
                    store = cls(directory, slot, damaged, max_bytes=max_bytes, codec=codec, tuning=tuning, clock=clock)
                    store.adopt_orphans()
                    return store
        except OSError as error:
            raise ConfigurationError(f"BUFFER_DIR={directory} cannot be used: {error}") from error
        raise ConfigurationError(f"BUFFER_DIR={directory}: all {MAX_SLOTS} slots are taken by other processes")

    # -- the writer's thread

    def append(self, entries: Sequence[Entry]) -> None:
        """All of ``entries`` are durable on return.

        Raises:
            BufferFull: the limit is reached or the disk is full.
            BufferBroken: the disk failed. After either nothing of it counts, though it may be found after a crash.
        """
        if not entries:
            return
        room = self.max_bytes - self.size_bytes
        if not self._ballast.hold(room):
            self.seal()
            raise self._full() if room < ballast.SIZE else journal.disk_full()
        by_lane: dict[Lane, list[Record]] = {}
        for lane, record in entries:
            by_lane.setdefault(lane, []).append(record)
        data, groups = frame.encode_rows(
            [
                (lane, self._next.get(lane, self._gap), self._skipped.get(lane, self._gap), records)
                for lane, records in by_lane.items()
            ]
        )
        need = journal.cost(len(data)) + (journal.NEW_BYTES if self._journal is None else 0)
        if self.size_bytes + need > self.max_bytes:
            self.seal()
            raise self._full()
        try:
            if self._journal is None:
                self._journal = self._new_journal()
            self._journal.append(data, groups)
        except (BufferFull, BufferBroken) as error:
            self._give_up(error, groups)
            raise
        with self._guard:
            for group in groups:
                self._next[group.lane] = group.end
                self._appended[group.lane] = self._appended.get(group.lane, 0) + group.records
                self._skipped[group.lane] = 0
        if (
            self._journal.log_bytes >= self._seal_log_bytes
            or self._journal.raw_bytes >= self._tuning.seal_raw_bytes
            or self._journal.records >= self._tuning.seal_records
        ):
            self.seal()

    def seal(self) -> None:
        """What was appended so far can be read from now on; does nothing where nothing was."""
        if self._journal is not None:
            self._journal.seal()
            self._hand_over(self._journal)

    def _new_journal(self) -> Journal:
        self._number += 1
        return Journal(self._slot.directory / files.journal_name(self._number))

    def _give_up(self, error: BufferFull | BufferBroken, groups: Sequence[frame.Group]) -> None:
        """The journal ends here; the positions of what it did not take are never given again."""
        for group in groups:
            self._next[group.lane] = group.end
            self._skipped[group.lane] = group.skipped + group.records
        if isinstance(error, BufferFull):
            self._ballast.release()
        failed = self._journal
        if failed is None:
            return
        if isinstance(error, BufferFull):
            failed.seal()
        else:
            _log.error(
                "the disk of the buffer failed; the file is left as it is", file=str(failed.path), error=str(error)
            )
            failed.abandon()
        self._hand_over(failed)

    def _hand_over(self, finished: Journal) -> None:
        file = SpoolFile(finished.path, self._number, self._number, finished.size, lanes=finished.lanes)
        with self._guard:
            self._journal = None
            self._appended = {}
            if finished.records:
                self._slot.add(file)
        if not finished.records:
            file.unlink()

    def _full(self) -> BufferFull:
        return BufferFull(
            f"the disk buffer is full ({self.size_bytes >> 20} of {self.max_bytes >> 20} MiB): "
            "it takes events again when Kafka has drained some",
            retry_after=self._retry_after(),
        )

    def _retry_after(self) -> int:
        """Seconds until as much will be free as a journal takes, at the rate of the last seconds."""
        horizon = self._clock() - _DRAIN_SECONDS
        freed = sum(size for moment, size in list(self._freed) if moment >= horizon)
        if not freed:
            return _MAX_RETRY_AFTER // 2
        return max(1, min(_MAX_RETRY_AFTER, math.ceil(self._seal_log_bytes * _DRAIN_SECONDS / freed)))

    # -- the reader's thread

    def read(self, lane: Lane, max_bytes: int = 1 << 20) -> Chunk | None:
        """The next sealed records of a lane, oldest first: at least one, then up to about ``max_bytes``; None: no more.

        Raises OSError where the disk cannot be read and that may pass.
        """
        for slot in self._slots:
            found = slot.read(lane, max_bytes)
            if found is not None:
                start, end, records = found
                return Chunk(lane, records, Token(slot, start, end))
        return None

    def rewind(self, lane: Lane) -> None:
        """Reads the lane again from the oldest record that is not forgotten."""
        for slot in self._slots:
            slot.rewind(lane)

    def forget(self, chunk: Chunk) -> None:
        """The chunk's records are in Kafka. What lies before them must be forgotten too before their space is free."""
        slot, start, end = chunk.token
        if slot not in self._slots:
            return
        freed = slot.forget(chunk.lane, start, end)
        if freed:
            now = self._clock()
            self._freed.append((now, freed))
            while self._freed[0][0] < now - _DRAIN_SECONDS:
                self._freed.popleft()
        self._leave(slot)

    def compact(self) -> bool:
        """A step of about 10 ms towards smaller files; False where nothing is left to do for now."""
        if self._compaction is None and not self._begin_compaction():
            return False
        until = perf_counter() + self._tuning.step_seconds
        try:
            while self._compaction is not None:
                if next(self._compaction, self) is self:
                    self._compaction = None
                    self._compaction_failed = False
                elif perf_counter() >= until:
                    break
        except OSError as error:
            self._compaction = None
            if error.errno in disk.FULL and self._ballast.release():
                return True
            self._compaction_rests_until = self._clock() + _REST_SECONDS
            if not self._compaction_failed:
                _log.warning("the disk buffer could not be compacted; this is tried again and again", error=str(error))
            self._compaction_failed = True
        return True

    def _begin_compaction(self) -> bool:
        if self._clock() < self._compaction_rests_until:
            return False
        eager = self.size_bytes > self.max_bytes * _EAGER or not self._ballast.size
        state = (eager, *((slot, slot.changes) for slot in self._slots))
        if state == self._nothing_to_compact:
            return False
        for slot in self._slots:
            if sources := choose(slot, self._tuning, eager=eager):
                self._compaction = Compaction(slot, sources, self._pack, self._room, self._tuning).steps()
                return True
        self._nothing_to_compact = state
        return False

    def _room(self, size: int) -> bool:
        """Whether a segment of ``size`` bytes fits beside what it will replace, if need be instead of the ballast."""
        if self.size_bytes + disk.occupied(size) <= self.max_bytes:
            return True
        self._ballast.release()
        fits = self.size_bytes + disk.occupied(size) <= self.max_bytes
        if not fits:
            self._compaction_rests_until = self._clock() + _REST_SECONDS
        return fits

    def adopt_orphans(self) -> int:
        """Takes over the slots whose process is gone; they are read before our own. Returns the number of records."""
        adopted = 0
        held = {slot.directory for slot in self._slots}
        for path in sorted(self._directory.glob("slot-*")):
            if path in held or not any(files.named(each) for each in path.iterdir()):
                continue
            try:
                slot = Slot(path, self.damaged, self._unpack)
            except SlotTaken:
                continue
            disk.remove(path / ballast.NAME)
            records = sum(slot.waiting().values())
            adopted += records
            _log.info("took over the disk buffer of a process that is gone", slot=path.name, records=records)
            with self._guard:
                self._slots = [*self._slots[:-1], slot, self._slot]
            self._leave(slot)
        return adopted

    def _leave(self, slot: Slot) -> None:
        """Gives back a slot that was adopted, once nothing is left in it."""
        if slot is not self._slot and not slot.files:
            with self._guard:
                self._slots = [each for each in self._slots if each is not slot]
            slot.close()

    # -- any thread

    def waiting(self) -> dict[Lane, int]:
        """Records that are durable and not forgotten, by lane; lanes without any are absent."""
        with self._guard:
            total = dict(self._appended)
            for slot in self._slots:
                for lane, records in slot.waiting().items():
                    total[lane] = total.get(lane, 0) + records
        return total

    def waiting_in(self, lane: Lane) -> int:
        """The same of one lane, for what asks often."""
        with self._guard:
            return self._appended.get(lane, 0) + sum([slot.waiting_in(lane) for slot in self._slots])

    @property
    def slot(self) -> str:
        """The name of the slot that this process appends to."""
        return self._slot.directory.name

    @property
    def records(self) -> int:
        return sum(self.waiting().values())

    @property
    def files(self) -> int:
        """Journals and segments."""
        with self._guard:
            return sum(len(slot.files) for slot in self._slots) + (self._journal is not None)

    @property
    def size_bytes(self) -> int:
        """Bytes of disk of all that lies in the folder; what other processes have is up to a second old."""
        with self._guard:
            now = self._clock()
            due = now - self._scanned >= _SCAN_SECONDS
            if due:
                self._scanned = now
                held = frozenset(slot.directory for slot in self._slots)
        if due:  # nobody must wait for the disk because we do
            with suppress(OSError):  # too many open files: what was found last is good enough
                self._others = disk.tree_size(self._directory, without=held)
        with self._guard:
            own = sum(slot.size for slot in self._slots)
            active = self._journal.size if self._journal is not None else 0
            return own + active + self._ballast.size + self._others

    def close(self) -> None:
        """Once both threads are quiet: leaves the files to the next process."""
        self.seal()
        self._compaction = None
        for slot in self._slots:
            slot.close()


def _make(directory: Path, mode: int = 0o700) -> None:
    """A folder whose name is durable; what is in it is nobody else's to read."""
    if not directory.is_dir():
        _make(directory.parent, 0o777)
        directory.mkdir(mode, exist_ok=True)
        disk.sync_directory(directory.parent)
