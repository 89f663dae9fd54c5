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

from tests.e2e.clients import post_batches, post_events
from tests.e2e.oracle import Copy, Ledger, State, Verdict, compare, dead_letter_copy, digest, out_of_order


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
    """A ledger and three sinks that agree."""

    ledger: Ledger = field(default_factory=Ledger)
    stored: list[Copy] = field(default_factory=list)
    dead: list[Copy] = field(default_factory=list)
    quarantined: list[Copy] = field(default_factory=list)
    resolved: list[Copy] = field(default_factory=list)
    discarded: list[Copy] = field(default_factory=list)

    def verdict(self) -> Verdict:
        return compare(
            self.ledger.entries(),
            self.stored,
            self.dead,
            self.quarantined,
            resolved=self.resolved,
            discarded=self.discarded,
        )


FATES = ["stored", "dead", "quarantined", "maybe, stored", "maybe, dead", "maybe, nowhere"]
FATES += ["rejected", "rejected, dead", "rejected, quarantined", "conflict"]
FATES += ["resolved", "resolved, mended", "discarded", "discarded, stored", "conflict, discarded"]


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
        if fate.startswith("conflict"):
            world.ledger.sent(other)
            world.ledger.acknowledged(other)
            one, other = (one, other) if draw(st.booleans()) else (other, one)
            (world.dead if fate == "conflict" else world.discarded).append(copy_of(other))
        if fate.startswith(("resolved", "discarded")):
            letter = copy_of(one) if draw(st.booleans()) else Copy(one["event_id"], None)
            (world.resolved if fate.startswith("resolved") else world.discarded).append(letter)
        if fate == "resolved, mended":
            world.ledger.acknowledged(other)
            world.stored.append(copy_of(other))
        if fate.endswith("stored") or fate in ("resolved", "conflict", "conflict, discarded"):
            world.stored.append(copy_of(one))
        if fate.endswith(("dead", "quarantined")):
            sink = world.dead if fate.endswith("dead") else world.quarantined
            sink.append(copy_of(one) if draw(st.booleans()) else Copy(one["event_id"], None))
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


