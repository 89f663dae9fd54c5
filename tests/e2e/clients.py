"""Clients as careful ones are: they send again, with the same event_id, what may be stored then, and keep the oracle's ledger."""

from __future__ import annotations

import random
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

from tests.e2e.oracle import Ledger, event_id_of, user_of

Event = Mapping[str, Any]

TIMEOUT_SECONDS = 30.0


class Asked(NamedTuple):
    """One request. ``began`` in seconds of the monotonic clock; ``status`` is 0 where no answer came."""

    began: float
    seconds: float
    status: int


@dataclass
class Posted:
    """How it ended for each event id. ``rejected``: the status of a single event, the reason of one in a batch; ``undecided``:
    the last problem."""

    acknowledged: list[str] = field(default_factory=list)
    rejected: dict[str, int | str] = field(default_factory=dict)
    undecided: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def statuses(self) -> set[int]:
        return {each.status for each in list(self.asked)}

    def seconds(self, since: float = 0.0, until: float = float("inf"), share: float = 0.99) -> float:
        """A percentile of the times of the requests that began within this span; 0 where there were none."""
        times = sorted(each.seconds for each in list(self.asked) if since <= each.began < until)
        return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0


def post_events(
    url: str,
    events: Iterable[Event],
    ledger: Ledger,
    *,
    workers: int = 8,
    within: float = 60.0,
    posted: Posted | None = None,
) -> Posted:
    """Posts each event alone, to /events: retries with the same event_id what may help, honours Retry-After. Adds to ``posted``,
    which may be looked at meanwhile.

    One user's events are sent in order. After ``within`` seconds no further attempt starts; what was not even tried by
    then is in no list and not in the ledger. Anything but a reply for this very event counts as no acknowledgement.
    """
    return _post(lambda share, posting: _one_by_one(share, posting), url, events, ledger, workers, within, posted)


def post_batches(
    url: str,
    events: Iterable[Event],
    ledger: Ledger,
    *,
    size: int = 100,
    workers: int = 4,
    within: float = 60.0,
    posted: Posted | None = None,
) -> Posted:
    """Posts the events in batches of ``size``, to /api/v1/collect, in both of its forms. Otherwise as ``post_events``; of a batch
    only those events are sent again whose own result says that it may help.

    Raises:
        AssertionError: a reply whose counts and results contradict each other.
    """
    return _post(lambda share, posting: _in_batches(share, posting, size), url, events, ledger, workers, within, posted)


class _Posting(NamedTuple):
    client: httpx.Client
    url: str
    ledger: Ledger
    posted: Posted
    end: float

    def ask(self, body: object) -> tuple[httpx.Response | None, str]:
        """The reply, or None; and what to say where it is no acknowledgement."""
        began = time.monotonic()
        try:
            reply = self.client.post(self.url, json=body)
        except httpx.TransportError as error:
            self.posted.asked.append(Asked(began, time.monotonic() - began, 0))
            return None, repr(error)
        self.posted.asked.append(Asked(began, time.monotonic() - began, reply.status_code))
        return reply, f"HTTP {reply.status_code} {reply.text[:200]}"

    def rest(self, tries: int, reply: httpx.Response | None) -> bool:
        """Waits before the next attempt; False where there is no time for one."""
        pause = random.uniform(0.5, 1.0) * min(0.1 * 2 ** min(tries, 6), 2.0)
        asked = "" if reply is None else reply.headers.get("Retry-After", "")
        pause += float(asked) if asked.isdecimal() else 0.0
        if time.monotonic() + pause >= self.end:
            return False
        time.sleep(pause)
        return True


def _post(
    work: Callable[[list[Event], _Posting], None],
    url: str,
    events: Iterable[Event],
    ledger: Ledger,
    workers: int,
    within: float,
    posted: Posted | None,
) -> Posted:
    posted, end = posted or Posted(), time.monotonic() + within
    shares: list[list[Event]] = [[] for _ in range(workers)]
    for event in events:
        shares[zlib.crc32(user_of(event).encode()) % workers].append(event)
    # trust_env: a proxy of the environment must not stand between a test and its own services.
    with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client, ThreadPoolExecutor(workers) as pool:
        posting = _Posting(client, url, ledger, posted, end)
        for _ in pool.map(lambda share: work(share, posting), shares):
            pass
    return posted


