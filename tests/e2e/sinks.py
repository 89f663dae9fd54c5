"""The sinks as the oracle reads them: Postgres with plain SQL, topics with a consumer of its own, the quarantine's files."""

from __future__ import annotations

import base64
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.conftest import Platform
from tests.e2e.oracle import Copy, Ledger, Verdict, compare, dead_letter_copy, digest
from tests.support.topics import Record, scan

STORED_SQL = """
    SELECT event_id::text, user_id, event_name, metadata::text,
           to_char("timestamp" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
           tenant_id, experiment_id, variant, source, context::text
    FROM public.events WHERE starts_with(user_id, %(user_prefix)s)
"""
DEAD_SQL = "SELECT dead_letter_id::text, state, value FROM public.dead_letters"


class Letters(NamedTuple):
    """Dead letters by what became of them."""

    waiting: list[Copy]
    """For a decision, or for what becomes of their replay."""
    resolved: list[Copy]
    """Stored after a replay."""
    discarded: list[Copy]


@dataclass(frozen=True)
class Sinks:
    """Where events may end up."""

    database_url: str
    kafka: str = ""
    """Bootstrap servers; empty: the topic of dead letters is not looked at."""
    dlq_topic: str = ""
    buffer_dirs: Sequence[Path] = ()
    user_prefix: str = ""
    """Of the users that matter, in sinks that other tests use too."""

    @classmethod
    def of(cls, platform: Platform) -> Sinks:
        settings = platform.settings
        return cls(
            platform.database_url, settings["KAFKA_BOOTSTRAP_SERVERS"], platform.dlq_topic, (platform.buffer_dir,)
        )

    def stored(self) -> Iterator[Copy]:
        """The rows of ``events``."""
        with psycopg.connect(self.database_url) as connection, connection.cursor("oracle") as cursor:
            for row in cursor.execute(STORED_SQL, {"user_prefix": self.user_prefix}):
                event_id, user_id, name, metadata, moment, tenant, experiment, variant, source, context = row
                event = {
                    "received_at": moment,  # makes it the platform's own form; of the content it is no part
                    "user_id": user_id,
                    "event_name": name,
                    "metadata": json.loads(metadata),
                    "timestamp": moment,
                    "tenant_id": tenant,
                    "experiment_id": experiment,
                    "variant": variant,
                    "source": source,
                    "context": json.loads(context),
                }
                try:
                    yield Copy(event_id, digest(event))
                except ValueError:
                    yield Copy(event_id, "unreadable")  # no sent event is: it was altered

    def letters(self) -> Letters:
        """The dead letters, on their topic and in their table, whose original bytes name an event_id. One that is in both, or
        on the topic again, is one letter, in the state that the table says."""
        known: dict[str, tuple[str, bytes | None]] = {}
        with psycopg.connect(self.database_url) as connection, connection.cursor("oracle") as cursor:
            known.update((name, (state, value)) for name, state, value in cursor.execute(DEAD_SQL))
        if self.kafka:
            for letter in dead_letters(self.kafka, self.dlq_topic):
                known.setdefault(letter.headers["dead-letter-id"].decode(), ("open", letter.value))
        found = Letters([], [], [])
        for state, value in known.values():
            if (copy := dead_letter_copy(value, user_prefix=self.user_prefix)) is not None:
                {"resolved": found.resolved, "discarded": found.discarded}.get(state, found.waiting).append(copy)
        return found

    def quarantined(self) -> Iterator[Copy]:
        for directory in self.buffer_dirs:
            for value in quarantine(directory):
                if (copy := dead_letter_copy(value, user_prefix=self.user_prefix)) is not None:
                    yield copy


def judge(ledger: Ledger, sinks: Sinks, *, within: float = 60.0) -> Verdict:
    """Compares until nothing acknowledged is missing any more, for at most ``within`` seconds; the last comparison.

    A duplicate may come later than the last missing event: drain the platform first where that matters.
    """
    end = time.monotonic() + within
    while True:
        # Read one after the other, an event on its way from neither to either can be missed once, never seen twice.
        entries, stored, letters = ledger.entries(), list(sinks.stored()), sinks.letters()
        verdict = compare(
            entries,
            stored,
            letters.waiting,
            sinks.quarantined(),
            resolved=letters.resolved,
            discarded=letters.discarded,
        )
        if not verdict.lost or time.monotonic() >= end:
            return verdict
        time.sleep(0.5)


class Arrived(NamedTuple):
    """What topics hold, as of the time of reading."""

    copies: list[Copy]
    """Of each event and content one: a broker that was frozen may have a batch twice, and the consumer takes one of them."""
    order: dict[str, list[str]]
    """User -> event ids in the order of the log, repetitions included."""
    repeated: int


def arrived(servers: str, *topics: str) -> Arrived:
    """What lies in the topics of events."""
    copies: dict[Copy, None] = {}
    order: defaultdict[str, list[str]] = defaultdict(list)
    records = 0

    def visit(record: Record) -> None:
        nonlocal records
        records += 1
        copy = dead_letter_copy(record.value)
        assert copy is not None, f"no event: {record!r}"
        copies[copy] = None
        order[(record.key or b"").decode()].append(copy.event_id)

    for topic in topics:
        scan(servers, topic, visit)
    return Arrived(list(copies), dict(order), records - len(copies))


def dead_letters(servers: str, topic: str) -> list[Record]:
    """What lies on the dead letters' topic, each letter once."""
    letters: dict[str, Record] = {}

    def visit(record: Record) -> None:
        letters.setdefault(record.headers["dead-letter-id"].decode(), record)

    scan(servers, topic, visit)
    return list(letters.values())


def quarantine(directory: Path) -> list[bytes]:
    """The original bytes of each event in the quarantine of a buffer's folder."""
    files = [path.read_bytes() for path in sorted(directory.glob("quarantine/*.jsonl"))]
    lines = [json.loads(line) for file in files for line in file.splitlines()]
    return [
        base64.b64decode(line["value_base64"]) if "value_base64" in line else line["value"].encode() for line in lines
    ]
