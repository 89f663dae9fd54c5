"""Where dead letters are put, within the transaction that stores the events beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid5

import asyncpg
from uuid_utils.compat import uuid7

from event_consumer.database import columns
from event_consumer.dead_letter import DeadLetter
from event_core.postgres import Connection
from event_core.sqlfiles import load_sql

FIND_REPLAYED = load_sql("event_consumer.letters.sql", "find_replayed")
SET_ASIDE = load_sql("event_consumer.letters.sql", "set_aside")
REOPEN = load_sql("event_consumer.letters.sql", "reopen")
RESOLVE = load_sql("event_consumer.letters.sql", "resolve")

AnyConnection = Connection | asyncpg.Connection


async def set_aside(connection: AnyConnection, letters: Sequence[DeadLetter]) -> list[bool]:
    """Puts ``letters`` into the table; for each, whether a row was made or reopened. False: it was there already.

    A letter of the dead letters' topic that the table has is left as it is. A replayed message that fails again reopens its
    letter; where that is open already with the same value nothing happens (the message came twice), and where it is neither,
    or unknown, the message becomes a letter of its own. An event with an id that comes again, byte for byte, is the letter that
    is there. The statements do not grow with the letters: one, and two more where
    there are replays.
    """
    if not letters:
        return []
    known = await _replayed(connection, letters)
    added: dict[UUID, int] = {}
    reopened: dict[UUID, int] = {}
    for index, letter in enumerate(letters):
        given = letter.dead_letter_id
        if letter.on_topic and given is not None:
            added.setdefault(given, index)
        elif given is None or (found := known.get(given)) is None:
            added.setdefault(_identity(letter), index)
        elif found[0] == "replayed":
            known[given] = ("open", letter.value)
            reopened[given] = index
        elif found != ("open", letter.value):
            added.setdefault(_identity(letter), index)
    new = set(reopened.values())
    if reopened:
        await connection.execute(REOPEN, *_columns(letters, reopened))
    if added:
        rows = await connection.fetch(SET_ASIDE, *_columns(letters, added))
        new |= {added[row[0]] for row in rows}
    return [index in new for index in range(len(letters))]


async def resolve(connection: AnyConnection, replayed: Sequence[tuple[UUID, UUID]]) -> None:
    """Settles the letters of replayed messages whose events are stored, given as (dead letter, event); what is none of ours, or
    a letter of another event, is left alone."""
    if replayed:
        pairs = sorted(set(replayed))
        await connection.execute(RESOLVE, [letter for letter, _ in pairs], [event for _, event in pairs])


def _identity(letter: DeadLetter) -> UUID:
    """Of copies of one event the same, as a buffer or a producer sends what was not acknowledged again; else a new one."""
    if letter.event_id is None or letter.value is None:
        return uuid7()
    return uuid5(letter.event_id, f"{letter.topic}:{sha256(letter.value).hexdigest()}")


async def _replayed(connection: AnyConnection, letters: Sequence[DeadLetter]) -> dict[UUID, tuple[str, bytes | None]]:
    """State and value of the letters that are said to be replayed, locked."""
    ids = {letter.dead_letter_id for letter in letters if letter.dead_letter_id is not None and not letter.on_topic}
    if not ids:
        return {}
    rows = await connection.fetch(FIND_REPLAYED, sorted(ids))
    return {row["dead_letter_id"]: (row["state"], row["value"]) for row in rows}


def _columns(letters: Sequence[DeadLetter], chosen: dict[UUID, int]) -> Iterable[list[Any]]:
    """The columns of the chosen letters and their places, in the order of their ids: whoever adds the same ones waits instead of
    deadlocking."""
    rows = [(dead_letter_id, *_row(letters[index]), index) for dead_letter_id, index in sorted(chosen.items())]
    return columns(rows)


def _row(letter: DeadLetter) -> tuple[Any, ...]:
    return tuple(value for name, value in zip(letter._fields, letter, strict=True) if name != "dead_letter_id")
