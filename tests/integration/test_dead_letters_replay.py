"""Dead letters sent again: to their topic, through the door, by way of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from pydantic import SecretStr

from event_consumer.app import Deps, create_app
from event_consumer.dead_letter import letter_on_topic
from event_consumer.letters.desk import Desk
from event_consumer.letters.errors import BadSelection, NoSuchLetter
from event_consumer.letters.mend import Mend
from event_consumer.letters.plan import ReplayOptions
from event_consumer.letters.routes import dead_letter_router
from event_consumer.letters.selection import Selection
from event_consumer.metrics import Metrics
from event_consumer.settings import ConsumerSettings
from event_core.errors import BrokerUnavailable
from event_core.source import FakeMessage
from event_core.topics import partition_for
from tests.conftest import Platform
from tests.support.backend import Backend
from tests.support.letters import (
    AT,
    canonical,
    given_up,
    letters_at,
    pool_of,
    put,
    put_one,
    read,
    refused,
    replay,
    rows_of,
    states_of,
)
from tests.support.topics import Record, scan

pytestmark = pytest.mark.integration


async def test_a_message_goes_back_to_its_topic_as_it_was(platform: Platform) -> None:
    value = canonical(metadata={"a": "\x00"})
    original = [("event-id", b"1"), ("retry-count", b"9"), ("raw", b"\xfe")]
    async with letters_at(platform) as (pool, settings):
        one = await put_one(pool, given_up(value, topic=platform.product_topic, key=b"user-7", headers=original))
        outcome = await replay(pool, settings, one)
        assert (outcome.sent, outcome.complete, outcome.left_out) == ({platform.product_topic: 1}, True, {})
        [record] = await read(platform, 1, platform.product_topic)
        assert (record.key, record.value, record.partition) == (b"user-7", value, partition_for(b"user-7", 6))
        assert [*record.headers.items()] == [
            ("event-id", b"1"),
            ("raw", b"\xfe"),
            ("retry-count", b"1"),
            ("dead-letter-id", str(one).encode()),
        ]
        [row] = await rows_of(pool)
        assert (row["state"], row["retry_count"], row["value"]) == ("replayed", 1, value)
        # A second time there is nothing to be done.
        twice = await replay(pool, settings, one)
        assert (twice.sent, [*twice.left_out]) == ({}, ["it is replayed, not open"])
        assert len(await read(platform, 1, platform.product_topic)) == 1


async def test_a_message_without_a_key_goes_to_the_partition_it_came_from(platform: Platform) -> None:
    async with letters_at(platform) as (pool, settings):
        headers: Any = [("empty", None)]
        await put_one(pool, given_up(canonical(), topic=platform.topic, key=None, headers=headers))
        assert (await replay(pool, settings)).sent == {platform.topic: 1}
        [record] = await read(platform, 1, platform.topic)
        sent: tuple[Any, ...] = (record.key, record.partition, record.headers["empty"])
        assert sent == (None, 3, None)


async def test_two_replays_at_once_send_each_letter_once(platform: Platform) -> None:
    async with letters_at(platform) as (pool, settings):
        letters = [
            given_up(canonical(user_id=f"u{n}"), topic=platform.topic, offset=n, key=b"u%d" % n) for n in range(700)
        ]
        await put(pool, *letters)
        outcomes = await asyncio.gather(*[replay(pool, settings) for _ in range(3)])
        assert sum(outcome.done for outcome in outcomes) == 700
        assert await states_of(pool) == {"replayed": 700}
        again = await replay(pool, settings)
        assert (again.seen, again.complete) == (0, True)
        records = await read(platform, 700, platform.topic)
        assert len(records) == 700
        assert {record.headers["retry-count"] for record in records} == {b"1"}


async def test_a_letter_that_is_locked_for_a_moment_is_replayed_all_the_same(platform: Platform) -> None:
    async with letters_at(platform) as (pool, settings):
        one = await put_one(pool, given_up(canonical(), topic=platform.topic))
        async with pool.acquire() as connection:
            relaying = connection.transaction()
            await relaying.start()
            await connection.execute("select from dead_letters for update")
            waiting = asyncio.create_task(replay(pool, settings, one))
            await asyncio.sleep(0.3)
            await relaying.rollback()
            outcome = await waiting
        assert (outcome.sent, outcome.busy) == ({platform.topic: 1}, 0)


async def test_a_letter_that_stays_locked_is_left_to_whoever_holds_it(platform: Platform) -> None:
    async with letters_at(platform) as (pool, settings):
        await put(pool, *[given_up(canonical(), topic=platform.topic) for _ in range(3)])
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("select from dead_letters order by dead_letter_id limit 2 for update")
            outcome = await replay(pool, settings)
        assert (outcome.sent, outcome.busy) == ({platform.topic: 1}, 2)
        assert await states_of(pool) == {"open": 2, "replayed": 1}


async def test_letters_of_one_user_are_replayed_in_the_order_in_which_they_failed(platform: Platform) -> None:
    async with letters_at(platform) as (pool, settings):
        for number in reversed(range(5)):
            letter = given_up(canonical(metadata={"n": number}), topic=platform.topic)
            await put_one(pool, letter, failed_at=AT + timedelta(seconds=number))
        await replay(pool, settings)
        assert [record.json()["metadata"]["n"] for record in await read(platform, 5, platform.topic)] == [0, 1, 2, 3, 4]


async def test_a_limit_is_kept_and_the_next_run_goes_on(platform: Platform) -> None:
    async with letters_at(platform) as (pool, settings):
        await put(pool, *[given_up(canonical(), topic=platform.topic, offset=number) for number in range(250)])
        first = await replay(pool, settings, limit=120)
        assert (first.done, first.complete) == (120, False)
        second = await replay(pool, settings, limit=130)
        assert (second.done, second.complete) == (130, True)


async def test_a_dry_run_changes_nothing(platform: Platform) -> None:
    async with letters_at(platform) as (pool, settings):
        await put(pool, given_up(canonical(), topic=platform.topic), refused(b'{"event_name":"e"}'))
        before = await rows_of(pool)
        outcome = await replay(pool, settings, dry_run=True)
        assert (outcome.sent, outcome.accepted) == ({platform.topic: 1}, 1)
        assert await rows_of(pool) == before
        records: list[Record] = []
        scan(settings.kafka_bootstrap_servers, platform.topic, records.append)
        assert records == []


async def test_filters_choose_what_is_replayed(platform: Platform) -> None:
    async with letters_at(platform) as (pool, settings):
        event_id = uuid.uuid4()
        one = await put_one(pool, given_up(canonical(str(event_id), tenant_id="t"), topic=platform.topic), failed_at=AT)
        await put(pool, *[given_up(canonical(), topic=platform.topic, reason="invalid_event") for _ in range(3)])
        for given in (
            {"reason": "not_json"},
            {"tenant": "t"},
            {"event_id": event_id},
            {"until": AT + timedelta(seconds=1)},
            {"since": AT, "until": AT + timedelta(seconds=1)},
        ):
            assert (await replay(pool, settings, dry_run=True, **given)).done == 1, given
        for given in ({"reason": "x"}, {"tenant": "x"}, {"source": "x"}, {"topic": "x"}, {"since": AT, "until": AT}):
            assert (await replay(pool, settings, dry_run=True, **given)).seen == 0, given
        assert (await replay(pool, settings, one, reason="invalid_event")).left_out == {"a filter excludes it": 1}
        assert (await replay(pool, settings, reason="not_json")).sent == {platform.topic: 1}
        assert await states_of(pool) == {"replayed": 1, "open": 3}


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"stub": True}, "too large to be kept"),
        ({"retry_count": 5}, r"--force"),
        ({"value": None}, "no value"),
        ({"reason": "not_a_dead_letter"}, r"--to-topic"),
        ({"topic": "elsewhere"}, "no event of topic elsewhere"),
        ({"state": "resolved"}, "it is resolved, not open"),
    ],
)
async def test_what_cannot_be_replayed_is_left_out_with_the_reason(
    platform: Platform, columns: dict[str, object], why: str
) -> None:
    async with letters_at(platform) as (pool, settings):
        one = await put_one(pool, given_up(canonical(), topic=platform.topic), **columns)
        before = await rows_of(pool)
        outcome = await replay(pool, settings, one)
        [(letter, said)] = outcome.examples
        assert (letter, outcome.done) == (one, 0)
        assert re.search(why, said)
        assert await rows_of(pool) == before


async def test_what_is_left_out_can_be_had_by_saying_so(platform: Platform) -> None:
    async with letters_at(platform) as (pool, settings):
        often = await put_one(pool, given_up(canonical(), topic=platform.topic), retry_count=5)
        assert (await replay(pool, settings, often, force=True)).sent == {platform.topic: 1}
        foreign = letter_on_topic(FakeMessage(platform.dlq_topic, 0, 0, canonical()))
        assert (await replay(pool, settings, await put_one(pool, foreign), to_topic=platform.topic)).sent == {
            platform.topic: 1
        }
        gone = await put_one(pool, given_up(canonical(), topic=platform.topic), state="discarded")
        assert (await replay(pool, settings, gone, state="discarded")).sent == {platform.topic: 1}
        lost = await put_one(pool, given_up(canonical(), topic=platform.topic), state="replayed")
        assert (await replay(pool, settings, lost, state="replayed")).sent == {platform.topic: 1}
        with pytest.raises(BadSelection, match="no event of topic"):
            await replay(pool, settings, often, to_topic=platform.dlq_topic)


async def test_one_letter_can_be_mended_and_keeps_its_identity(platform: Platform) -> None:
    event_id = uuid.uuid4()
    value = canonical(str(event_id), user_id="", metadata={"price": "x", "\x00": 1})
    async with letters_at(platform) as (pool, settings):
        one = await put_one(pool, given_up(value, topic=platform.topic, headers=[("event-id", b"1")]))
        mend = Mend(put={"user_id": "user-9", "metadata.price": 9.5}, drop=["metadata.\x00"])
        changed = await replay(pool, settings, one, mend=Mend(put={"event_id": str(uuid.uuid4())}))
        [(_, why)] = changed.examples
        assert "keeps the event's identity" in why
        assert (await replay(pool, settings, one, mend=mend)).sent == {platform.topic: 1}
        [record] = await read(platform, 1, platform.topic)
        said = record.json()
        assert (said["event_id"], said["user_id"], said["metadata"]) == (str(event_id), "user-9", {"price": 9.5})
        assert (record.key, record.partition) == (b"user-9", partition_for(b"user-9", 6))
        assert record.headers["event-id"] == str(event_id).encode()
        [row] = await rows_of(pool)
        assert row["value"] == value, "the original bytes stay"
        for selection in (Selection(), Selection([one, uuid.uuid4()])):
            with pytest.raises(BadSelection, match="one letter at a time"):
                await Desk(pool, settings).replay(selection, ReplayOptions(topics=(), mend=mend))
        with pytest.raises(NoSuchLetter):
            await replay(pool, settings, uuid.uuid4(), mend=mend)


async def test_kafka_away_stops_a_replay_and_leaves_what_was_not_sent_open(
    platform: Platform, backend: Backend
) -> None:
    async with letters_at(platform) as (pool, settings):
        await put(pool, *[given_up(canonical(), topic=platform.topic, offset=number) for number in range(250)])
        await asyncio.to_thread(backend.kill_kafka)
        try:
            outcome = await replay(pool, settings)
        finally:
            await asyncio.to_thread(backend.start_kafka)
        assert isinstance(outcome.problem, BrokerUnavailable)
        assert (outcome.done, outcome.complete) == (0, False)
        assert await states_of(pool) == {"open": 250}
        assert (await replay(pool, settings)).done == 250


async def test_what_the_door_refused_goes_through_it_again(platform: Platform) -> None:
    ingestion = await asyncio.to_thread(platform.start, "ingestion_service")
    known = str(uuid.uuid4())
    cloudevent = {"specversion": "1.0", "id": "1", "source": "s", "type": "e", "subject": "u"}
    binary = [(f"ce-{name}", str(value).encode()) for name, value in cloudevent.items()]
    bodies: dict[str, tuple[bytes, list[tuple[str, bytes]]]] = {
        "event": (orjson.dumps({"event_id": known, "user_id": "u", "event_name": "event"}), []),
        "no id": (b'{"user_id":"u","event_name":"no id","metadata":{"n":18446744073709551615}} ', []),
        "product": (b'{"user_id":"u","event_type":"product","event_id":null}', []),
        "system": (b'{"learner_id":"u","event_type":"system","event_data":{},"tenant_id":"t"}', []),
        "structured": (orjson.dumps({**cloudevent, "type": "structured", "id": str(uuid.uuid4())}), []),
        "binary": (
            b'{"a":1}',
            [*binary[:3], ("ce-type", b"binary"), ("ce-subject", b"u"), ("content-type", b"application/json")],
        ),
    }
    async with letters_at(platform, INGESTION_URL=ingestion.url) as (pool, settings):
        ids = {name: await put_one(pool, refused(body, headers=headers)) for name, (body, headers) in bodies.items()}
        outcome = await replay(pool, settings)
        assert (outcome.refused, outcome.left_out) == ({}, {})
        assert outcome.accepted == 6
        assert await states_of(pool) == {"resolved": 6}
        records = await read(platform, 5, platform.topic) + await read(platform, 1, platform.product_topic)
        stored = {record.json()["event_name"]: record.json() for record in records}
        assert stored.keys() == bodies.keys()
        assert stored["event"]["event_id"] == known
        for name in ("no id", "product", "system"):
            assert stored[name]["event_id"] == str(ids[name]), "so that sending it again stores it once"
        assert stored["no id"]["metadata"] == {"n": 18446744073709551615}
        assert stored["system"]["tenant_id"] == "t"
        assert stored["binary"]["metadata"] == {"a": 1}
        # As after a crash between the door's answer and the note of it: the same event, not another one.
        await pool.execute("update dead_letters set state = 'open'")
        assert (await replay(pool, settings)).accepted == 6
        seen = await read(platform, 5, platform.topic) + await read(platform, 1, platform.product_topic)
        assert {record.json()["event_id"] for record in seen} == {record.json()["event_id"] for record in records}


async def test_what_the_door_refuses_again_says_what_is_wrong_now_and_can_be_mended(platform: Platform) -> None:
    ingestion = await asyncio.to_thread(platform.start, "ingestion_service")
    async with letters_at(platform, INGESTION_URL=ingestion.url) as (pool, settings):
        one = await put_one(pool, refused(b'{"event_name":"e","metadata":{}}'), reason="old")
        learner = await put_one(pool, refused(b'{"learner_id":5,"event_type":"e","event_data":{}}'), reason="old")
        outcome = await replay(pool, settings)
        assert (outcome.refused, outcome.done, outcome.complete) == ({"missing_field": 1, "wrong_type": 1}, 2, True)
        rows = {row["dead_letter_id"]: row for row in await rows_of(pool)}
        assert (rows[one]["state"], rows[one]["reason"], rows[one]["retry_count"]) == ("open", "missing_field", 1)
        assert rows[one]["error"] == "user_id: Field required"
        assert rows[learner]["reason"] == "wrong_type"
        mend = Mend(put={"user_id": "u"})
        assert (await replay(pool, settings, one, mend=mend)).accepted == 1
        [record] = await read(platform, 1, platform.topic)
        assert (record.json()["user_id"], record.json()["event_id"]) == ("u", str(one))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "the consumer's own"])
async def test_a_door_that_is_none_stops_the_replay_and_names_the_setting(platform: Platform, url: str) -> None:
    if not url.startswith("http"):
        url = (await asyncio.to_thread(platform.start, "analytics_service")).url
    async with letters_at(platform, INGESTION_URL=url) as (pool, settings):
        await put(pool, refused(b'{"event_name":"e"}'), refused(b'{"learner_id":"e"}'))
        outcome = await replay(pool, settings)
        assert outcome.problem is not None
        assert "INGESTION_URL" in outcome.problem.message
        assert await states_of(pool) == {"open": 2}


KEY = "0123456789abcdef"


@contextlib.asynccontextmanager
async def client_of(pool: asyncpg.Pool, settings: ConsumerSettings) -> AsyncIterator[httpx.AsyncClient]:
    async def pipeline(_: asyncio.Event) -> None:
        raise AssertionError("no pipeline runs without the lifespan")

    router = dead_letter_router(Desk(pool, settings), SecretStr(KEY))
    app = create_app("test", Deps(pipeline, [], Metrics(), lambda _: None, [router]))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers={"X-API-Key": KEY}) as client:
        yield client


async def test_the_same_can_be_done_over_http(platform: Platform) -> None:
    async with letters_at(platform) as (pool, settings), client_of(pool, settings) as client:
        event_id = uuid.uuid4()
        one = await put_one(
            pool, given_up(canonical(str(event_id), user_id=""), topic=platform.topic, reason="invalid_event")
        )
        await put(pool, *[given_up(canonical(), topic=platform.topic, offset=number) for number in range(4)])

        page = (await client.get("/dead-letters", params={"limit": 3})).json()
        rest = (await client.get("/dead-letters", params={"limit": 3, "after": page["next"]})).json()
        assert (len(page["letters"]), len(rest["letters"]), rest["next"]) == (3, 2, None)
        found = (await client.get("/dead-letters", params={"event_id": str(event_id)})).json()["letters"]
        assert [letter["dead_letter_id"] for letter in found] == [str(one)]
        assert (await client.get(f"/dead-letters/{one}")).json()["value"]["data"].startswith('{"event_id"')
        missing = await client.get(f"/dead-letters/{uuid.uuid4()}")
        assert (missing.status_code, missing.json()["error_code"]) == (404, "no_such_letter")

        wish = {"ids": [str(one)], "set": {"user_id": "u2"}, "dry_run": True}
        tried = (await client.post("/dead-letters/replay", json=wish)).json()
        assert (tried["dry_run"], tried["sent"]) == (True, {platform.topic: 1})
        assert await states_of(pool) == {"open": 5}
        done = (await client.post("/dead-letters/replay", json={**wish, "dry_run": False})).json()
        assert (done["sent"], done["complete"], done["problem"]) == ({platform.topic: 1}, True, None)
        assert await states_of(pool) == {"open": 4, "replayed": 1}
        [record] = await read(platform, 1, platform.topic)
        assert (record.json()["user_id"], record.json()["event_id"]) == ("u2", str(event_id))

        wish = {"all": True, "limit": 3, "note": "noise"}
        gone = (await client.post("/dead-letters/discard", json=wish)).json()
        assert (gone["discarded"], gone["complete"]) == (3, False)
        assert await states_of(pool) == {"open": 1, "replayed": 1, "discarded": 3}


async def test_over_http_too_what_is_away_is_a_503_that_says_what(platform: Platform) -> None:
    async with letters_at(platform, INGESTION_URL="http://127.0.0.1:1") as (pool, settings):
        await put(pool, refused(b'{"event_name":"e"}'))
        async with client_of(pool, settings) as client:
            reply = await client.post("/dead-letters/replay", json={"all": True})
    assert (reply.status_code, reply.json()["error_code"]) == (503, "ingestion_unavailable")
    assert reply.json()["retryable"] is True
    assert "Retry-After" in reply.headers
    async with pool_of("postgresql://postgres:hunter2@127.0.0.1:1/x") as pool, client_of(pool, settings) as client:
        reply = await client.get("/dead-letters")
        assert (reply.status_code, reply.json()["error_code"]) == (503, "database_unavailable")
