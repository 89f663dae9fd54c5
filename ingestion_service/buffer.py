"""The disk spool as the event loop sees it: group commits, counts, and chunks to drain.

The store is synchronous. One thread writes, so that a commit never waits for anything but the commit before it; another reads,
compacts and unlinks. What comes while a commit is on its way makes the next one, so the disk's latency sets the commit's size.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from event_core.clock import utc_now
from event_core.codec import Record
from event_core.errors import ConfigurationError, Unavailable
from event_core.telemetry import get_logger
from ingestion_service.delivery import Delivery, Stored
from ingestion_service.errors import BufferBroken, BufferFull
from ingestion_service.metrics import Metrics
from ingestion_service.settings import IngestionSettings
from ingestion_service.spool.lane import Entry, Lane
from ingestion_service.spool.quarantine import Quarantine
from ingestion_service.spool.store import Chunk, SpoolStore

log = get_logger(__name__)

T = TypeVar("T")

LONGEST_RETRY_AFTER = 60
COMPACT_PAUSE = 3.0
"""Compaction rests this many times as long as it works: it shares the interpreter with the event loop."""
IDLE_SECONDS = 1.0
SWITCH_SECONDS = 0.0005
DRAINING_SECONDS = 2.0
PROBLEM_SECONDS = 2.0


def require_usable(directory: Path | None) -> None:
    """Raises ConfigurationError where ``directory`` cannot be made or written to: asked before anything is opened."""
    if directory is None:
        return
    try:
        directory.mkdir(0o700, parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(f"no right to write to {directory}")
    except OSError as error:
        raise ConfigurationError(
            f"BUFFER_DIR cannot be used ({error}): make the folder writable, name another one, or set BUFFER_DIR to nothing, "
            "which turns the disk buffer off"
        ) from None


class _Commit:
    """What is made durable together."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.bytes = 0
        self.own = Delivery()
        self.moved: set[Delivery] = set()


