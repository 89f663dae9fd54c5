"""The disk spool against a model of it: a list for each lane."""

from __future__ import annotations

import shutil
import tempfile
from itertools import count
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from event_core.codec import Record
from ingestion_service.spool.lane import Entry, Lane
from ingestion_service.spool.store import Chunk, SpoolStore
from ingestion_service.spool.tuning import Tuning
from tests.support.spool import LANES, MIB, copy_as_killed, files_in, record

ALL = [*LANES, Lane("product_events", 0, 1)]
lanes = st.sampled_from(ALL)


class Spool(RuleBasedStateMachine):
    """Any order of what a writer and a reader may do, with restarts and kills between."""

    @initialize(
        tuning=st.builds(
            Tuning,
            seal_records=st.sampled_from([4, 30, 1000]),
            enough_records=st.sampled_from([8, 100]),
            blob_records=st.sampled_from([3, 50]),
            fan_in=st.sampled_from([2, 4]),
            merged_records=st.sampled_from([30, 1000]),
            worth_bytes=st.just(0),
            buffered_bytes=st.sampled_from([2000, 1 << 20]),
            step_seconds=st.just(0.0),
        )
    )
    def start(self, tuning: Tuning) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.folders = count()
        self.numbers = count()
        self.tuning = tuning
        self.wanted: dict[Lane, list[Record]] = {lane: [] for lane in ALL}
        self.open(self.folder / str(next(self.folders)))

    def open(self, directory: Path) -> None:
        self.directory = directory
        self.store = SpoolStore.open(directory, max_bytes=100 * MIB, tuning=self.tuning)
        self.read: dict[Lane, list[Chunk]] = {lane: [] for lane in ALL}

    @rule(into=st.lists(lanes, min_size=1, max_size=12), size=st.sampled_from([0, 0, 50, 900]))
    def append(self, into: list[Lane], size: int) -> None:
        entries = [Entry(lane, record(next(self.numbers), size=size)) for lane in into]
        self.store.append(entries)
        for lane, appended in entries:
            self.wanted[lane].append(appended)

    @rule()
    def seal(self) -> None:
        self.store.seal()

    @rule(lane=lanes, max_bytes=st.sampled_from([1, 1000, 1 << 20]))
    def read_some(self, lane: Lane, max_bytes: int) -> None:
        chunk = self.store.read(lane, max_bytes)
        if chunk is not None:
            start = sum(len(each.records) for each in self.read[lane])
            assert chunk.records == self.wanted[lane][start : start + len(chunk.records)]
            self.read[lane].append(chunk)

    @rule(lane=lanes)
    def forget(self, lane: Lane) -> None:
        if self.read[lane]:
            chunk = self.read[lane].pop(0)
            self.store.forget(chunk)
            del self.wanted[lane][: len(chunk.records)]

    @rule(lane=lanes)
    def rewind(self, lane: Lane) -> None:
        self.store.rewind(lane)
        self.read[lane] = []

    @rule(steps=st.sampled_from([1, 5, 100]))
    def compact(self, steps: int) -> None:
        for _ in range(steps):
            if not self.store.compact():
                break

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.open(self.directory)

    @rule()
    def kill(self) -> None:
        copy = copy_as_killed(self.directory, self.folder / str(next(self.folders)))
        self.store.close()
        shutil.rmtree(self.directory)
        self.open(copy)

    @invariant()
    def what_waits_is_what_was_not_forgotten(self) -> None:
        assert self.store.waiting() == {lane: len(wanted) for lane, wanted in self.wanted.items() if wanted}

    @invariant()
    def nothing_is_damaged(self) -> None:
        assert (self.store.damaged.files, self.store.damaged.records) == (0, 0)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self.store.seal()
        for lane in ALL:
            self.rewind(lane)
            got: list[Record] = []
            while (chunk := self.store.read(lane)) is not None:
                got += chunk.records
                self.store.forget(chunk)
            assert got == self.wanted[lane]
        assert files_in(self.directory) == []
        self.store.close()
        shutil.rmtree(self.folder)


TestSpool = Spool.TestCase
TestSpool.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
