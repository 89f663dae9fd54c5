"""The outside oracle: what was sent and acknowledged, what lies in the sinks, and whether the two agree.

It knows nothing of the services' code: it keeps what it sent itself and is given what sinks.py reads with plain SQL and a
consumer of its own, so a fault of ours cannot hide in code that both share. The invariants: everything acknowledged is
stored, dead-lettered or in quarantine, in exactly one place, with the content that was sent; nothing is stored that was
never sent; and of one user the events arrive first in the order in which they were sent first.

Content is identified by a digest of what the client said beside event_id, in one canonical form: the three forms of an event
and the platform's own say the same in different words, JSON has many texts for one value (key order, 1e2 and 100, +02:00 and Z),
and a store may give back another than it was given.
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, NamedTuple

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOT_SENT = "_platform"
"""What the platform adds to an event's context."""


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


class _Form(NamedTuple):
    """How a form names what all of them say."""

    user: str
    name: str
    data: str
    moment: str
    a_second: int
    """Of a time given as an integer."""
    beside: tuple[str, ...]
    """Names of the platform's columns that it may set; any other field is context."""


_EVENT = _Form("user_id", "event_name", "metadata", "timestamp", 1, ())
_PRODUCT = _Form("user_id", "event_type", "properties", "event_time", 1000, ("experiment_id", "variant"))
_LEARNER = _Form("learner_id", "event_type", "event_data", "timestamp", 1, ("tenant_id", "source_service"))
_OURS = _EVENT._replace(beside=("tenant_id", "experiment_id", "variant", "source"))


def _form(event: Mapping[str, Any]) -> _Form:
    if "received_at" in event:
        return _OURS
    if "learner_id" in event:
        return _LEARNER
    return _PRODUCT if "event_type" in event else _EVENT


def user_of(event: Mapping[str, Any]) -> str:
    """Whose event it is, in any form; empty where it does not say."""
    return str(event.get("learner_id", event.get("user_id", "")))


def digest(event: Mapping[str, Any]) -> str:
    """SHA-256 of what a client says beside event_id, in any of the three forms, or the platform in its own, which has
    ``received_at``; equal for all texts of the same values.

    Raises:
        ValueError: user, name or time is missing or of the wrong type (the oracle's events always have all of them).
    """
    form = _form(event)
    try:
        said = {"user": event[form.user], "name": event[form.name], "moment": _moment(event[form.moment], form)}
        said["data"] = event.get(form.data) or {} if form in (_PRODUCT, _LEARNER) else event[form.data]
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not an event: {error!r}") from None
    columns = {name.removesuffix("_service"): event[name] for name in form.beside if event.get(name) is not None}
    said["columns"] = {"tenant_id": "default", **columns}
    if form is _OURS:
        context = dict(event.get("context") or {})
    else:
        known = {"event_id", form.user, form.name, form.data, form.moment, *form.beside}
        context = {name: value for name, value in event.items() if name not in known}
    # Nothing said is not kept: a learner's empty metadata, and no priority.
    said["context"] = {name: value for name, value in context.items() if name != NOT_SENT and value not in (None, {})}
    return hashlib.sha256(_canonical(said).encode()).hexdigest()


