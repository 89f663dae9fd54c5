"""One session to Kafka, kept: opened, watched, left, opened again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from event_core.codec import Record
from event_core.errors import BrokerUnavailable
from event_core.kafka.producer import ProducerSession
from event_core.kafka.topics import connected, ensure_topics, platform_topics
from event_core.telemetry import get_logger
from ingestion_service.settings import IngestionSettings

log = get_logger(__name__)

TICK_SECONDS = 1.0
PING_TICKS = 5
"""An idle session is asked this often, in ticks; one that does not answer twice in a row is given up."""
PING_SECONDS = 3.0
OPEN_SECONDS = 60.0
"""What opening a session may take in all; the client library has no such bound."""
CLOSE_SECONDS = 5.0
LEAVE_SECONDS = 7.0
YOUNG_SECONDS = 0.2
"""A session that was lost so soon is not followed by the next one at once."""


class Session(Protocol):
    """A connected producer: see event_core.kafka.producer."""

    @property
    def alive(self) -> bool: ...
    def known_partitions(self, topic: str) -> int: ...
    async def send(
        self, topic: str, partition: int, records: Sequence[Record], *, seconds: float, limit: int = ...
    ) -> int: ...
    async def ping(self) -> None: ...
    async def close(self) -> None: ...
    async def abandon(self) -> None: ...


class Opened(NamedTuple):
    """A session and what it found: partitions, and the largest message in bytes, by topic."""

    session: Session
    partitions: dict[str, int]
    limits: dict[str, int]


Connect = Callable[[Iterable[str]], Awaitable[Opened]]
"""Opens a session; is given topics to look up beside the platform's own. Raises BrokerUnavailable."""


def connect_to(settings: IngestionSettings) -> Connect:
    """How the settings say to connect."""

    async def connect(more: Iterable[str]) -> Opened:
        specs = platform_topics(settings)
        limits = await ensure_topics(settings, specs)
        session = await ProducerSession.open(
            settings, acks=settings.kafka_acks, compression=settings.kafka_compression_type
        )
        try:
            partitions = {spec.name: await session.partitions(spec.name) for spec in specs}
            for topic in set(more) - partitions.keys():
                try:
                    partitions[topic] = await session.partitions(topic)
                except BrokerUnavailable as error:
                    log.warning("events on disk wait for a topic that does not exist", problem=error.message)
        except BaseException:
            await session.abandon()
            raise
        return Opened(session, partitions, limits)

    return connect


class Link:
    """``session`` is the one to use now, or None with ``problem`` saying why."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Opened]],
        *,
        on_open: Callable[[Opened], None],
        on_lost: Callable[[], None],
        on_tick: Callable[[], Awaitable[None]],
        on_failure: Callable[[BaseException], None] | None,
    ) -> None:
        """``on_failure`` is told where no connection can ever be made, as with an address that is none."""
        self.session: Session | None = None
        self.problem = "the connection to Kafka is being made"
        self._connect = connect
        self._on_open = on_open
        self._on_lost = on_lost
        self._on_tick = on_tick
        self._on_failure = on_failure
        self._partitions: dict[str, int] = {}
        self._trouble = asyncio.Event()
        self._first = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connects in the background, for as long as it takes."""
        self._keeper = asyncio.create_task(self._keep())
        self._ticker = asyncio.create_task(self._tick())
        for task in (self._keeper, self._ticker):
            task.add_done_callback(self._ended)

    async def opened(self, seconds: float) -> bool:
        """Whether there is a session within ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._first.wait()
        return self._first.is_set()

    async def stop(self, *, orderly: bool) -> None:
        """Leaves Kafka; ``orderly`` where nothing is in flight."""
        for task in (self._keeper, self._ticker):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        if self._leaving is not None:
            await asyncio.wait({self._leaving}, timeout=LEAVE_SECONDS)
        session, self.session = self.session, None
        if session is not None:
            if orderly:
                try:
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await session.close()
                    return
                except Exception as error:  # its time is over, or one of its tasks had died: nothing was in flight
                    log.warning("the producer could not be closed in order", problem=repr(error))
            await session.abandon()

    def lose(self, session: Session, problem: str) -> None:
        """Gives ``session`` up: it is not used from now on, and another one is opened. Idempotent per session."""
        if session is not self.session:
            return
        self.session = None
        self.problem = problem
        log.warning("the producer is given up", problem=problem)
        self._on_lost()
        # At once, and a task of its own: whoever ends us meanwhile must not leave a producer that goes on sending.
        self._leaving = asyncio.create_task(session.abandon())
        self._trouble.set()

    async def probe(self) -> None:
        """Gives the session up where Kafka is certainly away. One that is only slow is left to the batches' own deadline."""
        session = self.session
        if session is not None and await _ask(session) is Answer.REFUSED:
            self.lose(session, "Kafka does not answer")

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        if self.session is not None:
            self.lose(self.session, f"no connection to Kafka can be kept: {error!r}")
        self.problem = f"no connection to Kafka can be made: {error!r}"
        log.error("the publisher ended", exc_info=error)
        if self._on_failure is not None:
            self._on_failure(error)

    async def _keep(self) -> None:
        while True:
            opened = await connected(self._open, self._note)
            self._trouble.clear()
            self._partitions = opened.partitions
            self.session = opened.session
            log.info("connected to Kafka", partitions=opened.partitions)
            self._on_open(opened)
            self._first.set()
            began = asyncio.get_running_loop().time()
            await self._trouble.wait()
            assert self._leaving is not None
            await asyncio.wait({self._leaving})
            if asyncio.get_running_loop().time() - began < YOUNG_SECONDS:
                await asyncio.sleep(YOUNG_SECONDS / 4)

    async def _open(self) -> Opened:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                return await self._connect()
        except TimeoutError as error:
            raise BrokerUnavailable(f"Kafka did not answer within {OPEN_SECONDS:g} s") from error

    def _note(self, problem: str) -> None:
        self.problem = problem

    async def _tick(self) -> None:
        ticks, silent = 0, 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            ticks += 1
            session = self.session
            if session is not None:
                self._watch(session)
                if ticks % PING_TICKS == 0:
                    silent = 0 if await _ask(session) is Answer.UP else silent + 1
                    if silent > 1:
                        self.lose(session, "Kafka does not answer")
                        silent = 0
            try:
                await self._on_tick()
            except OSError as problem:  # for instance too many open files: it passes, and events can still be taken
                log.warning("the publisher could not look after itself; it tries again", problem=str(problem))

    def _watch(self, session: Session) -> None:
        """Gives a session up whose sender task died (every later send would fail), or that knows other partitions now."""
        if not session.alive:
            self.lose(session, "the producer's sender task has ended")
            return
        for topic, partitions in self._partitions.items():
            if session.known_partitions(topic) not in (0, partitions):
                self.lose(session, f"the number of partitions of topic {topic} has changed")
                return


class Answer(Enum):
    UP = "up"
    REFUSED = "refused"
    SILENT = "silent"


async def _ask(session: Session) -> Answer:
    asking = asyncio.create_task(session.ping())
    await asyncio.wait({asking}, timeout=PING_SECONDS)
    if not asking.done():
        asking.cancel()
        return Answer.SILENT
    return Answer.UP if not asking.cancelled() and asking.exception() is None else Answer.REFUSED
