"""Takes a question and gives its reply: from the cache where nothing it depends on has changed, else from the database."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from analytics_service.cache import Cache, Kept
from analytics_service.errors import QueryTooCostly
from analytics_service.exports import FileFormat, export
from analytics_service.metrics import Metrics
from analytics_service.questions.base import Question, Row
from analytics_service.settings import AnalyticsSettings
from analytics_service.store import Snapshot, State, Store
from analytics_service.where import WHERE, place_of
from event_core.errors import Overloaded


class Replied(NamedTuple):
    """A reply ready to be sent."""

    body: bytes
    etag: str
    cached: bool
    watermark: datetime | None


class _Work:
    """An answer that is being worked out, and those who wait for it."""

    def __init__(self, task: asyncio.Task[tuple[Kept, State]]) -> None:
        self.task = task
        self._waiting = 0

    async def wait(self) -> tuple[Kept, State]:
        """The answer. One who goes away does not take it from the others; when the last has gone the work ends."""
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.task.cancel()


class Desk:
    """One per process. The same question asked by several at once is answered once."""

    def __init__(self, store: Store, settings: AnalyticsSettings, metrics: Metrics) -> None:
        self._store = store
        self._budget = settings.analytics_row_budget
        self._cache = Cache(settings.analytics_cache_mb << 20)
        self._metrics = metrics
        self._working: dict[str, _Work] = {}
        self._exports = 0
        # Each holds a connection for as long as its client takes: the questions need some, too.
        self._most_exports = max(1, settings.analytics_pool_size // 2)

    async def ask(self, question: Question) -> Replied:
        """The reply.

        Raises:
            InvalidQuery, QueryTooCostly, QueryTooSlow, DatabaseUnavailable
        """
        asked = _identity(question)
        state = await self._store.state(question)
        key = _key(asked, question, state)
        kept = self._cache.get(key)
        cached = kept is not None
        self._metrics.cache.labels("hit" if cached else "miss").inc()
        if kept is None:
            # By the question alone: who asks while it is being worked out gets that answer, with the freshness it has. Else a
            # dashboard that many look at would be worked out for each of them whenever an event comes.
            work = self._working.get(asked)
            # One that nobody waited for any more is ending: what it gives is no answer.
            if work is None or work.task.cancelling():
                work = self._working[asked] = _Work(asyncio.create_task(self._work(asked, question)))
                work.task.add_done_callback(lambda done: self._done(asked, done))
            kept, state = await work.wait()
        return _reply(kept, state, cached)

    async def export(self, question: Question, format: FileFormat) -> AsyncGenerator[bytes]:
        """The rows that the answer is made of, all of one moment, as a file. Raises as ``ask`` does, before the first bytes."""
        if self._exports >= self._most_exports:
            raise Overloaded(
                f"{self._exports} exports are under way, at most {self._most_exports}: wait", retry_after=10
            )
        self._exports += 1
        try:
            async with self._store.snapshot(question) as snapshot:
                await self._afford(snapshot, question)
                columns = await snapshot.columns(question)
                async with contextlib.aclosing(export(snapshot.stream(question), columns, format)) as chunks:
                    async for chunk in chunks:
                        yield chunk
        finally:
            self._exports -= 1

    async def where(self, event_id: UUID) -> bytes:
        """The reply that says where this event is. Raises DatabaseUnavailable, QueryTooSlow."""
        rows = await self._store.fetch("where", WHERE, event_id)
        place = place_of(rows)
        place["freshness"] = _freshness(rows[0]["watermark"], rows[0]["asked_at"])
        return orjson.dumps(place, option=orjson.OPT_UTC_Z)

    async def _work(self, asked: str, question: Question) -> tuple[Kept, State]:
        async with self._store.snapshot(question) as snapshot:
            state = await snapshot.state(question)
            await self._afford(snapshot, question)
            rows = await snapshot.rows(question)
        # In a thread: thousands of rows, or an experiment's integrals, must not keep other requests waiting.
        kept = await asyncio.to_thread(_kept, question, rows)
        # Under the version that was read with the rows: the one asked for before may be older.
        self._cache.put(_key(asked, question, state), kept)
        self._metrics.cache_bytes.set(self._cache.size)
        return kept, state

    def _done(self, asked: str, task: asyncio.Task[tuple[Kept, State]]) -> None:
        work = self._working.get(asked)
        if work is not None and work.task is task:  # and not one that has taken its place
            del self._working[asked]
        if not task.cancelled():
            task.exception()  # looked at also where everybody who asked has gone

    async def _afford(self, snapshot: Snapshot, question: Question) -> None:
        cost = question.cost()
        if cost is None:
            return
        events = await snapshot.events_to_read(cost)
        if events > self._budget:
            self._metrics.failures.labels(QueryTooCostly.code).inc()
            raise QueryTooCostly(
                f"the answer would have to read {events:,} events one by one, at most {self._budget:,} are allowed: ask for a"
                " shorter range, filter by event_name or tenant_id, or raise ANALYTICS_ROW_BUDGET",
                details={"events": events, "budget": self._budget},
            )


def _identity(question: Question) -> str:
    """Equal for equal questions."""
    return f"{question.KIND} {question.model_dump_json(exclude={'format', 'kind'}, exclude_none=True)}"


def _key(asked: str, question: Question, state: State) -> str:
    settles = question.settles()
    unsettled = settles is not None and (state.watermark is None or state.watermark < settles)
    # While time alone changes an answer it is kept for the watermark's minute.
    minute = (state.watermark or state.asked_at).strftime("%Y%m%d%H%M") if unsettled else ""
    return f"{state.version} {minute} {asked}"


def _kept(question: Question, rows: Sequence[Row]) -> Kept:
    answer = question.answer(rows)
    low, high = question.touched()
    cut = [start for start, end in answer.spans if start < low or end > high]
    ends = sorted((end, start) for start, end in answer.spans if low <= start and end <= high)
    body: dict[str, Any] = {
        "kind": question.KIND,
        **{field: getattr(question, field) for field in ("from_ts", "to_ts") if field in type(question).model_fields},
        "filters": question.filters,
        **answer.fields,
        "semantics": question.semantics(),
        "approximate": answer.approximate,
        "error": answer.error,
    }
    text = orjson.dumps(body, option=orjson.OPT_UTC_Z)[:-1]
    return Kept(text, cut, ends, hashlib.sha256(text).hexdigest()[:32])


def _reply(kept: Kept, state: State, cached: bool) -> Replied:
    incomplete = [*kept.cut, *_unfinished(kept, state.watermark)]
    rest = {
        "freshness": _freshness(state.watermark, state.asked_at),
        "incomplete_buckets": sorted(incomplete),
    }
    body = b"%s,%s" % (kept.body, orjson.dumps(rest, option=orjson.OPT_UTC_Z)[1:])
    # A weak one: the freshness may differ, what was counted and how complete it is may not.
    marks = f"{kept.digest} {len(incomplete)} {min(incomplete, default='')}"
    return Replied(body, f'W/"{hashlib.sha256(marks.encode()).hexdigest()[:32]}"', cached, state.watermark)


def _freshness(watermark: datetime | None, asked_at: datetime) -> dict[str, Any]:
    # The watermark is by the consumer's clock, which may be ahead of the database's.
    age = None if watermark is None else max(0.0, (asked_at - watermark).total_seconds())
    return {"watermark": watermark, "age_seconds": age}


def _unfinished(kept: Kept, watermark: datetime | None) -> list[datetime]:
    place = 0 if watermark is None else bisect.bisect_right(kept.ends, watermark, key=lambda pair: pair[0])
    return [start for _, start in kept.ends[place:]]
