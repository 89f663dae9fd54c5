"""The oracle must itself be trusted: it finds each kind of violation when there is one, and none when there is none."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.e2e.oracle import Copy, Ledger, State, Verdict, compare, dead_letter_copy, digest, post_events


def event(number: int = 1, **changes: Any) -> dict[str, Any]:
    made = {
        "event_id": str(uuid.UUID(int=number)),
        "user_id": f"user_{number % 5}",
        "event_name": "page_view",
        "metadata": {"number": number, "price": 1.5},
        "timestamp": "2026-01-02T03:04:05.000006Z",
    }
    return {**made, **changes}


def copy_of(of: dict[str, Any]) -> Copy:
    return Copy(of["event_id"], digest(of))


@dataclass
class World:
    """A ledger and two sinks that agree."""

    ledger: Ledger = field(default_factory=Ledger)
    stored: list[Copy] = field(default_factory=list)
    dead: list[Copy] = field(default_factory=list)

    def verdict(self) -> Verdict:
        return compare(self.ledger.entries(), self.stored, self.dead)


FATES = ["stored", "dead", "maybe, stored", "maybe, dead", "maybe, nowhere", "rejected", "rejected, dead", "conflict"]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any lawful mix of fates."""
    world = World()
    for number, fate in enumerate(draw(st.lists(st.sampled_from(FATES), max_size=30)), start=1):
        one, other = event(number), event(number, metadata={"another": number})
        world.ledger.sent(one)
        if fate.startswith("rejected"):
            world.ledger.rejected(one)
        elif not fate.startswith("maybe"):
            world.ledger.acknowledged(one)
        if fate == "conflict":
            world.ledger.sent(other)
            world.ledger.acknowledged(other)
            one, other = (one, other) if draw(st.booleans()) else (other, one)
            world.dead.append(copy_of(other))
        if fate in ("stored", "maybe, stored", "conflict"):
            world.stored.append(copy_of(one))
        if fate.endswith("dead"):
            world.dead.append(copy_of(one) if draw(st.booleans()) else Copy(one["event_id"], None))
    world.stored = draw(st.permutations(world.stored))
    world.dead.append(Copy(str(uuid.UUID(int=10**6)), None))  # poison that nobody sent over HTTP
    return world


@settings(deadline=None)  # a busy machine is no failure
@given(worlds())
def test_what_is_lawful_is_clean(world: World) -> None:
    assert world.verdict().violations == {}
    world.verdict().assert_clean()


def lose(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)