class Buffer:
    """Owned by the publisher. ``on_commit`` is told the lanes that just got something to drain."""

    def __init__(
        self,
        store: SpoolStore,
        quarantine: tuple[Quarantine, Quarantine],
        metrics: Metrics,
        on_commit: Callable[[set[Lane]], None],
        dlq_topic: str,
    ) -> None:
        self._store = store
        self._dlq = dlq_topic
        self._quarantine, self._lesser_quarantine = quarantine
        self._metrics = metrics
        self._on_commit = on_commit
        self._writer = ThreadPoolExecutor(1, "spool-writer")
        self._reader = ThreadPoolExecutor(1, "spool-reader")
        self._next = _Commit()
        self._writing: asyncio.Task[None] | None = None
        self._compacting: asyncio.Task[None] | None = None
        self._queued: dict[Lane, int] = {}
        self.pending_bytes = 0
        self.read_seconds = 0.0
        """CPU time spent on reading so far."""
        self.problem: Unavailable | None = None
        """What became of the last commit, where it failed."""
        self._problem_at = 0.0
        self._drained_at = -DRAINING_SECONDS
        self._outage_began = time.monotonic()

    @classmethod
    async def open(
        cls, settings: IngestionSettings, metrics: Metrics, on_commit: Callable[[set[Lane]], None]
    ) -> Buffer | None:
        """The buffer that the settings describe; None where it is turned off.

        Raises:
            ConfigurationError: its folder cannot be used.
        """
        directory = settings.buffer_dir
        if directory is None:
            return None
        most = settings.max_buffer_size_mb << 20
        try:
            store = await asyncio.to_thread(lambda: SpoolStore.open(directory, max_bytes=most))
            # What clients can fill, with events that fail again and again, must leave room for what Kafka refuses.
            quarantine = (Quarantine(directory, most // 10), Quarantine(directory, most // 20))
        except OSError as error:
            raise ConfigurationError(
                f"BUFFER_DIR {directory} cannot be used ({error}): make it writable, or name another folder"
            ) from error
        # The event loop waits this long for its turn while a thread works on the spool; Python's default is 5 ms.
        sys.setswitchinterval(SWITCH_SECONDS)
        made = cls(store, quarantine, metrics, on_commit, settings.dlq_topic)
        made._compacting = asyncio.create_task(made._compact())
        return made

    async def stop(self) -> None:
        """Waits for the commits on their way, then closes the store."""
        if self._writing is not None:
            await self._writing
        if self._compacting is not None:
            self._compacting.cancel()
            await asyncio.wait({self._compacting})
        await self._in(self._reader, lambda: None)
        await self._in(self._writer, self._store.close)
        self._reader.shutdown()
        self._writer.shutdown()

    # --- in

    def add(self, lane: Lane, record: Record, moved: Delivery | None = None) -> Delivery:
        """The delivery of the commit that ``record`` becomes part of. ``moved`` is the delivery of one that was on its way to
        Kafka: it is settled by that commit too."""
        commit = self._next
        commit.entries.append(Entry(lane, record))
        if moved is not None:
            commit.moved.add(moved)
        size = len(record.value)
        commit.bytes += size
        self.pending_bytes += size
        self._queued[lane] = self._queued.get(lane, 0) + 1
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return commit.own

    async def _write(self) -> None:
        try:
            while self._next.entries:
                commit, self._next = self._next, _Commit()
                await self._commit(commit)
        finally:
            self._writing = None

    async def _commit(self, commit: _Commit) -> None:
        outcome: Stored | Unavailable = Stored.DISK
        began = time.perf_counter()
        try:
            await self._in(self._writer, lambda: self._store.append(commit.entries))
        except BufferFull as error:
            outcome = error if self.draining else BufferFull(error.message, retry_after=self._outage_seconds())
        except Unavailable as error:
            outcome = error
        except Exception as error:
            log.error("the buffer failed unexpectedly", exc_info=error)
            outcome = BufferBroken(f"the event was not stored: {error!r}. Send it again")
        lanes = {entry.lane for entry in commit.entries}
        for entry in commit.entries:
            self._queued[entry.lane] -= 1
        self.pending_bytes -= commit.bytes
        for delivery in (commit.own, *commit.moved):
            delivery.settle(outcome)
        if isinstance(outcome, Stored):
            self.problem = None
            self._metrics.spooled.inc(len(commit.entries))
            self._metrics.spooled_events.inc(sum([entry.lane.topic != self._dlq for entry in commit.entries]))
            self._metrics.commit_records.observe(len(commit.entries))
            self._metrics.commit_seconds.observe(time.perf_counter() - began)
            self._on_commit(lanes)
        else:
            if self.problem is None:
                log.warning("the buffer did not take events", problem=outcome.message)
            self.problem = outcome
            self._problem_at = time.monotonic()
            self._metrics.unheard.inc(sum([delivery.acknowledged for delivery in commit.moved]), "part")

    def _outage_seconds(self) -> int:
        """How long to wait while nothing drains: as long as that has lasted, since it may well last as long again."""
        return max(1, min(LONGEST_RETRY_AFTER, math.ceil(time.monotonic() - self._outage_began)))

    # --- out

    def waiting(self, lane: Lane) -> int:
        """Records of ``lane`` that are on disk or on their way to it."""
        return self._store.waiting_in(lane) + self._queued.get(lane, 0)

    def queued(self, lane: Lane) -> int:
        """Records of ``lane`` that are on their way to the disk."""
        return self._queued.get(lane, 0)

    async def committed(self) -> None:
        """Returns once the commits on their way have ended."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=IDLE_SECONDS)

    def lanes(self) -> set[Lane]:
        """The lanes with records on disk or on their way to it."""
        queued = {lane for lane, records in self._queued.items() if records}
        return queued | {lane for lane, records in self._store.waiting().items() if records}

    async def read(self, lane: Lane, max_bytes: int) -> Chunk | None:
        """About ``max_bytes`` of the oldest records of ``lane`` that were not read yet; None where there are none.

        Raises:
            BufferBroken: the disk cannot be read.
        """

        def read() -> Chunk | None:
            began = time.thread_time()
            try:
                return self._store.read(lane, max_bytes)
            finally:
                self.read_seconds += time.thread_time() - began

        try:
            chunk = await self._in(self._reader, read)
            if chunk is None:
                await self._in(self._writer, self._store.seal)
                chunk = await self._in(self._reader, read)
        except OSError as error:
            raise BufferBroken(f"the disk buffer cannot be read: {error}") from error
        return chunk

    async def rewind(self, lane: Lane) -> None:
        """Makes ``read`` begin again at the oldest record that was not forgotten."""
        await self._in(self._reader, lambda: self._store.rewind(lane))

    async def forget(self, chunk: Chunk) -> None:
        """``chunk`` is in Kafka. Comes to its end also where the caller is cancelled: else it would be sent again."""
        await asyncio.shield(self._forget(chunk))

    async def _forget(self, chunk: Chunk) -> None:
        await self._in(self._reader, lambda: self._store.forget(chunk))
        self._drained_at = time.monotonic()
        self._metrics.drained.inc(len(chunk.records))

    async def adopt(self) -> int:
        """Takes over what processes that are gone left behind. How many records that is."""
        try:
            return await self._in(self._reader, self._store.adopt_orphans)
        except OSError as error:
            log.warning("the buffer's folder cannot be searched; this is tried again", problem=str(error))
            return 0

    async def quarantine(
        self, topic: str, record: Record, reason: str, error: str, retry_count: int, *, lesser: bool = False
    ) -> None:
        """Keeps for good what no topic takes; durable on return. ``lesser`` leaves half of its room free.

        Raises:
            Unavailable: there is no room, or the disk failed.
        """
        quarantine = self._lesser_quarantine if lesser else self._quarantine
        try:
            await self._in(self._reader, lambda: quarantine.keep(topic, record, reason, error, retry_count, utc_now()))
        except OSError as problem:
            raise BufferBroken(f"the quarantine cannot be written to: {problem}") from problem
        self._metrics.quarantined.inc()

    @property
    def draining(self) -> bool:
        """Whether Kafka took something from the disk just now: what is about to be sent needs no compaction."""
        return time.monotonic() - self._drained_at < DRAINING_SECONDS

    def note_outage(self) -> None:
        """Kafka is away from now on."""
        self._outage_began = time.monotonic()

    @property
    def store(self) -> SpoolStore:
        return self._store

    async def _compact(self) -> None:
        while True:
            began = time.perf_counter()
            try:
                more = not self.draining and await self._in(self._reader, self._store.compact)
            except Exception as error:  # the events stay in their journal: nothing is lost, but space
                log.error("compaction failed", exc_info=error)
                more = False
            await asyncio.sleep(COMPACT_PAUSE * (time.perf_counter() - began) if more else IDLE_SECONDS)

    async def _in(self, thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, call)

    async def ping(self) -> None:
        """Raises the Unavailable that the last commit ended with, while it is fresh: whoever is not asked to store because of
        it would else never find out that there is room again."""
        if self.problem is not None and time.monotonic() - self._problem_at < PROBLEM_SECONDS:
            raise self.problem
