"""The outside oracle: what was sent and acknowledged, what lies in the sinks, and whether the two agree.

It knows nothing of the services' code: it keeps what it sent itself and reads the sinks with plain SQL, so a fault of
ours cannot hide in code that both share. The invariants: everything acknowledged is stored or dead-lettered, in exactly
one place, with the content that was sent; and nothing is stored that was never sent.

Content is identified by a digest of user_id, event_name, metadata and timestamp in one canonical form, because JSON has
many texts for one value (key order, 1e2 and 100, +02:00 and Z) and a store may give back another than it was given.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, NamedTuple

import httpx
import psycopg

STORED_SQL = """
    SELECT event_id::text, user_id, event_name, metadata::text,
           to_char("timestamp" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    FROM public.events WHERE starts_with(user_id, %(user_prefix)s)
"""
DEAD_SQL = "SELECT value FROM public.dead_letters"


class State(StrEnum):
    SENT = "sent"
    """No final answer came: it may be stored or not."""
    ACKNOWLEDGED = "acknowledged"
    REJECTED = "rejected"
    """Every answer was a refusal (4xx): it must not be stored."""


class Copy(NamedTuple):
    """One place where an event was found. ``digest`` is None where the content cannot be read as an event."""

    event_id: str
    digest: str | None


Contents = dict[str, State]
"""What was sent under one event_id: digest -> state. Two digests are a conflict: one is stored, one dead-letters."""


def digest(event: Mapping[str, Any]) -> str:
    """SHA-256 of the fields that a client sends beside event_id; equal for all texts of the same values.

    Raises:
        ValueError: a field is missing or of the wrong type (the oracle's events always have all four).
    """
    try:
        named = {name: event[name] for name in ("user_id", "event_name", "metadata")}
        moment = datetime.fromisoformat(event["timestamp"])
        if moment.tzinfo is None:
            raise ValueError("the timestamp has no zone")
        named["timestamp"] = moment.astimezone(UTC).isoformat(timespec="microseconds")
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not an event: {error!r}") from None
    return hashlib.sha256(_canonical(named).encode()).hexdigest()


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        # jsonb writes 1e300 as 1 and 300 zeros: numbers are equal when their shortest decimal forms are. Integers are
        # never taken through float, which would hide a change of the last digits.
        sign, digits, exponent = Decimal(repr(value)).as_tuple()
        if not isinstance(exponent, int):
            raise ValueError(f"{value} is no JSON number")
        stripped = "".join(map(str, digits)).lstrip("0")
        short = stripped.rstrip("0")
        return f"{'-' if sign else ''}{short}e{exponent + len(stripped) - len(short)}" if short else "0"
    return json.dumps(value)


def _event_id(event: Mapping[str, Any]) -> str:
    return str(uuid.UUID(event["event_id"]))


class Ledger:
    """Every event that a test sent, by id and content. Thread-safe.

    With a ``path`` each entry is also appended to that file as a JSON line, and a file from before is read first (a
    torn last line, left by a killed writer, is cut off), so that the knowledge outlives the process that sends.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._sent: defaultdict[str, Contents] = defaultdict(dict)
        self._file: IO[bytes] | None = None
        if path is not None:
            whole = path.read_bytes() if path.exists() else b""
            whole = whole[: whole.rfind(b"\n") + 1]
            for line in whole.splitlines():
                event_id, content, state = json.loads(line)
                self._sent[event_id][content] = State(state)
            self._file = path.open("ab", buffering=0)
            self._file.truncate(len(whole))

    def sent(self, event: Mapping[str, Any]) -> None:
        """To be called before the first attempt: an event may be stored although its answer never arrives."""
        self._record(event, State.SENT)

    def acknowledged(self, event: Mapping[str, Any]) -> None:
        self._record(event, State.ACKNOWLEDGED)

    def rejected(self, event: Mapping[str, Any]) -> None:
        """Only for an event all of whose attempts were refused; one that timed out before may be stored."""
        self._record(event, State.REJECTED)

    def _record(self, event: Mapping[str, Any], state: State) -> None:
        event_id, content = _event_id(event), digest(event)
        with self._lock:
            known = self._sent[event_id].get(content)
            if known in (state, State.ACKNOWLEDGED):  # an acknowledgement is for ever
                return
            self._sent[event_id][content] = state
            if self._file is not None:
                self._file.write(json.dumps([event_id, content, state]).encode() + b"\n")

    def entries(self) -> dict[str, Contents]:
        """A copy: event_id -> what was sent under it."""
        with self._lock:
            return {event_id: dict(contents) for event_id, contents in self._sent.items()}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True)
class Verdict:
    """The event ids of each kind of violation, sorted; and how many events it is about."""

    lost: tuple[str, ...]
    """Acknowledged and nowhere."""
    duplicated: tuple[str, ...]
    """In more than one place: two rows, two dead letters, or a row and a dead letter."""
    unknown: tuple[str, ...]
    """Stored and never sent."""
    altered: tuple[str, ...]
    """Somewhere, with content that was never sent."""
    refused: tuple[str, ...]
    """Stored although every answer was a refusal."""
    sent: int
    acknowledged: int
    stored: int
    dead: int

    @property
    def violations(self) -> dict[str, tuple[str, ...]]:
        """The kinds that are not empty."""
        kinds = {kind.name: getattr(self, kind.name) for kind in fields(self) if kind.name not in _COUNTS}
        return {kind: ids for kind, ids in kinds.items() if ids}

    def assert_clean(self) -> None:
        """Passes when nothing is wrong.

        Raises:
            AssertionError: with the numbers and up to ten ids of each kind.
        """
        if not self.violations:
            return
        lines = [f"{self.sent} sent, {self.acknowledged} acknowledged, {self.stored} rows, {self.dead} dead letters"]
        for kind, ids in self.violations.items():
            more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
            lines.append(f"{kind}: {len(ids)}: {', '.join(ids[:10])}{more}")
        raise AssertionError("\n".join(lines))


_COUNTS = {"sent", "acknowledged", "stored", "dead"}


def compare(ledger: Mapping[str, Contents], stored: Iterable[Copy], dead: Iterable[Copy]) -> Verdict:
    """What is wrong, given ``Ledger.entries()`` and what lies in the sinks (further sinks go into ``dead``). Pure.

    A dead letter that was never sent is no violation: tests put poison straight on a topic.
    """
    rows, letters = _by_id(stored), _by_id(dead)
    found: dict[str, set[str]] = {"lost": set(), "duplicated": set(), "altered": set(), "refused": set()}
    for event_id, contents in ledger.items():
        mine, places = rows.get(event_id, []), rows.get(event_id, []) + letters.get(event_id, [])
        strangers = [content for content in places if content not in contents]  # altered, or unreadable
        missing = [c for c, state in contents.items() if state is State.ACKNOWLEDGED and c not in places]
        if any(content is not None for content in strangers):
            found["altered"].add(event_id)
        if len(missing) > len(strangers):
            found["lost"].add(event_id)
        # Contents in conflict have one place each: the first its row, every other a dead letter.
        if len(mine) > 1 or len(places) > len(contents) or any(places.count(content) > 1 for content in contents):
            found["duplicated"].add(event_id)
        if any(content is not None and contents.get(content) is State.REJECTED for content in mine):
            found["refused"].add(event_id)
    return Verdict(
        **{kind: tuple(sorted(ids)) for kind, ids in found.items()},
        unknown=tuple(sorted(rows.keys() - ledger.keys())),
        sent=len(ledger),
        acknowledged=sum(State.ACKNOWLEDGED in contents.values() for contents in ledger.values()),
        stored=sum(map(len, rows.values())),
        dead=sum(map(len, letters.values())),
    )


def _by_id(copies: Iterable[Copy]) -> dict[str, list[str | None]]:
    grouped: defaultdict[str, list[str | None]] = defaultdict(list)
    for event_id, content in copies:
        grouped[event_id].append(content)
    return dict(grouped)


def read_stored(database_url: str, *, user_prefix: str = "") -> Iterator[Copy]:
    """The rows of ``events``, of users whose id starts with ``user_prefix``, in a database that other tests use too."""
    with psycopg.connect(database_url) as connection, connection.cursor("oracle") as cursor:
        for event_id, user_id, name, metadata, moment in cursor.execute(STORED_SQL, {"user_prefix": user_prefix}):
            event = {"user_id": user_id, "event_name": name, "metadata": json.loads(metadata), "timestamp": moment}
            try:
                yield Copy(event_id, digest(event))
            except ValueError:
                yield Copy(event_id, "unreadable")  # no sent event is: it was altered


def read_dead(database_url: str, *, user_prefix: str = "") -> Iterator[Copy]:
    """The dead letters whose original bytes name an event_id (and, with a prefix, a user who has it)."""
    with psycopg.connect(database_url) as connection, connection.cursor("oracle") as cursor:
        for (value,) in cursor.execute(DEAD_SQL):
            if (copy := dead_letter_copy(value, user_prefix=user_prefix)) is not None:
                yield copy


def dead_letter_copy(value: bytes | None, *, user_prefix: str = "") -> Copy | None:
    """What the original bytes of a dead letter say; None where they name no event_id."""
    try:
        event = json.loads(value or b"")
        event_id = _event_id(event)
        if not str(event.get("user_id", "")).startswith(user_prefix):
            return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    try:
        return Copy(event_id, digest(event))
    except (ValueError, RecursionError):
        return Copy(event_id, None)


def judge(ledger: Ledger, database_url: str, *, user_prefix: str = "", within: float = 60.0) -> Verdict:
    """Compares until nothing acknowledged is missing any more, for at most ``within`` seconds; the last comparison.

    A duplicate may come later than the last missing event: drain the platform first where that matters.
    """
    end = time.monotonic() + within
    while True:
        stored = read_stored(database_url, user_prefix=user_prefix)
        # Read after the rows, an event on its way from neither to either can be missed once, never seen twice.
        dead = read_dead(database_url, user_prefix=user_prefix)
        verdict = compare(ledger.entries(), stored, dead)
        if not verdict.lost or time.monotonic() >= end:
            return verdict
        time.sleep(0.5)


@dataclass
class Posted:
    """How ``post_events`` ended for each event id. ``rejected``: the status; ``undecided``: the last problem."""

    acknowledged: list[str] = field(default_factory=list)
    rejected: dict[str, int] = field(default_factory=dict)
    undecided: dict[str, str] = field(default_factory=dict)


def post_events(
    url: str, events: Iterable[Mapping[str, Any]], ledger: Ledger, *, workers: int = 8, within: float = 60.0
) -> Posted:
    """Posts each event as a careful client does: retries with the same event_id what may help, honours Retry-After.

    One user's events are sent in order. After ``within`` seconds no further attempt starts; what was not even tried by
    then is in no list and not in the ledger. Anything but a reply for this very event counts as no acknowledgement.
    """
    posted, end = Posted(), time.monotonic() + within
    shares: list[list[Mapping[str, Any]]] = [[] for _ in range(workers)]
    for event in events:
        shares[zlib.crc32(str(event["user_id"]).encode()) % workers].append(event)
    # trust_env: a proxy of the environment must not stand between a test and its own services.
    with httpx.Client(timeout=10.0, trust_env=False) as client, ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda share: _post_share(client, url, share, ledger, posted, end), shares):
            pass
    return posted


