"""What is stored, second by second, for everybody who looks on: the messages of server-sent events (WHATWG HTML, 9.2).

One poller serves all listeners of the process, and only while there are some: the database is asked once a second, however many
they are. A listener that reads too slowly loses messages and is told how many; it never makes others wait, nor costs memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from analytics_service.questions.base import Row
from event_core.errors import Overloaded, PlatformError, Unavailable
from event_core.sqlfiles import load_sql
from event_core.stopping import sleep, until_stopped
from event_core.telemetry import get_logger

log = get_logger(__name__)

LIVE_COUNTS = load_sql("analytics_service.sql", "live_counts")
LIVE_EVENTS = load_sql("analytics_service.sql", "live_events")

EVERY_SECONDS = 1.0
MAX_LISTENERS = 100
MAX_WAITING = 32
"""Messages that may wait for one listener: about 16 seconds."""
MAX_SHOWN = 20
"""Events of one message."""
LOOKED_AT = 200
"""Newest events that are looked through for new ones. More than are shown: events from clocks that run ahead stay on top for a
while, and must not hide what is new."""
LOOK_BACK = timedelta(minutes=10)
LATE_SECONDS = 5.0
"""After so long without an answer of the database listeners are told."""
RETRY_MILLISECONDS = 3_000
"""After so long a browser connects again."""

Topic = str | None
"""A tenant; None: all of them."""
Fetch = Callable[..., Awaitable[Sequence[Row]]]
"""(name for the metrics, statement, arguments …) to rows; raises PlatformError."""


class Pulse(NamedTuple):
    """What the database says at one moment. Every topic asked for is in both mappings."""

    asked_at: datetime
    watermark: datetime | None
    stored: Mapping[Topic, int]
    """Events ever stored."""
    newest: Mapping[Topic, Sequence[Row]]
    """The newest events by timestamp, newest first."""


Ask = Callable[[Collection[Topic]], Awaitable[Pulse]]


def asker(fetch: Fetch) -> Ask:
    """Asks through ``fetch``."""

    async def ask(topics: Collection[Topic]) -> Pulse:
        tenants = sorted(topic for topic in topics if topic is not None)
        counts = await fetch("live_counts", LIVE_COUNTS, tenants)
        asked_at = counts[0]["asked_at"]
        newest: dict[Topic, list[Row]] = {topic: [] for topic in topics}
        if None in topics:
            newest[None] = list(await fetch("live_events", LIVE_EVENTS, asked_at - LOOK_BACK, LOOKED_AT, None))
        if tenants:
            for row in await fetch("live_events", LIVE_EVENTS, asked_at - LOOK_BACK, LOOKED_AT, tenants):
                newest[row["tenant_id"]].append(row)
        return Pulse(asked_at, counts[0]["watermark"], {row["tenant_id"]: row["stored"] for row in counts}, newest)

    return ask


class Listener:
    """One connection's messages that wait to be sent."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._ended = False
        self._news = asyncio.Event()

    def tell(self, message: bytes) -> None:
        """The newest messages are the ones worth keeping."""
        if len(self._waiting) == MAX_WAITING:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(message)
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def messages(self) -> AsyncGenerator[bytes]:
        """Until the end."""
        yield b"retry: %d\n\n" % RETRY_MILLISECONDS
        while not self._ended:
            if self._lost:
                lost, self._lost = self._lost, 0
                yield message_of("lost", {"messages": lost})
            elif self._waiting:
                yield self._waiting.popleft()
            else:
                self._news.clear()
                await self._news.wait()


class _Seen:
    """What the listeners of one topic know."""

    def __init__(self) -> None:
        self.stored = 0
        self.asked_at: datetime | None = None
        self.shown: frozenset[UUID] = frozenset()
        self.greeting: list[bytes] = []
        """For one who joins now: the last counts and the newest events, all of them shown."""


