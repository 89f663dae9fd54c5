"""Letters sent again, oldest first: what was a message to its topic, what a client sent through the door.

Each letter is locked while it is sent and marked, so two replays at once never send the same one (SKIP LOCKED), and one that was
interrupted is simply run again. A crash between sending and marking sends a letter twice: the event_id makes that harmless.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from event_consumer.database import borrowed
from event_consumer.dead_letter import headers_of
from event_consumer.letters.door import Door
from event_consumer.letters.errors import CannotReplay
from event_consumer.letters.outbox import Outbox
from event_consumer.letters.plan import Letter, ReplayOptions, ToDoor, ToTopic, plan, was_record
from event_consumer.letters.selection import SELECTED, Cursor, Selection
from event_core.clock import utc_now
from event_core.dead_letters import storable_text
from event_core.errors import Unavailable
from event_core.postgres import Connection, check_schema
from event_core.settings import PostgresSettings
from event_core.sqlfiles import load_sql

NEXT_LETTERS = load_sql("event_consumer.letters.sql", "next_letters", selected=SELECTED)
LOCK_LETTERS = load_sql("event_consumer.letters.sql", "lock_letters")
MARK_REPLAYED = load_sql("event_consumer.letters.sql", "mark_replayed")
MARK_ACCEPTED = load_sql("event_consumer.letters.sql", "mark_accepted")
MARK_REFUSED = load_sql("event_consumer.letters.sql", "mark_refused")
NOW = load_sql("event_consumer.letters.sql", "now")

BATCH_LETTERS: Final = 100
BATCH_BYTES: Final = 8 << 20
BUSY_TRIES: Final = 3
BUSY_SECONDS: Final = 0.5
BUSY_LETTERS: Final = 8
"""How many of those are tried at once: they may be large."""
MOST_BUSY: Final = 1_000
MOST_EXAMPLES: Final = 100
"""Letters left out that are named; beyond, they are only counted."""


@dataclass
class Outcome:
    """What became of the letters that were meant."""

    sent: Counter[str] = field(default_factory=Counter)
    """To a topic, by its name; the consumer settles them."""
    accepted: int = 0
    """Taken by the door: resolved."""
    refused: Counter[str] = field(default_factory=Counter)
    """Refused by the door once more, by reason: open, with the new reason."""
    discarded: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Not sent, by why."""
    examples: list[tuple[UUID, str]] = field(default_factory=list)
    """Letters that were left out, and why."""
    visited: set[UUID] = field(default_factory=set)
    """Of letters that were named by id: those that were looked at."""
    busy: int = 0
    """Somebody else was working on them, or changed them meanwhile."""
    problem: Unavailable | None = None
    """What ended the work early."""
    complete: bool = True
    """Whether every letter that was meant was looked at."""

    @property
    def done(self) -> int:
        return self.sent.total() + self.accepted + self.refused.total() + self.discarded

    @property
    def seen(self) -> int:
        """How many letters were found."""
        return self.done + self.left_out.total() + self.busy

    def leave_out(self, letter: UUID, why: str) -> None:
        self.left_out[why] += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append((letter, why))


Progress = Callable[[Outcome], None]


class Walk:
    """The letters of a selection in batches, the earliest first, each seen once: none that changed since the walk began."""

    def __init__(self, pool: asyncpg.Pool, settings: PostgresSettings, selection: Selection) -> None:
        self._pool = pool
        self._settings = settings
        self._selection = selection
        self._cursor: Cursor | None = None
        self.began: datetime | None = None

    async def begin(self) -> datetime:
        """The database's time. Raises DatabaseUnavailable."""
        async with borrowed(self._pool, self._settings) as connection:
            await check_schema(connection)
            began: datetime = await connection.fetchval(NOW)
        self.began = began
        return began

    async def next(self, most: int) -> list[asyncpg.Record]:
        """At most ``most`` letters, and about BATCH_BYTES; none at the end. Raises DatabaseUnavailable."""
        after = self._cursor or (None, None)
        async with borrowed(self._pool, self._settings) as connection:
            rows = await connection.fetch(NEXT_LETTERS, *self._selection.parameters(), *after, most, self.began)
        taken: list[asyncpg.Record] = []
        size = 0
        for row in rows:
            size += row["bytes"]
            if taken and size > BATCH_BYTES:
                break
            taken.append(row)
        if taken:
            self._cursor = Cursor(taken[-1]["failed_at"], taken[-1]["dead_letter_id"])
        return taken


