"""Up to when everything is stored, although nothing new comes: about every second the time is noted at which Kafka was asked
where the logs end, once all before these ends is stored.

It is the time before the question, never that of the answer or of the note: a broker that is frozen or cut off makes nothing
look fresh, and where no consumer runs the times stand still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg

from event_consumer.progress import Progress
from event_core.clock import Clock, Monotonic, monotonic, utc_now
from event_core.errors import BrokerUnavailable
from event_core.postgres import CONNECTION_ERRORS
from event_core.source import Logs
from event_core.sqlfiles import load_sql
from event_core.stopping import sleep, until_stopped
from event_core.telemetry import get_logger
from event_core.topics import TopicPartition

log = get_logger(__name__)

NOTE_CAUGHT_UP = load_sql("event_consumer.events.sql", "note_caught_up")

INTERVAL_SECONDS = 1.0
REST_SECONDS = 0.1
"""The least rest, where the answers take as long as the interval."""
GIVE_UP_SECONDS = 1.0


class CaughtUp(NamedTuple):
    """Everything that Kafka held of ``partition`` at the time ``at`` is stored, as it is before ``next_offset``."""

    partition: TopicPartition
    next_offset: int
    at: datetime


Note = Callable[[Sequence[CaughtUp]], Awaitable[Collection[TopicPartition]]]
"""Keeps what it is told, and returns the partitions for which it could."""

Logbook = Callable[[Iterable[TopicPartition]], Awaitable[Logs]]
"""What logs hold now: ``Source.logs``."""


class _Asked(NamedTuple):
    at: datetime
    end: int


class Freshness:
    """Follows ``progress``, and tells ``note`` of each partition that is ours up to when it is stored."""

    def __init__(
        self,
        progress: Progress,
        note: Note,
        *,
        interval: float = INTERVAL_SECONDS,
        clock: Clock = utc_now,
        now: Monotonic = monotonic,
    ) -> None:
        """``interval`` in seconds."""
        self._progress = progress
        self._note = note
        self._interval = interval
        self._clock = clock
        self._now = now
        self._logs: Logbook | None = None
        self._asked: dict[TopicPartition, list[_Asked]] = {}
        """The first and the last question that wait for their end to be stored: under a steady flow that of the last never is."""

    def ask_of(self, logs: Logbook) -> None:
        """``logs`` tells from now on where logs end; nothing is asked before."""
        self._logs = logs

    async def run(self, stop: asyncio.Event) -> None:
        """Looks until ``stop`` is set. Outages of Kafka and of PostgreSQL are waited out."""
        away = False
        while not stop.is_set():
            began = self._now()
            looking = await until_stopped(self.look(), stop, give_up=GIVE_UP_SECONDS)
            if looking is None:
                return
            try:
                looking.result()
                away = False
            except (BrokerUnavailable, asyncpg.PostgresError, *CONNECTION_ERRORS) as error:
                if not away:
                    log.warning("the watermark stands still until Kafka and PostgreSQL answer", problem=repr(error))
                away = True
            await sleep(max(REST_SECONDS, self._interval - (self._now() - began)), stop)

    async def look(self) -> None:
        """Asks where logs end, and notes what is stored up to where they ended.

        Raises:
            BrokerUnavailable: Kafka does not answer.
            asyncpg.PostgresError, CONNECTION_ERRORS: PostgreSQL does not.
        """
        ours = self._progress.known
        self._asked = {partition: asked for partition, asked in self._asked.items() if partition in ours}
        try:
            await self._ask()
        except BrokerUnavailable:
            await self._tell()  # of what was asked before
            raise
        await self._tell()

    async def _ask(self) -> None:
        before = self._progress.known
        if self._logs is None or not before:
            return
        at = self._clock()
        logs = await self._logs(before)
        for partition, stored in before.items():
            end = logs.of[partition].end
            if end >= stored:  # else it is not the log that was read, as the loop is about to find
                self._asked[partition] = [*self._asked.get(partition, ())[:1], _Asked(at, end)]

    async def _tell(self) -> None:
        ours = self._progress.known
        found = [
            CaughtUp(partition, ours[partition], max(answered))
            for partition, asked in sorted(self._asked.items())
            if partition in ours and (answered := [each.at for each in asked if each.end <= ours[partition]])
        ]
        if not found:
            return
        noted = await self._note(found)
        for partition, _, at in found:
            if partition in noted:
                self._asked[partition] = [each for each in self._asked[partition] if each.at > at]


def noted_by(pool: asyncpg.Pool, group: str) -> Note:
    """Keeps it with the offsets of the consumer ``group``, where these have not moved."""

    async def note(found: Sequence[CaughtUp]) -> Collection[TopicPartition]:
        async with pool.acquire() as connection:
            rows = await connection.fetch(
                NOTE_CAUGHT_UP,
                group,
                [each.partition.topic for each in found],
                [each.partition.partition for each in found],
                [each.next_offset for each in found],
                [each.at for each in found],
            )
        return [TopicPartition(topic, partition) for topic, partition in rows]

    return note