def lose_conflict(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.ledger.acknowledged({**fresh, "event_name": "another"})
    world.stored.append(copy_of(fresh))


def two_rows(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.stored += [copy_of(fresh), copy_of(fresh)]


def two_rows_unacknowledged(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.sent(fresh)
    world.stored += [copy_of(fresh), copy_of(fresh)]


def row_and_dead_letter(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.stored.append(copy_of(fresh))
    world.dead.append(copy_of(fresh))


def row_and_unreadable_dead_letter(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.stored.append(copy_of(fresh))
    world.dead.append(Copy(fresh["event_id"], None))


def two_dead_letters(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.dead += [copy_of(fresh), copy_of(fresh)]


def both_of_a_conflict_stored(world: World, fresh: dict[str, Any]) -> None:
    other = {**fresh, "event_name": "another"}
    world.ledger.acknowledged(fresh)
    world.ledger.acknowledged(other)
    world.stored += [copy_of(fresh), copy_of(other)]


def store_unsent(world: World, fresh: dict[str, Any]) -> None:
    world.stored.append(copy_of(fresh))


def alter_row(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.stored.append(copy_of({**fresh, "metadata": {}}))


def alter_dead_letter(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.dead.append(copy_of({**fresh, "metadata": {}}))


def store_refused(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.rejected(fresh)
    world.stored.append(copy_of(fresh))


FAULTS = [
    ("lost", lose),
    ("lost", lose_conflict),
    ("duplicated", two_rows),
    ("duplicated", two_rows_unacknowledged),
    ("duplicated", row_and_dead_letter),
    ("duplicated", row_and_unreadable_dead_letter),
    ("duplicated", two_dead_letters),
    ("duplicated", both_of_a_conflict_stored),
    ("unknown", store_unsent),
    ("altered", alter_row),
    ("altered", alter_dead_letter),
    ("refused", store_refused),
]


@settings(deadline=None)  # a busy machine is no failure
@given(worlds(), st.lists(st.sampled_from(FAULTS), min_size=1, max_size=6))
def test_every_injected_fault_is_found_and_nothing_else(world: World, faults: list[tuple[str, Any]]) -> None:
    expected: dict[str, tuple[str, ...]] = {}
    for number, (kind, inject) in enumerate(faults, start=1000):
        fresh = event(number)
        inject(world, fresh)
        expected[kind] = (*expected.get(kind, ()), fresh["event_id"])
    assert world.verdict().violations == expected
    with pytest.raises(AssertionError) as failure:
        world.verdict().assert_clean()
    assert all(kind in str(failure.value) for kind in expected)


def test_the_message_names_ten_ids_and_counts_the_rest() -> None:
    world = World()
    for number in range(1, 26):
        lose(world, event(number))
    with pytest.raises(AssertionError) as failure:
        world.verdict().assert_clean()
    message = str(failure.value)
    assert "25 sent, 25 acknowledged, 0 rows, 0 dead letters" in message
    assert message.count("00000000-") == 10
    assert "lost: 25" in message
    assert "and 15 more" in message


@pytest.mark.parametrize(
    "same",
    [
        {"timestamp": "2026-01-02T05:04:05.000006+02:00"},
        {"metadata": {"price": 1.50, "number": 1.0}},
        {"event_id": str(uuid.UUID(int=2))},
        {"a field that the oracle does not know": 1},
    ],
)
def test_the_digest_is_of_the_values_not_of_their_text(same: dict[str, Any]) -> None:
    assert digest(event(1, **same)) == digest(event(1))


@pytest.mark.parametrize(
    "other",
    [
        {"timestamp": "2026-01-02T03:04:05.000007Z"},
        {"metadata": {"price": 1.5, "number": "1"}},
        {"metadata": {"price": 1.5, "number": True}},
        {"metadata": {"price": 1.5}},
        {"user_id": "user_1 "},
        {"event_name": "page_View"},
    ],
)
def test_the_digest_tells_any_other_value(other: dict[str, Any]) -> None:
    assert digest(event(1, **other)) != digest(event(1))


@settings(deadline=None)  # a busy machine is no failure
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_that_the_store_writes_out_in_full_is_the_same(number: float) -> None:
    in_full = json.loads(format(Decimal(repr(number)), "f"))  # as jsonb does: 1e300 becomes 1 and 300 zeros
    assert digest(event(metadata={"n": in_full})) == digest(event(metadata={"n": number}))


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(-(2**63), 2**64 - 1), st.integers(-(2**63), 2**64 - 1))
def test_integers_are_compared_to_the_last_digit(one: int, other: int) -> None:
    same = digest(event(metadata={"n": one})) == digest(event(metadata={"n": other}))
    assert same == (one == other)


@pytest.mark.parametrize("missing", ["user_id", "event_name", "metadata", "timestamp"])
def test_what_is_no_event_is_refused_before_it_can_be_sent(missing: str) -> None:
    broken = event()
    del broken[missing]
    with pytest.raises(ValueError, match=missing):
        Ledger().sent(broken)


def test_an_acknowledgement_is_for_ever_and_a_resend_withdraws_a_refusal() -> None:
    ledger = Ledger()
    ledger.rejected(event(1))
    ledger.sent(event(1))
    ledger.acknowledged(event(2))
    ledger.sent(event(2))
    ledger.rejected(event(2))
    states = [next(iter(contents.values())) for contents in ledger.entries().values()]
    assert states == [State.SENT, State.ACKNOWLEDGED]


def test_a_ledger_file_outlives_its_writer_and_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    first = Ledger(path)
    first.acknowledged(event(1))
    first.sent(event(2))
    with path.open("ab") as file:  # never closed by its writer, killed in the middle of a line
        file.write(b'["0000')
    second = Ledger(path)
    assert second.entries() == first.entries()
    second.acknowledged(event(2))
    second.close()
    third = Ledger(path)
    assert third.entries() == second.entries()
    assert compare(third.entries(), [copy_of(event(1))], []).lost == (event(2)["event_id"],)
    first.close()
    third.close()


def test_many_threads_share_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    share = [[event(1000 * worker + number) for number in range(1, 101)] for worker in range(8)]
    threads = [threading.Thread(target=lambda events=events: [*map(ledger.acknowledged, events)]) for events in share]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    again = Ledger(path)
    again.close()
    assert len(again.entries()) == len(ledger.entries()) == 800


def test_a_dead_letter_is_read_from_its_original_bytes() -> None:
    original = json.dumps(event(7, received_at="2026-01-02T03:04:06Z")).encode()
    assert dead_letter_copy(original) == copy_of(event(7))
    assert dead_letter_copy(original, user_prefix="user_2") == copy_of(event(7))
    assert dead_letter_copy(original, user_prefix="another") is None
    half = json.dumps({"event_id": event(7)["event_id"].upper(), "user_id": 5}).encode()
    assert dead_letter_copy(half) == Copy(event(7)["event_id"], None)
    nan = json.dumps(event(7, metadata={"n": float("nan")})).encode()
    assert dead_letter_copy(nan) == Copy(event(7)["event_id"], None)


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"not json", b"[1]", b"7", b'{"event_id": 5}', b"[" * 100_000])
def test_a_dead_letter_without_an_id_is_nobodys(value: bytes | None) -> None:
    assert dead_letter_copy(value) is None


@dataclass
class FarEnd:
    """A stand-in for the ingestion service: ``script[event number]`` is the statuses to answer, then 202."""

    script: dict[int, list[int]] = field(default_factory=dict)
    received: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.received.append(body)
        statuses = self.script.get(uuid.UUID(body["event_id"]).int, [])
        status = statuses.pop(0) if statuses else 202
        return status, {"status": "accepted", "event_id": body["event_id"]} if status == 202 else {"error_code": "x"}


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    end = FarEnd()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            status, answer = end.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if status == 0:  # the connection breaks after the event was taken
                self.close_connection = True
                return
            encoded = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    end.url = f"http://127.0.0.1:{server.server_port}/events"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield end
    server.shutdown()
    server.server_close()


def test_post_events_retries_what_may_help_and_keeps_the_ledger(far_end: FarEnd) -> None:
    far_end.script = {1: [503, 0], 2: [422], 3: [0, 409]}
    ledger = Ledger()
    posted = post_events(far_end.url, [event(number) for number in range(1, 21)], ledger)
    ids = {number: event(number)["event_id"] for number in range(1, 21)}
    assert sorted(posted.acknowledged) == [ids[number] for number in (1, *range(4, 21))]
    assert posted.rejected == {ids[2]: 422, ids[3]: 409}
    assert posted.undecided == {}
    states = {event_id: next(iter(contents.values())) for event_id, contents in ledger.entries().items()}
    assert states[ids[1]] is states[ids[20]] is State.ACKNOWLEDGED
    assert states[ids[2]] is State.REJECTED
    assert states[ids[3]] is State.SENT  # the broken connection may have stored it, whatever was said later
    assert [body for body in far_end.received if body["event_id"] == ids[1]] == [event(1)] * 3


@pytest.mark.parametrize("status", [503, 429, 200])  # the 200 names no event, so it acknowledges none
def test_post_events_gives_up_in_time_and_leaves_the_event_undecided(far_end: FarEnd, status: int) -> None:
    far_end.script = {1: [status] * 1000}
    ledger = Ledger()
    posted = post_events(far_end.url, [event(1)], ledger, within=0.3)
    assert posted.undecided.keys() == ledger.entries().keys() == {event(1)["event_id"]}
    assert posted.acknowledged == []
    assert compare(ledger.entries(), [copy_of(event(1))], []).violations == {}


def test_post_events_keeps_each_users_order(far_end: FarEnd) -> None:
    far_end.script = {number: [503] for number in range(3, 60, 7)}
    events = [event(number) for number in range(1, 61)]
    assert len(post_events(far_end.url, events, Ledger()).acknowledged) == 60
    for user in {made["user_id"] for made in events}:
        arrived = [uuid.UUID(body["event_id"]).int for body in far_end.received if body["user_id"] == user]
        assert arrived == sorted(arrived)
