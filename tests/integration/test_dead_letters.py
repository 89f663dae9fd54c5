"""Dead letters in a real Postgres: kept once, settled, shown, given up."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter

import orjson
import pytest

from event_consumer.dead_letter import letter_on_topic
from event_consumer.letters.desk import Desk
from event_consumer.letters.errors import BadSelection, NoSuchLetter
from event_consumer.letters.plan import ReplayOptions
from event_consumer.letters.selection import Selection
from event_consumer.settings import ConsumerSettings
from event_core.errors import DatabaseUnavailable
from event_core.settings import load
from event_core.source import FakeMessage
from tests.support.letters import (
    AT,
    again,
    canonical,
    given_up,
    pool_of,
    put,
    put_one,
    refused,
    rows_of,
    settle,
    states_of,
)

pytestmark = pytest.mark.integration


async def test_a_letter_is_kept_with_all_that_it_says(database_url: str) -> None:
    event_id = uuid.uuid4()
    value = canonical(str(event_id), tenant_id="t", metadata={"a": "\x00"})
    async with pool_of(database_url) as pool:
        letter = given_up(
            value, offset=42, headers=[("event-id", b"1"), ("binary", b"\xff")], reason="unstorable_value"
        )
        assert await put(pool, letter) == [True]
        [row] = await rows_of(pool)
    assert (row["topic"], row["partition"], row["offset"], row["key"], row["value"]) == ("events", 3, 42, b"u", value)
    assert (row["event_id"], row["tenant_id"], row["reason"], row["error"]) == (
        event_id,
        "t",
        "unstorable_value",
        "bad",
    )
    assert orjson.loads(row["headers"]) == [["event-id", "MQ=="], ["binary", "/w=="]]
    assert (row["state"], row["source"], row["retry_count"], row["relayed_at"]) == ("open", "event_consumer", 0, None)


async def test_a_letter_of_the_topic_is_kept_once_however_often_it_comes(database_url: str) -> None:
    letter = refused(b'{"event_name":"e"}')
    async with pool_of(database_url) as pool:
        assert await put(pool, letter, letter, given_up()) == [True, False, True]
        assert await put(pool, letter) == [False]
        first = next(row for row in await rows_of(pool) if row["source"] == "ingestion_service")
    assert (first["failed_at"], first["partition"], first["topic"]) == (AT, None, "events")
    assert first["relayed_at"] is not None


async def test_letters_of_two_transactions_at_once_are_kept_once_and_nobody_deadlocks(database_url: str) -> None:
    letters = [refused(b"%d" % number) for number in range(200)]
    async with pool_of(database_url) as pool:
        made = await asyncio.gather(put(pool, *letters), put(pool, *reversed(letters)))
        assert sum(map(sum, made)) == 200
        assert len(await rows_of(pool)) == 200


async def test_a_replay_that_is_stored_resolves_its_letter_and_only_it(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        one = await put_one(pool, given_up(b"1"), state="replayed")
        other = await put_one(pool, given_up(b"2"), state="replayed")
        await settle(pool, one, one, uuid.uuid4())
        assert {row["dead_letter_id"]: row["state"] for row in await rows_of(pool)} == {
            one: "resolved",
            other: "replayed",
        }


@pytest.mark.parametrize("state", ["open", "replayed", "discarded"])
async def test_what_is_stored_is_resolved_even_where_the_replay_was_not_noted(database_url: str, state: str) -> None:
    async with pool_of(database_url) as pool:
        one = await put_one(pool, given_up(), state=state)
        await settle(pool, one)
        assert [row["state"] for row in await rows_of(pool)] == ["resolved"]


async def test_a_replay_that_fails_again_reopens_its_letter(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        one = await put_one(pool, given_up(b"old"), state="replayed", retry_count=1, relayed_at=AT)
        assert await put(pool, again(one, b"mended", count=1)) == [True]
        [row] = await rows_of(pool)
    assert (row["dead_letter_id"], row["state"], row["retry_count"]) == (one, "open", 1)
    assert (row["value"], row["reason"], row["offset"], row["stage"]) == (b"mended", "refused_by_store", 7, "TASK_PUT")
    assert row["relayed_at"] is None, "the topic has not heard of it yet"
    assert orjson.loads(row["headers"]) == [["event-id", "MQ=="]], "without those of the replay"


async def test_a_replay_that_came_twice_and_fails_twice_is_one_letter(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        one = await put_one(pool, given_up(), state="replayed")
        assert await put(pool, again(one), again(one, offset=8)) == [True, False]
        assert await put(pool, again(one, offset=9)) == [False]
        assert len(await rows_of(pool)) == 1
        # Another value under the same id is somebody else's: it is not lost.
        assert await put(pool, again(one, b"other")) == [True]
        assert Counter(row["value"] for row in await rows_of(pool)) == {b"not json": 1, b"other": 1}


async def test_within_one_call_too_another_value_is_a_letter_of_its_own(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        one = await put_one(pool, given_up(), state="replayed")
        assert await put(pool, again(one, b"a"), again(one, b"b"), again(one, b"a")) == [True, True, False]
        assert {row["dead_letter_id"] == one: row["value"] for row in await rows_of(pool)} == {True: b"a", False: b"b"}


@pytest.mark.parametrize("state", ["resolved", "discarded", None])
async def test_a_failed_replay_of_a_letter_that_is_settled_or_unknown_is_a_new_letter(
    database_url: str, state: str | None
) -> None:
    async with pool_of(database_url) as pool:
        one = await put_one(pool, given_up(), state=state) if state else uuid.uuid4()
        assert await put(pool, again(one)) == [True]
        states = Counter(row["state"] for row in await rows_of(pool))
        assert states == Counter([state, "open"] if state else ["open"])
        assert await pool.fetchval("select count(*) from dead_letters where dead_letter_id = $1", one) == bool(state)


async def test_nothing_to_set_aside_asks_nothing(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        assert await put(pool) == []
        await settle(pool)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("dead-letter-id", b"x"), ("__connect.errors.topic", b"events")),
        (("dead-letter-id", str(uuid.uuid4()).encode()),),
        (
            ("dead-letter-id", str(uuid.uuid4()).encode()),
            ("__connect.errors.topic", b"\xff\x00" * 5_000),
            ("__connect.errors.offset", b"9" * 40),
            ("__connect.errors.partition", b"-1"),
            ("__connect.errors.exception.class.name", b"\x00" * 5_000),
            ("failed-at", b"0001-01-01T00:00:00+14:00"),
            ("retry-count", "²".encode()),
            ("\x00", b"\x00"),
        ),
    ],
    ids=["none", "no id", "no topic", "hostile"],
)
async def test_whatever_lies_on_the_topic_becomes_a_letter(
    database_url: str, headers: tuple[tuple[str, bytes], ...]
) -> None:
    message = FakeMessage("events-dlq", 0, 5, b"\x00\xff", None, -1, headers)
    async with pool_of(database_url) as pool:
        assert await put(pool, letter_on_topic(message)) == [True]
        [row] = await rows_of(pool)
    assert row["value"] == b"\x00\xff"
    if len(headers) < 8:
        assert (row["reason"], row["topic"], row["partition"], row["offset"]) == (
            "not_a_dead_letter",
            "events-dlq",
            0,
            5,
        )


async def test_pages_show_every_letter_once_the_latest_first(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        desk = Desk(pool, load(ConsumerSettings))
        await put(pool, *[given_up(b"%d" % number, offset=number) for number in range(25)])
        await pool.execute(
            "update dead_letters set failed_at = $1::timestamptz + (\"offset\" / 3) * interval '1 s'", AT
        )
        seen, after = [], None
        while True:
            page = await desk.list(Selection(), limit=7, after=after)
            seen += page.letters
            if (after := page.after) is None:
                break
        assert len({letter.dead_letter_id for letter in seen}) == 25
        assert [letter.failed_at for letter in seen] == sorted((letter.failed_at for letter in seen), reverse=True)
        assert (seen[0].bytes, seen[0].state) == (2, "open")
        assert (await desk.list(Selection(state="resolved"))).letters == []


async def test_all_of_a_letter_is_shown_as_text_where_it_is_text(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        desk = Desk(pool, load(ConsumerSettings))
        one = await put_one(pool, given_up("é".encode(), key=b"\xff", headers=[("a", b"1"), ("b", b"\xff")]))
        shown = await desk.show(one)
        assert shown.value is not None
        assert shown.key is not None
        assert (shown.value.encoding, shown.value.data, shown.key.encoding, shown.key.data) == (
            "utf-8",
            "é",
            "base64",
            "/w==",
        )
        assert [(header.name, header.value and header.value.data) for header in shown.headers] == [
            ("a", "1"),
            ("b", "/w=="),
        ]
        with pytest.raises(NoSuchLetter):
            await desk.show(uuid.uuid4())


async def test_discarded_letters_stay_with_the_note(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        desk = Desk(pool, load(ConsumerSettings))
        await put(pool, *[given_up(reason="not_json"), given_up(reason="invalid_event")])
        done = await put_one(pool, given_up(), state="resolved")
        selection = Selection(reason="not_json")
        assert (await desk.discard(selection, "noise", dry_run=True)).discarded == 1
        assert await states_of(pool) == {"open": 2, "resolved": 1}
        assert (await desk.discard(selection, "noise")).discarded == 1
        assert await states_of(pool) == {"open": 1, "resolved": 1, "discarded": 1}
        assert await pool.fetchval("select note from dead_letters where state = 'discarded'") == "noise"
        assert (await desk.discard(Selection([done]), "x")).left_out == {"it is resolved, not open": 1}
        assert (await desk.discard(Selection([uuid.uuid4()]), "x")).left_out == {"there is no such letter": 1}
        with pytest.raises(BadSelection):
            await desk.discard(Selection(state="resolved"), "x")


async def test_a_database_that_does_not_answer_is_said(tmp_path: object) -> None:
    async with pool_of("postgresql://postgres:hunter2@127.0.0.1:1/x") as pool:
        desk = Desk(pool, load(ConsumerSettings, database_url="postgresql://postgres:hunter2@127.0.0.1:1/x"))
        with pytest.raises(DatabaseUnavailable) as caught:
            await desk.list(Selection())
        assert "hunter2" not in caught.value.message
        outcome = await desk.replay(Selection(), ReplayOptions(topics=()))
        assert isinstance(outcome.problem, DatabaseUnavailable)