def dead_letter_and_quarantine(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.dead.append(copy_of(fresh))
    world.quarantined.append(copy_of(fresh))


def alter_quarantined(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.quarantined.append(copy_of({**fresh, "metadata": {}}))


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


def resolve_and_store_nothing(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.resolved.append(copy_of(fresh))


def resolve_and_store_another(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.resolved.append(copy_of(fresh))
    world.stored.append(copy_of({**fresh, "metadata": {}}))


def discard_another(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.discarded.append(copy_of({**fresh, "metadata": {}}))


def resolve_and_store_twice(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.acknowledged(fresh)
    world.resolved.append(copy_of(fresh))
    world.stored += [copy_of(fresh), copy_of(fresh)]


def store_refused(world: World, fresh: dict[str, Any]) -> None:
    world.ledger.rejected(fresh)
    world.stored.append(copy_of(fresh))


FAULTS = [
    ("lost", lose),
    ("lost", lose_conflict),
    ("lost", resolve_and_store_nothing),
    ("lost", discard_another),
    ("altered", resolve_and_store_another),
    ("duplicated", resolve_and_store_twice),
    ("duplicated", two_rows),
    ("duplicated", two_rows_unacknowledged),
    ("duplicated", row_and_dead_letter),
    ("duplicated", row_and_unreadable_dead_letter),
    ("duplicated", dead_letter_and_quarantine),
    ("duplicated", two_dead_letters),
    ("duplicated", both_of_a_conflict_stored),
    ("unknown", store_unsent),
    ("altered", alter_row),
    ("altered", alter_dead_letter),
    ("altered", alter_quarantined),
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
    assert "25 sent, 25 acknowledged, 0 rows, 0 dead letters, 0 in quarantine" in message
    assert message.count("00000000-") == 10
    assert "lost: 25" in message
    assert "and 15 more" in message


@pytest.mark.parametrize(
    "same",
    [
        {"timestamp": "2026-01-02T05:04:05.000006+02:00"},
        {"metadata": {"price": 1.50, "number": 1.0}},
        {"event_id": str(uuid.UUID(int=2))},
        {"nothing said": None, "nothing within": {}},
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
        {"a field that no form knows": 1},
        {"tenant_id": "default"},  # in this form it is no column, but context
    ],
)
def test_the_digest_tells_any_other_value(other: dict[str, Any]) -> None:
    assert digest(event(1, **other)) != digest(event(1))


PRODUCT = {
    "event_id": str(uuid.UUID(int=1)),
    "user_id": "u",
    "event_type": "page_view",
    "event_time": 1_710_000_000_007,
    "experiment_id": "exp_42",
    "variant": "A",
    "properties": {"page": "checkout"},
    "page_no": 3,
}
LEARNER = {
    "event_id": str(uuid.UUID(int=1)),
    "learner_id": "learner_001",
    "tenant_id": "tenant_alpha",
    "event_type": "interaction",
    "timestamp": 1705314600,
    "source_service": "learning-app",
    "priority": "high",
    "metadata": {},
}
STORED = [
    (
        event(1, extra=[1]),
        event(1, tenant_id="default", context={"extra": [1], "_platform": {"future_timestamp": True}}),
    ),
    (
        PRODUCT,
        {
            "event_id": PRODUCT["event_id"],
            "user_id": "u",
            "event_name": "page_view",
            "timestamp": "2024-03-09T16:00:00.007Z",
            "experiment_id": "exp_42",
            "variant": "A",
            "tenant_id": "default",
            "metadata": {"page": "checkout"},
            "context": {"page_no": 3},
        },
    ),
    (
        LEARNER,
        {
            "event_id": LEARNER["event_id"],
            "user_id": "learner_001",
            "event_name": "interaction",
            "timestamp": "2024-01-15T10:30:00Z",
            "tenant_id": "tenant_alpha",
            "source": "learning-app",
            "metadata": {},
            "context": {"priority": "high", "_platform": {"batch": {"batch_id": "b"}}},
        },
    ),
]


@pytest.mark.parametrize(("sent", "stored"), STORED)
def test_each_form_has_the_digest_of_what_the_platform_makes_of_it(
    sent: dict[str, Any], stored: dict[str, Any]
) -> None:
    stored = {**stored, "received_at": "2026-01-02T03:04:06Z"}
    assert digest(stored) == digest(sent)
    for name in stored.keys() - {"event_id", "received_at"}:
        other = {"x": 1} if isinstance(stored[name], dict) else "2026-01-02T03:04:07Z"
        assert digest({**stored, name: other}) != digest(sent)


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


def test_the_order_is_that_of_first_sending_and_of_first_arrival(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    for number in (1, 6, 11, 2, 16, 6):
        ledger.sent(event(number))
    ledger.close()
    ids = {number: event(number)["event_id"] for number in range(1, 20)}
    again = Ledger(path)
    again.close()
    order = again.order()
    assert order == {"user_1": [ids[1], ids[6], ids[11], ids[16]], "user_2": [ids[2]]}
    lawful = [[1, 6, 11, 16], [1, 1, 6, 1, 11, 6, 16, 1], [6, 16], [1, 7, 6], []]
    for arrived in lawful:
        assert out_of_order(order, {"user_1": [ids[n] for n in arrived]}) == {}
    for arrived in [[6, 1], [1, 11, 6, 16], [1, 16, 1, 11]]:
        assert out_of_order(order, {"user_1": [ids[n] for n in arrived]}).keys() == {"user_1"}


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


def test_a_dead_letter_of_a_batch_is_read_in_its_own_form() -> None:
    assert dead_letter_copy(json.dumps(LEARNER).encode(), user_prefix="learner_") == copy_of(LEARNER)
    assert dead_letter_copy(json.dumps({**LEARNER, "event_type": None}).encode(), user_prefix="user_") is None
    assert dead_letter_copy(json.dumps({**LEARNER, "timestamp": []}).encode()) == Copy(str(LEARNER["event_id"]), None)


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"not json", b"[1]", b"7", b'{"event_id": 5}', b"[" * 100_000])
def test_a_dead_letter_without_an_id_is_nobodys(value: bytes | None) -> None:
    assert dead_letter_copy(value) is None


@dataclass
class FarEnd:
    """A stand-in for the ingestion service: ``script[event number]`` is the statuses to answer, then 202. In a batch: 503 means
    that a retry may help, another status that it cannot, 0 that the connection breaks."""

    script: dict[int, list[int]] = field(default_factory=dict)
    received: list[dict[str, Any]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    """How many events each request held."""
    url: str = ""

    def answer(self, body: Any) -> tuple[int, dict[str, Any]]:
        if isinstance(body, list) or "events" in body:
            return self.answer_batch(body)
        self.received.append(body)
        statuses = self.script.get(uuid.UUID(body["event_id"]).int, [])
        status = statuses.pop(0) if statuses else 202
        return status, {"status": "accepted", "event_id": body["event_id"]} if status == 202 else {"error_code": "x"}

    def answer_batch(self, body: Any) -> tuple[int, dict[str, Any]]:
        events = body if isinstance(body, list) else body["events"]
        self.batches.append(len(events))
        self.received += events
        results, broken = [], False
        for index, each in enumerate(events):
            statuses = self.script.get(uuid.UUID(each["event_id"]).int, [])
            status = statuses.pop(0) if statuses else 202
            broken |= status == 0
            if status != 202:
                code = "retry" if status == 503 else "rejected"
                results.append({"index": index, "event_id": each["event_id"], "code": code, "reason": "why"})
        accepted = len(events) - len(results)
        if not accepted and any(result["code"] == "retry" for result in results):
            return 503, {"error_code": "x"}
        status = 0 if broken else 200 if not results else 207 if accepted else 422
        batch_id = "made" if isinstance(body, list) else body["batch_id"]
        counts = {"accepted_count": accepted, "rejected_count": len(results)}
        return status, {"batch_id": batch_id, **counts, "results": results}


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


def test_post_batches_sends_again_what_may_help_alone_and_keeps_the_ledger(far_end: FarEnd) -> None:
    far_end.script = {1: [503, 503], 2: [422], 7: [0, 422], 8: [0]}
    ledger = Ledger()
    posted = post_batches(
        far_end.url, [event(number, user_id="u") for number in range(1, 13)], ledger, size=6, workers=2
    )
    ids = {number: event(number)["event_id"] for number in range(1, 13)}
    assert far_end.batches == [6, 1, 1, 6, 6]
    assert sorted(posted.acknowledged) == [ids[number] for number in (1, 3, 4, 5, 6, 8, 9, 10, 11, 12)]
    assert posted.rejected == {ids[2]: "why", ids[7]: "why"}
    assert posted.undecided == {}
    assert posted.statuses() == {0, 200, 207, 503}
    states = {event_id: next(iter(contents.values())) for event_id, contents in ledger.entries().items()}
    assert states[ids[1]] is states[ids[8]] is State.ACKNOWLEDGED
    assert states[ids[2]] is State.REJECTED
    assert states[ids[7]] is State.SENT


def test_post_batches_notices_counts_that_contradict_the_results(
    far_end: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        far_end,
        "answer_batch",
        lambda body: (200, {"batch_id": "b", "accepted_count": 1, "rejected_count": 0, "results": []}),
    )
    with pytest.raises(AssertionError):
        post_batches(far_end.url, [event(1), event(6)], Ledger(), size=2)


@pytest.mark.parametrize("status", [503, 0])
def test_post_batches_gives_up_in_time_and_leaves_the_events_undecided(far_end: FarEnd, status: int) -> None:
    far_end.script = {1: [status] * 1000}
    ledger = Ledger()
    posted = post_batches(far_end.url, [event(1), event(6)], ledger, size=2, within=0.3)
    undecided = {event(1)["event_id"]} | ({event(6)["event_id"]} if status == 0 else set())
    assert posted.undecided.keys() == undecided
    assert compare(ledger.entries(), [copy_of(event(1)), copy_of(event(6))], []).violations == {}
