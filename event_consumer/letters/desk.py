"""What people do with dead letters: list, show, replay, discard. For the command and for HTTP alike."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
from pydantic import BaseModel, Field

from event_consumer.database import borrowed
from event_consumer.dead_letter import headers_of
from event_consumer.letters.door import Door
from event_consumer.letters.errors import BadSelection, NoSuchLetter
from event_consumer.letters.outbox import Outbox
from event_consumer.letters.plan import ReplayOptions
from event_consumer.letters.replay import Outcome, Progress, Replayer, Walk
from event_consumer.letters.selection import ANY_STATE, SELECTED, Cursor, Selection
from event_consumer.settings import ConsumerSettings
from event_core.dead_letters import storable_text
from event_core.errors import Unavailable
from event_core.postgres import check_schema
from event_core.sqlfiles import load_sql

LIST_LETTERS = load_sql("event_consumer.letters.sql", "list_letters", selected=SELECTED)
COUNT_LETTERS = load_sql("event_consumer.letters.sql", "count_letters", selected=SELECTED)
FIND_STATES = load_sql("event_consumer.letters.sql", "find_states")
SHOW_LETTER = load_sql("event_consumer.letters.sql", "show_letter")
DISCARD_LETTERS = load_sql("event_consumer.letters.sql", "discard_letters")

MOST_LISTED: Final = 1_000
BATCH_LETTERS: Final = 1_000


class Summary(BaseModel):
    """A letter in a list."""

    dead_letter_id: UUID
    state: str = Field(description="open, replayed (sent again, not settled yet), resolved or discarded")
    state_at: datetime = Field(description="Since when")
    failed_at: datetime
    reason: str
    error: str = Field(description="The reason, for people")
    topic: str = Field(description="Where it came from, or was meant for")
    partition: int | None = Field(description="null where it never was in a topic")
    offset: int | None
    source: str = Field(description="The service that gave up")
    stage: str = Field(description="VALUE_CONVERTER, KAFKA_PRODUCE or TASK_PUT (the store)")
    event_id: UUID | None
    tenant_id: str | None
    retry_count: int = Field(description="How often it was replayed")
    stub: bool = Field(description="The original was too large: only its beginning is kept")
    bytes: int | None = Field(description="Of the value; null where there is none")
    relayed_at: datetime | None = Field(description="Since when DLQ_TOPIC has it; null: not yet")
    note: str | None


class Content(BaseModel):
    """Bytes as they can be shown."""

    encoding: str = Field(description="utf-8, or base64 where they are no text")
    data: str


class LetterHeader(BaseModel):
    name: str
    value: Content | None


class Full(Summary):
    """All of a letter."""

    message_at: datetime | None = Field(description="The message's own time in Kafka")
    key: Content | None
    value: Content | None = Field(description="The original bytes")
    headers: list[LetterHeader]


class Page(NamedTuple):
    letters: list[Summary]
    after: Cursor | None
    """Where the next page begins; None at the end."""


class Desk:
    """Every method raises DatabaseUnavailable where PostgreSQL is away."""

    def __init__(self, pool: asyncpg.Pool, settings: ConsumerSettings) -> None:
        self._pool = pool
        self._settings = settings

    @property
    def topics(self) -> Sequence[str]:
        """Where messages may be replayed to."""
        return (self._settings.kafka_topic, self._settings.kafka_product_topic)

    async def list(self, selection: Selection, *, limit: int = 50, after: Cursor | None = None) -> Page:
        """The latest letters first, at most ``limit``."""
        if not 0 < limit <= MOST_LISTED:
            raise BadSelection(f"limit is 1 to {MOST_LISTED}")
        async with borrowed(self._pool, self._settings) as connection:
            await check_schema(connection)
            place = after or (None, None)
            rows = await connection.fetch(LIST_LETTERS, *selection.parameters(), *place, limit + 1)
        letters = [Summary(**dict(row)) for row in rows[:limit]]
        last = letters[-1] if len(rows) > limit else None
        return Page(letters, Cursor(last.failed_at, last.dead_letter_id) if last else None)

    async def count(self, selection: Selection) -> dict[str, int]:
        """How many letters are meant, by reason."""
        async with borrowed(self._pool, self._settings) as connection:
            await check_schema(connection)
            rows = await connection.fetch(COUNT_LETTERS, *selection.parameters())
        return {row["reason"]: row["letters"] for row in rows}

    async def show(self, dead_letter_id: UUID) -> Full:
        """Raises NoSuchLetter."""
        async with borrowed(self._pool, self._settings) as connection:
            await check_schema(connection)
            row = await connection.fetchrow(SHOW_LETTER, dead_letter_id)
        if row is None:
            raise NoSuchLetter(f"no dead letter has the id {dead_letter_id}")
        said = dict(row)
        for name in ("key", "value"):
            said[name] = _content(said[name])
        said["headers"] = [LetterHeader(name=name, value=_content(value)) for name, value in headers_of(row["headers"])]
        return Full(**said)

    async def replay(self, selection: Selection, options: ReplayOptions, progress: Progress | None = None) -> Outcome:
        """Sends the letters again; see replay.py. What went wrong on the way is the outcome's ``problem``.

        Raises:
            BadSelection: to be mended is more than one letter, or a topic is named that this consumer does not read.
            NoSuchLetter: the one to be mended is not there.
        """
        if options.to_topic is not None and options.to_topic not in self.topics:
            raise BadSelection(
                f"no event of topic {options.to_topic} is stored by this consumer: {' or '.join(self.topics)}"
            )
        if options.mend:
            if selection.ids is None or len(selection.ids) != 1:
                raise BadSelection("one letter at a time can be mended: name exactly one id")
            await self.show(selection.ids[0])
        outbox, door = Outbox(self._settings), Door(str(self._settings.ingestion_url))
        try:
            outcome = await Replayer(self._pool, self._settings, outbox, door, selection, options, progress).run()
        finally:
            await outbox.close()
            await door.close()
        await self._explain(selection, outcome)
        return outcome

    async def discard(
        self,
        selection: Selection,
        note: str,
        *,
        dry_run: bool = False,
        limit: int | None = None,
        progress: Progress | None = None,
    ) -> Outcome:
        """Gives letters up, for the reason in ``note``: open ones, or ``replayed`` ones that nothing was heard of."""
        if selection.state not in ("open", "replayed"):
            raise BadSelection(f"letters that are {selection.state} are not discarded: only open and replayed ones")
        outcome = Outcome()
        walk = Walk(self._pool, self._settings, selection)
        try:
            began = await walk.begin()
            while limit is None or outcome.done < limit:
                room = BATCH_LETTERS if limit is None else min(BATCH_LETTERS, limit - outcome.done)
                ids = [row["dead_letter_id"] for row in await walk.next(room)]
                if not ids:
                    break
                if selection.ids is not None:
                    outcome.visited.update(ids)
                gone = len(ids)
                if not dry_run:
                    async with borrowed(self._pool, self._settings) as connection:
                        gone = len(await connection.fetch(DISCARD_LETTERS, ids, began, storable_text(note)))
                outcome.discarded += gone
                outcome.busy += len(ids) - gone
                if progress is not None:
                    progress(outcome)
            else:
                outcome.complete = not await walk.next(1)
        except Unavailable as error:
            outcome.problem, outcome.complete = error, False
        await self._explain(selection, outcome)
        return outcome

    async def _explain(self, selection: Selection, outcome: Outcome) -> None:
        """Says of letters that were named but not found what is the matter with them."""
        if selection.ids is None or not outcome.complete:
            return
        named = sorted({*selection.ids} - outcome.visited)
        if not named:
            return
        async with borrowed(self._pool, self._settings) as connection:
            states = {row["dead_letter_id"]: row["state"] for row in await connection.fetch(FIND_STATES, named)}
        for letter in named:
            state = states.get(letter)
            if state is None:
                outcome.leave_out(letter, "there is no such letter")
            elif selection.state not in (state, ANY_STATE):
                outcome.leave_out(letter, f"it is {state}, not {selection.state}")
            else:
                outcome.leave_out(letter, "a filter excludes it")


def with_ids(selection: Selection, ids: Sequence[UUID]) -> Selection:
    """``selection`` narrowed to ``ids``, where there are any."""
    return dataclasses.replace(selection, ids=list(dict.fromkeys(ids))) if ids else selection


def _content(value: bytes | None) -> Content | None:
    if value is None:
        return None
    try:
        return Content(encoding="utf-8", data=value.decode())
    except UnicodeDecodeError:
        return Content(encoding="base64", data=base64.b64encode(value).decode())