def _post_share(
    client: httpx.Client, url: str, events: list[Mapping[str, Any]], ledger: Ledger, posted: Posted, end: float
) -> None:
    for event in events:
        if time.monotonic() >= end:
            return
        event_id, tries, maybe_stored = _event_id(event), 0, False
        ledger.sent(event)
        while True:
            tries += 1
            pause = random.uniform(0.5, 1.0) * min(0.1 * 2 ** min(tries, 6), 2.0)
            try:
                reply = client.post(url, json=event)
            except httpx.TransportError as error:
                problem, maybe_stored = repr(error), True
            else:
                if reply.is_success and _names(reply, event_id):
                    ledger.acknowledged(event)
                    posted.acknowledged.append(event_id)
                    break
                problem = f"HTTP {reply.status_code} {reply.text[:200]}"
                if reply.is_client_error and reply.status_code not in (408, 429):
                    if not maybe_stored:
                        ledger.rejected(event)
                    posted.rejected[event_id] = reply.status_code
                    break
                maybe_stored |= reply.status_code != 429
                asked = reply.headers.get("Retry-After", "")
                pause += float(asked) if asked.isdecimal() else 0.0
            if time.monotonic() + pause >= end:
                posted.undecided[event_id] = problem
                break
            time.sleep(pause)


def _names(reply: httpx.Response, event_id: str) -> bool:
    try:
        return str(reply.json()["event_id"]).lower() == event_id
    except (ValueError, KeyError, TypeError):
        return False