def _one_by_one(events: list[Event], posting: _Posting) -> None:
    ledger, posted = posting.ledger, posting.posted
    for event in events:
        if time.monotonic() >= posting.end:
            return
        event_id, tries, maybe_stored = event_id_of(event), 0, False
        ledger.sent(event)
        while True:
            tries += 1
            reply, problem = posting.ask(event)
            if reply is None:
                maybe_stored = True
            elif reply.is_success and _names(reply, event_id):
                ledger.acknowledged(event)
                posted.acknowledged.append(event_id)
                break
            elif reply.is_client_error and reply.status_code not in (408, 429):
                if not maybe_stored:
                    ledger.rejected(event)
                posted.rejected[event_id] = reply.status_code
                break
            else:
                maybe_stored |= reply.status_code != 429
            if not posting.rest(tries, reply):
                posted.undecided[event_id] = problem
                break


def _names(reply: httpx.Response, event_id: str) -> bool:
    try:
        return str(reply.json()["event_id"]).lower() == event_id
    except (ValueError, KeyError, TypeError):
        return False


def _in_batches(events: list[Event], posting: _Posting, size: int) -> None:
    for number, start in enumerate(range(0, len(events), size)):
        if time.monotonic() >= posting.end:
            return
        _post_batch(events[start : start + size], posting, bare=number % 2 == 0)


def _post_batch(waiting: Sequence[Event], posting: _Posting, *, bare: bool) -> None:
    ledger, posted = posting.ledger, posting.posted
    maybe_stored: set[str] = set()
    tries = 0
    for event in waiting:
        ledger.sent(event)
    while waiting:
        tries += 1
        batch_id = str(uuid.uuid4())
        # What a batch says beside its events is kept with them, but by the platform's own name: the content stays the same.
        reply, problem = posting.ask(waiting if bare else {"batch_id": batch_id, "events": waiting})
        again: list[Event] = []
        if reply is None or reply.status_code in (408, 429) or reply.is_server_error:
            if reply is None or reply.status_code != 429:
                maybe_stored |= {event_id_of(event) for event in waiting}
            again = list(waiting)
        elif reply.status_code in (200, 207, 422) and "batch_id" in (said := reply.json()):
            assert bare or said["batch_id"] == batch_id, said
            for event, code, reason in _fates(waiting, reply.status_code, said):
                event_id = event_id_of(event)
                if code in ("accepted", "duplicate"):
                    ledger.acknowledged(event)
                    posted.acknowledged.append(event_id)
                elif code == "retry":
                    maybe_stored.add(event_id)
                    again.append(event)
                else:
                    if event_id not in maybe_stored:
                        ledger.rejected(event)
                    posted.rejected[event_id] = reason
        else:
            for event in waiting:
                posted.rejected[event_id_of(event)] = problem
        if again and not posting.rest(tries, reply):
            posted.undecided |= {event_id_of(event): problem for event in again}
            return
        waiting = again


def _fates(sent: Sequence[Event], status: int, said: dict[str, Any]) -> Iterator[tuple[Event, str, str]]:
    """(event, code, reason) of each."""
    results = {result["index"]: result for result in said["results"]}
    codes = [results.get(index, {}).get("code", "accepted") for index in range(len(sent))]
    accepted = sum(code in ("accepted", "duplicate") for code in codes)
    assert (said["accepted_count"], said["rejected_count"]) == (accepted, len(sent) - accepted), said
    assert results.keys() <= set(range(len(sent))), said
    assert status == (200 if accepted == len(sent) else 207 if accepted else 422), said
    for index, (event, code) in enumerate(zip(sent, codes, strict=True)):
        result = results.get(index, {})
        assert result.get("event_id", event["event_id"]) == event["event_id"], said
        yield event, code, str(result.get("reason", ""))