class Replayer:
    """One replay."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        settings: PostgresSettings,
        outbox: Outbox,
        door: Door,
        selection: Selection,
        options: ReplayOptions,
        progress: Progress | None = None,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._outbox = outbox
        self._door = door
        self._selection = selection
        self._options = options
        self._note = None if options.note is None else storable_text(options.note)
        self._progress = progress or (lambda _: None)
        self._outcome = Outcome()
        self._began: datetime | None = None
        self._busy: list[UUID] = []

    async def run(self) -> Outcome:
        """What was done; ``problem`` says what ended it early."""
        outcome = self._outcome
        walk = Walk(self._pool, self._settings, self._selection)
        try:
            self._began = await walk.begin()
            while room := self._room():
                if self._late():
                    outcome.complete = False
                    break
                rows = await walk.next(min(room, BATCH_LETTERS))
                if not rows:
                    break
                messages = any(was_record(row["partition"], row["stage"]) for row in rows)
                await self._batch([row["dead_letter_id"] for row in rows], messages=messages)
                self._progress(outcome)
            else:
                outcome.complete = not await walk.next(1)
            await self._once_more()
        except Unavailable as error:
            outcome.problem, outcome.complete = error, False
        return outcome

    def _room(self) -> int:
        limit = self._options.limit
        return BATCH_LETTERS if limit is None else max(0, limit - self._outcome.done)

    def _late(self) -> bool:
        deadline = self._options.deadline
        return deadline is not None and utc_now() >= deadline

    async def _once_more(self) -> None:
        """Tries again what was locked: by another replay, which sends it, or by the relay, which is done at once."""
        for _ in range(BUSY_TRIES):
            if not self._busy or self._late():
                break
            await asyncio.sleep(BUSY_SECONDS)
            waiting, self._busy = self._busy, []
            self._outcome.busy -= len(waiting)
            while waiting and (room := self._room()):
                most = min(BUSY_LETTERS, room)
                await self._batch(waiting[:most], messages=True)
                del waiting[:most]
            self._note_busy(waiting)

    def _note_busy(self, ids: Collection[UUID]) -> None:
        self._outcome.busy += len(ids)
        self._busy += list(ids)[: MOST_BUSY - len(self._busy)]

    async def _batch(self, ids: Sequence[UUID], *, messages: bool) -> None:
        """``messages``: whether some of them go to a topic."""
        if self._selection.ids is not None:
            self._outcome.visited.update(ids)
        if not self._options.dry_run and messages:
            await self._outbox.ready()  # with nothing locked: it may take long
        async with borrowed(self._pool, self._settings) as connection, connection.transaction():
            plans = await self._locked(connection, ids)
            await self._to_topics(connection, [found for found in plans if isinstance(found, ToTopic)])
        for found in plans:
            if isinstance(found, ToDoor):
                if self._late():
                    self._outcome.complete = False
                    return
                await self._to_door(found)

    async def _locked(self, connection: Connection, ids: Sequence[UUID]) -> list[ToTopic | ToDoor]:
        """What is to be done with each, locked until the transaction's end; the rest is counted."""
        state = self._selection.parameters()[0]
        rows = await connection.fetch(LOCK_LETTERS, ids, state, self._began)
        self._note_busy({*ids} - {row["dead_letter_id"] for row in rows})
        plans = []
        for row in rows:
            if row["state"] == "resolved":
                self._outcome.leave_out(row["dead_letter_id"], "its event is stored already")
                continue
            try:
                plans.append(plan(_letter(row), self._options))
            except CannotReplay as error:
                self._outcome.leave_out(row["dead_letter_id"], error.message)
        return plans

    async def _to_topics(self, connection: Connection, plans: Sequence[ToTopic]) -> None:
        if not plans or self._options.dry_run:
            self._outcome.sent.update(found.outgoing.topic for found in plans)
            return
        async with self._outbox.in_time(len(plans)):
            refused = await self._outbox.send([found.outgoing for found in plans])
        sent = [found for place, found in enumerate(plans) if place not in refused]
        await connection.execute(MARK_REPLAYED, [found.letter.dead_letter_id for found in sent], self._note)
        self._outcome.sent.update(found.outgoing.topic for found in sent)
        for place, why in refused.items():
            self._outcome.leave_out(plans[place].letter.dead_letter_id, why)

    async def _to_door(self, found: ToDoor) -> None:
        if self._options.dry_run:
            self._outcome.accepted += 1
            return
        letter = found.letter.dead_letter_id
        async with borrowed(self._pool, self._settings) as connection, connection.transaction():
            if not await connection.fetch(LOCK_LETTERS, [letter], self._selection.parameters()[0], self._began):
                self._note_busy([letter])
                return
            refused = await self._door.send(found.request)
            if refused is None:
                await connection.execute(MARK_ACCEPTED, letter, self._note)
            else:
                await connection.execute(MARK_REFUSED, letter, *refused, found.value, self._note)
        if refused is None:
            self._outcome.accepted += 1
        else:
            self._outcome.refused[refused.reason] += 1
        self._progress(self._outcome)


def _letter(row: Any) -> Letter:
    return Letter(
        row["dead_letter_id"],
        row["topic"],
        row["partition"],
        row["key"],
        row["value"],
        headers_of(row["headers"]),
        row["reason"],
        row["stage"],
        row["event_id"],
        row["stub"],
        row["retry_count"],
    )
