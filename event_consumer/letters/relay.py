"""Letters that the consumer made, copied to the dead letters' topic: at least once each, by as many processes as like to.

A batch is locked (SKIP LOCKED), sent, marked and committed. Where Kafka is away the transaction is given up at once, and none is
begun until a broker answers again: what was sent but not marked is sent again, under the same id.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final
from uuid import UUID

import asyncpg

from event_consumer.database import borrowed
from event_consumer.dead_letter import headers_of
from event_consumer.letters.outbox import Outbox
from event_consumer.settings import ConsumerSettings
from event_core.clock import Monotonic, monotonic
from event_core.codec import Record
from event_core.dead_letters import dead_letter_record
from event_core.errors import Unavailable
from event_core.postgres import check_schema
from event_core.sqlfiles import load_sql
from event_core.stopping import sleep
from event_core.telemetry import get_logger

log = get_logger(__name__)

ANY_UNRELAYED = load_sql("event_consumer.letters.sql", "any_unrelayed")
FIND_UNRELAYED = load_sql("event_consumer.letters.sql", "find_unrelayed")
MARK_RELAYED = load_sql("event_consumer.letters.sql", "mark_relayed")

BATCH_LETTERS: Final = 100
BATCH_BYTES: Final = 4 << 20
IDLE_SECONDS: Final = 1.0
"""How long it waits where nothing is to be done."""
LONGEST_BACKOFF_SECONDS: Final = 10.0
STOP_SECONDS: Final = 3.0
"""How long a batch may take to end once the process was asked to."""
CANCEL_SECONDS: Final = 2.0
SKIP_SECONDS: Final = 600.0
"""How long a letter is left alone that the topic does not take at all: its limit may be raised meanwhile."""
MOST_SKIPPED: Final = 10_000


class Relay:
    """``dead_letters`` with ``relayed_at`` null, to ``DLQ_TOPIC``."""

    def __init__(self, pool: asyncpg.Pool, settings: ConsumerSettings, *, clock: Monotonic = monotonic) -> None:
        self._pool = pool
        self._settings = settings
        self._clock = clock
        self._outbox = Outbox(settings)
        self._skipped: dict[UUID, float] = {}
        self.relayed = 0
        """How many letters were sent and marked."""
        self.problem: str | None = None
        """What it waits for, or None."""

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until ``stop`` is set, then ends within ``STOP_SECONDS`` and a little more.

        Raises:
            Exception: a fault that waiting does not mend.
        """
        working = asyncio.create_task(self._work(stop))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await asyncio.wait({working}, timeout=STOP_SECONDS)
        finally:
            stopping.cancel()
            if working.done():
                await self._outbox.close()
            else:  # a server that is frozen holds up even the cancellation: it is left behind, its transaction with it
                working.cancel()
                await asyncio.wait({working}, timeout=CANCEL_SECONDS)
                await self._outbox.leave()
        if working.done() and not working.cancelled():
            working.result()

    async def _work(self, stop: asyncio.Event) -> None:
        backoff = 0.2
        while not stop.is_set():
            try:
                sent = await self.once()
            except Unavailable as error:
                if self.problem is None:
                    log.warning("dead letters wait to be relayed", problem=error.message)
                self.problem = error.message
                await sleep(backoff * random.uniform(0.7, 1.3), stop)  # noqa: S311  # jitter, no secret
                backoff = min(LONGEST_BACKOFF_SECONDS, backoff * 2)
                continue
            if self.problem is not None:
                log.info("dead letters are relayed again")
            self.problem, backoff = None, 0.2
            if not sent:
                await sleep(IDLE_SECONDS * random.uniform(0.7, 1.3), stop)  # noqa: S311  # jitter, no secret

    async def once(self) -> int:
        """Relays one batch; returns how many letters of it the topic has now.

        Raises:
            BrokerUnavailable, DatabaseUnavailable: none of it is marked.
        """
        if not await self._anything():
            return 0
        await self._outbox.ready()  # with no transaction open: it may take long
        async with borrowed(self._pool, self._settings) as connection, connection.transaction():
            rows = await connection.fetch(FIND_UNRELAYED, BATCH_LETTERS, BATCH_BYTES, list(self._skipped))
            if not rows:
                return 0
            async with self._outbox.in_time(len(rows)):
                refused = await self._outbox.send_letters(
                    self._settings.dlq_topic, len(rows), lambda place, max_bytes: _record(rows[place], max_bytes)
                )
            done = [row["dead_letter_id"] for place, row in enumerate(rows) if place not in refused]
            await connection.execute(MARK_RELAYED, done)
        for place, why in refused.items():
            self._skip(rows[place], why)
        self.relayed += len(done)
        return len(done)

    async def _anything(self) -> bool:
        now = self._clock()
        self._skipped = {letter: until for letter, until in self._skipped.items() if until > now}
        async with borrowed(self._pool, self._settings) as connection:
            await check_schema(connection)
            return bool(await connection.fetchval(ANY_UNRELAYED, list(self._skipped)))

    def _skip(self, row: asyncpg.Record, why: str) -> None:
        log.error(
            "the dead letters' topic does not take a letter; it stays in the table",
            dead_letter_id=str(row["dead_letter_id"]),
            problem=why,
        )
        if len(self._skipped) < MOST_SKIPPED:
            self._skipped[row["dead_letter_id"]] = self._clock() + SKIP_SECONDS


def _record(row: asyncpg.Record, max_bytes: int) -> Record:
    return dead_letter_record(
        row["value"] or b"",
        topic=row["topic"],
        reason=row["reason"],
        error=row["error"],
        stage=row["stage"],
        source=row["source"],
        failed_at=row["failed_at"],
        retry_count=row["retry_count"],
        key=row["key"],
        headers=headers_of(row["headers"]),
        partition=row["partition"],
        offset=row["offset"],
        dead_letter_id=row["dead_letter_id"],
        max_bytes=max_bytes,
        stub=row["stub"],
    )