def _moment(given: object, form: _Form) -> str:
    if isinstance(given, int):
        moment = EPOCH + timedelta(seconds=given // form.a_second, milliseconds=given % form.a_second)
    elif isinstance(given, str):
        moment = datetime.fromisoformat(given)
    else:
        raise ValueError(f"{given!r} is no time that the oracle's events have")
    if moment.tzinfo is None:
        raise ValueError("the timestamp has no zone")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


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


def event_id_of(event: Mapping[str, Any]) -> str:
    return str(uuid.UUID(event["event_id"]))


class Ledger:
    """Every event that a test sent, by id and content, and each user's in the order of first sending. Thread-safe.

    With a ``path`` each entry is also appended to that file as a JSON line, and a file from before is read first (a
    torn last line, left by a killed writer, is cut off), so that the knowledge outlives the process that sends.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._sent: defaultdict[str, Contents] = defaultdict(dict)
        self._users: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._file: IO[bytes] | None = None
        if path is not None:
            whole = path.read_bytes() if path.exists() else b""
            whole = whole[: whole.rfind(b"\n") + 1]
            for line in whole.splitlines():
                event_id, content, state, user = json.loads(line)
                self._sent[event_id][content] = State(state)
                self._users[user][event_id] = None
            self._file = path.open("ab", buffering=0)
            self._file.truncate(len(whole))

    @classmethod
    def of(cls, *ledgers: Ledger) -> Ledger:
        """What all of ``ledgers`` know; of no user may two of them have events."""
        made = cls()
        for ledger in ledgers:
            users = ledger.order()
            assert made._users.keys().isdisjoint(users)
            made._sent.update(ledger.entries())
            made._users.update({user: dict.fromkeys(ids) for user, ids in users.items()})
        return made

    def sent(self, event: Mapping[str, Any]) -> None:
        """To be called before the first attempt: an event may be stored although its answer never arrives."""
        self._record(event, State.SENT)

    def acknowledged(self, event: Mapping[str, Any]) -> None:
        self._record(event, State.ACKNOWLEDGED)

    def rejected(self, event: Mapping[str, Any]) -> None:
        """Only for an event all of whose attempts were refused; one that timed out before may be stored."""
        self._record(event, State.REJECTED)

    def _record(self, event: Mapping[str, Any], state: State) -> None:
        event_id, content, user = event_id_of(event), digest(event), user_of(event)
        with self._lock:
            self._users[user][event_id] = None
            known = self._sent[event_id].get(content)
            if known in (state, State.ACKNOWLEDGED):  # an acknowledgement is for ever
                return
            self._sent[event_id][content] = state
            if self._file is not None:
                self._file.write(json.dumps([event_id, content, state, user]).encode() + b"\n")

    def entries(self) -> dict[str, Contents]:
        """A copy: event_id -> what was sent under it."""
        with self._lock:
            return {event_id: dict(contents) for event_id, contents in self._sent.items()}

    def order(self) -> dict[str, list[str]]:
        """A copy: user -> the event ids of first sending, in that order."""
        with self._lock:
            return {user: list(ids) for user, ids in self._users.items()}

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
    """In more than one place: two rows, two dead letters, a row and a line of the quarantine …"""
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
    quarantined: int

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
        lines = [
            f"{self.sent} sent, {self.acknowledged} acknowledged, {self.stored} rows, {self.dead} dead letters, "
            f"{self.quarantined} in quarantine"
        ]
        for kind, ids in self.violations.items():
            more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
            lines.append(f"{kind}: {len(ids)}: {', '.join(ids[:10])}{more}")
        raise AssertionError("\n".join(lines))


_COUNTS = {"sent", "acknowledged", "stored", "dead", "quarantined"}


def compare(
    ledger: Mapping[str, Contents],
    stored: Iterable[Copy],
    dead: Iterable[Copy],
    quarantined: Iterable[Copy] = (),
    *,
    resolved: Iterable[Copy] = (),
    discarded: Iterable[Copy] = (),
) -> Verdict:
    """What is wrong, given ``Ledger.entries()`` and what lies in the three sinks. Pure.

    A dead letter that was never sent is no violation: tests put poison straight on a topic. Nor is one in quarantine.
    Settled letters are places no more. That of a ``discarded`` one need not be anywhere else; that of a ``resolved`` one must be
    stored, as it was sent or as it was mended, which is content to be entered into the ledger too.
    """
    rows, aside = _by_id(stored), _by_id(quarantined)
    letters, mended, given_up = _by_id(dead), _by_id(resolved), _by_id(discarded)
    dead_letters = sum(map(len, letters.values()))
    for event_id, copies in aside.items():
        letters.setdefault(event_id, []).extend(copies)
    found: dict[str, set[str]] = {"lost": set(), "duplicated": set(), "altered": set(), "refused": set()}
    for event_id, contents in ledger.items():
        mine, places = rows.get(event_id, []), rows.get(event_id, []) + letters.get(event_id, [])
        strangers = [content for content in places if content not in contents]  # altered, or unreadable
        settled = given_up.get(event_id, []) + (mended.get(event_id, []) if mine else [])
        missing = [c for c, state in contents.items() if state is State.ACKNOWLEDGED and c not in (*places, *settled)]
        if any(content is not None for content in strangers):
            found["altered"].add(event_id)
        if len(missing) > len(strangers) + settled.count(None):
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
        dead=dead_letters,
        quarantined=sum(map(len, aside.values())),
    )


def _by_id(copies: Iterable[Copy]) -> dict[str, list[str | None]]:
    grouped: defaultdict[str, list[str | None]] = defaultdict(list)
    for event_id, content in copies:
        grouped[event_id].append(content)
    return dict(grouped)


def out_of_order(sent: Mapping[str, Sequence[str]], arrived: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Users whose events did not arrive first in the order of first sending, with the first id that came too late. Pure.

    ``sent`` is ``Ledger.order()``; ``arrived``: user -> the ids of a topic in the order of the log, copies included. What never
    arrived is not this function's affair, nor is what was never sent.
    """
    late = {}
    for user, ids in sent.items():
        here = list(dict.fromkeys(arrived.get(user, ())))
        known = set(ids)
        came, there = [one for one in here if one in known], set(here)
        expected = [one for one in ids if one in there]
        wrong = [should for should, did in zip(expected, came, strict=True) if should != did]
        if wrong:
            late[user] = wrong[0]
    return late


def dead_letter_copy(value: bytes | None, *, user_prefix: str = "") -> Copy | None:
    """What the original bytes of a dead letter, in whatever form, say; None where they name no event_id."""
    try:
        event = json.loads(value or b"")
        event_id = event_id_of(event)
        if not user_of(event).startswith(user_prefix):
            return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    try:
        return Copy(event_id, digest(event))
    except (ValueError, RecursionError):
        return Copy(event_id, None)
