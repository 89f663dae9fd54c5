"""Puts rows into the ledger and the table: new ones once, known ones compared, and a row that Postgres refuses alone aside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import asyncpg

from event_consumer.database import columns, verdict_on
from event_consumer.dead_letter import dead_letter
from event_consumer.events.fates import EventItem, Placed
from event_consumer.events.rows import COLUMNS
from event_consumer.verdict import Verdict
from event_core.errors import DeadLetterFlood, UndecodableMessage
from event_core.postgres import Connection
from event_core.sqlfiles import load_sql

ADMIT_EVENTS = load_sql("event_consumer.events.sql", "admit_events")
FIND_CONFLICTS = load_sql(
    "event_consumer.events.sql", "find_conflicts", sent_time=load_sql("event_consumer.events.sql", "sent_time")
)

FLOOD = 100
"""As many refused rows, where they are most of their batch, are our fault."""

T = TypeVar("T")

_COPY_LINE = re.compile(r"^COPY \S+, line (\d+)", re.MULTILINE)  # below the lines of a trigger, where it was one


class Placer:
    """Places the items of one batch, within the caller's transaction."""

    def __init__(self, connection: Connection, *, retries: int, patient: bool) -> None:
        """A row that is refused alone is tried ``retries`` times in all. ``patient``: a cancelled statement passes on."""
        self._connection = connection
        self._retries = retries
        self._patient = patient
        self._placed = Placed([], [], [])
        self._total = 0

    async def place(self, items: Sequence[EventItem]) -> Placed:
        """Raises DeadLetterFlood, or what the database says where no row is at fault."""
        self._total = len(items)
        waiting = [(items, 1)]
        while waiting:  # no recursion: hundreds of rows may be refused
            part, attempt = waiting.pop()
            if part:
                waiting += reversed(await self._place(part, attempt))
        return self._placed

    async def _place(self, items: Sequence[EventItem], attempt: int) -> list[tuple[Sequence[EventItem], int]]:
        """What to try next in place of ``items``, in order: nothing where they are settled."""
        fresh: list[EventItem] = []
        known: list[EventItem] = []
        try:
            async with self._connection.transaction():  # a savepoint: we are within the batch's transaction
                await self._store(items, fresh, known)
        except (asyncpg.PostgresError, ValueError) as error:
            verdict = _verdict(error)
            if verdict is not Verdict.DATA and (verdict is not Verdict.SLOW or self._patient):
                raise
            if len(items) > 1:
                return [(part, 1) for part in _around(items, _guilty(error, items, fresh))]
            if attempt < self._retries:
                return [(items, attempt + 1)]
            reason = "overdue" if verdict is Verdict.SLOW else "refused_by_store"
            self._refuse(items[0], f"{getattr(error, 'sqlstate', None) or 'encoding'}: {error}", reason)
            return []
        self._placed.fresh.extend(fresh)
        self._placed.known.extend(known)
        return []

    async def _store(self, items: Sequence[EventItem], fresh: list[EventItem], known: list[EventItem]) -> None:
        firsts: dict[object, EventItem] = {}
        known.extend([item for item in items if firsts.setdefault(item.row.event_id, item) is not item])
        offered = list(firsts.values())
        rows = [item.row for item in offered]
        there = await self._connection.fetch(
            ADMIT_EVENTS, [row.event_id for row in rows], [row.timestamp for row in rows]
        )
        if there:
            places = {place - 1 for (place,) in there}
            known.extend(item for place, item in enumerate(offered) if place in places)
            offered = [item for place, item in enumerate(offered) if place not in places]
            rows = [item.row for item in offered]
        fresh.extend(offered)
        if rows:
            status: str = await self._connection.copy_records_to_table(
                "events", records=rows, columns=COLUMNS, schema_name="public"
            )
            if status != f"COPY {len(rows)}":
                raise RuntimeError(f"{status} of {len(rows)} rows: something else than this code drops or adds events")

    def _refuse(self, item: EventItem, error: str, reason: str) -> None:
        refused = self._placed.refused
        refused.append(dead_letter(item.message, UndecodableMessage(error, reason=reason)))
        if len(refused) >= FLOOD and 2 * len(refused) > self._total:
            raise DeadLetterFlood(f"PostgreSQL refuses most rows of a batch of {self._total}, the last with {error}")


async def conflicts(connection: Connection, known: Sequence[EventItem]) -> set[int]:
    """Which of ``known``, by place (from 0), say something else than what is stored under their id.

    So does a row that Postgres cannot even read: what is stored it could.
    """
    differ: set[int] = set()
    waiting: list[Sequence[int]] = [range(len(known))]
    while waiting:
        part = waiting.pop()
        if not part:
            continue
        try:
            async with connection.transaction():
                found = await connection.fetch(FIND_CONFLICTS, *columns([known[place].row for place in part]))
        except (asyncpg.PostgresError, ValueError) as error:
            if _verdict(error) is not Verdict.DATA:
                raise
            if len(part) == 1:
                differ.add(part[0])
            else:
                waiting += _around(part, None)
        else:
            differ.update(part[place - 1] for (place,) in found)
    return differ


def _verdict(error: asyncpg.PostgresError | ValueError) -> Verdict:
    return (
        verdict_on(error) if isinstance(error, asyncpg.PostgresError) else Verdict.DATA
    )  # asyncpg could not encode a value


def _guilty(error: BaseException, items: Sequence[EventItem], copied: Sequence[EventItem]) -> int | None:
    """The place among ``items`` of the row that the server names in its error; ``copied`` were sent in that order."""
    found = _COPY_LINE.search(getattr(error, "context", None) or "")
    if found is None or not 0 < (line := int(found[1])) <= len(copied):
        return None
    return next(place for place, item in enumerate(items) if item is copied[line - 1])


def _around(items: Sequence[T], guilty: int | None) -> list[Sequence[T]]:
    """What to try apart: what comes before and after ``guilty``, and itself; halves where it is not known."""
    if guilty is None:
        middle = len(items) // 2
        return [items[:middle], items[middle:]]
    end = 5 * guilty + 100  # where one came early the next may too: few rows, so that trying again costs little
    return [items[:guilty], items[guilty : guilty + 1], items[guilty + 1 : end], items[end:]]