class Live:
    """Those who listen, and the poller that serves them. ``stop`` is set when the process is asked to end: then every stream ends
    at once, as the server waits for open requests."""

    def __init__(
        self, ask: Ask, stop: asyncio.Event, *, every: float = EVERY_SECONDS, late: float = LATE_SECONDS
    ) -> None:
        self._ask = ask
        self._stop = stop
        self._every = every
        self._late = late
        self._listeners: set[Listener] = set()
        self._seen: dict[Topic, _Seen] = {}
        self._problem: bytes | None = None
        self._poller: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._listeners)

    @property
    def polling(self) -> bool:
        """Whether the database is being asked."""
        return self._poller is not None and not self._poller.done()

    def join(self, topic: Topic) -> Listener:
        """A listener, who must ``leave``.

        Raises:
            Overloaded: there are as many as there may be, or the process is about to end.
        """
        if self._stop.is_set():
            raise Overloaded("the service is about to end: connect again", retry_after=3)
        if len(self._listeners) >= MAX_LISTENERS:
            raise Overloaded(
                f"{MAX_LISTENERS} others are listening, which is the limit: try again later", retry_after=30
            )
        listener = Listener(topic)
        known = self._seen.get(topic)
        for message in known.greeting if known else ():
            listener.tell(message)
        if self._problem is not None:
            listener.tell(self._problem)
        self._listeners.add(listener)
        if not self.polling:
            self._poller = asyncio.create_task(self._poll())
        return listener

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    async def close(self) -> None:
        """Ends every stream and the poller, before what it asks with closes."""
        self._end_all()
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait({self._poller})

    def _end_all(self) -> None:
        for listener in self._listeners:
            listener.end()

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._listeners and not self._stop.is_set():
                began = loop.time()
                topics = {listener.topic for listener in self._listeners}
                late = loop.call_later(self._late, self._trouble, Unavailable("the database does not answer"))
                try:
                    asking = await until_stopped(self._asked(topics), self._stop, give_up=1.0)
                finally:
                    late.cancel()
                if asking is not None and (pulse := asking.result()) is not None:
                    self._problem = None
                    self._spread(pulse)
                await sleep(max(0.0, began + self._every - loop.time()), self._stop)
        finally:
            # Whoever listens next begins anew: what was seen is old by then.
            self._seen.clear()
            self._problem = None
            if self._stop.is_set():
                self._end_all()

    async def _asked(self, topics: Collection[Topic]) -> Pulse | None:
        try:
            return await self._ask(topics)
        except PlatformError as error:
            self._trouble(error)
        except Exception as error:  # the stream must go on, whatever it was: the next second may do better
            log.error("the live view failed unexpectedly", exc_info=error)
            self._trouble(PlatformError("an unexpected error; the service's log has it"))
        return None

    def _trouble(self, error: PlatformError) -> None:
        """Tells everybody, once."""
        if self._problem is not None:
            return
        problem = {"error_code": error.code, "error_message": error.message, "retryable": True}
        self._problem = message_of("problem", problem)
        for listener in self._listeners:
            listener.tell(self._problem)

    def _spread(self, pulse: Pulse) -> None:
        # One whose listener came back while the database was asked is still known to that listener.
        wanted = {listener.topic for listener in self._listeners}
        self._seen = {topic: known for topic, known in self._seen.items() if topic in wanted}
        told: dict[Topic, list[bytes]] = {}
        for topic in wanted & pulse.newest.keys():
            stored = pulse.stored[topic]
            known = self._seen.setdefault(topic, _Seen())
            newest = pulse.newest[topic]
            new = [row for row in newest if row["event_id"] not in known.shown][:MAX_SHOWN]
            counts = message_of("counts", _counts(topic, stored, known, pulse), pulse.asked_at)
            told[topic] = [counts, *_events(new, pulse)]
            known.stored, known.asked_at = stored, pulse.asked_at
            known.shown = frozenset(row["event_id"] for row in newest)
            known.greeting = [counts, *_events(newest[:MAX_SHOWN], pulse)]
        for listener in self._listeners:
            # One who joined while the database was asked waits for the next second.
            for message in told.get(listener.topic, ()):
                listener.tell(message)


def _counts(topic: Topic, stored: int, known: _Seen, pulse: Pulse) -> dict[str, Any]:
    seconds = (pulse.asked_at - known.asked_at).total_seconds() if known.asked_at else 0.0
    # Where a partition's row was made anew, the total falls.
    rate = round(max(0, stored - known.stored) / seconds, 1) if seconds > 0 else None
    age = None if pulse.watermark is None else max(0.0, (pulse.asked_at - pulse.watermark).total_seconds())
    return {
        "tenant_id": topic,
        "stored_total": stored,
        "per_second": rate,
        "freshness": {"watermark": pulse.watermark, "age_seconds": age},
        "asked_at": pulse.asked_at,
    }


_SHOWN = (
    "tenant_id",
    "user_id",
    "event_name",
    "timestamp",
    "received_at",
    "processed_at",
    "source",
    "experiment_id",
    "variant",
)
"""Not metadata and context: 256 KiB of them per event are possible."""


def _events(rows: Sequence[Row], pulse: Pulse) -> list[bytes]:
    if not rows:
        return []
    events = [{"event_id": str(row["event_id"]), **{column: row[column] for column in _SHOWN}} for row in rows]
    return [message_of("events", {"events": events}, pulse.asked_at)]


def message_of(event: str, data: Mapping[str, Any], at: datetime | None = None) -> bytes:
    """A server-sent event; its id is the time in microseconds since 1970. JSON has no line breaks but escaped ones."""
    number = b"" if at is None else b"id: %d\n" % ((at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))
    return b"%sevent: %s\ndata: %s\n\n" % (number, event.encode(), orjson.dumps(data, option=orjson.OPT_UTC_Z))
