"""Row 22 of the fault matrix, with the consumer at work: no letter is lost, and an event is stored once however it came."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

import httpx
import orjson
import psycopg
import pytest

from tests.conftest import Platform
from tests.integration.test_dlq_command import ROOT, dlq, environment, states
from tests.support.backend import Backend
from tests.support.letters import canonical
from tests.support.topics import read_topic, write_topic
from tests.support.wait import count, query, until

pytestmark = pytest.mark.integration


def poison(number: int) -> tuple[bytes, bytes]:
    """An event whose only fault is its empty user_id, so that mending it is one change."""
    return b"", canonical(str(uuid.UUID(int=number + 1)), user_id="", metadata={"n": number})


def letters(platform: Platform, what: str = "dead_letter_id") -> list[Any]:
    return [row[0] for row in query(platform.database_url, f"select {what} from dead_letters order by failed_at, 1")]


def until_states(platform: Platform, expected: dict[str, int]) -> None:
    until(f"{expected}", lambda: states(platform) == expected)


def relayed(platform: Platform) -> bool:
    return query(platform.database_url, "select count(*) from dead_letters where relayed_at is null") == [(0,)]


def test_a_killed_broker_loses_no_letter_and_each_comes_to_the_topic(platform: Platform, backend: Backend) -> None:
    platform.start("event_consumer")
    write_topic(platform, [poison(number) if number % 3 == 0 else (b"u", canonical()) for number in range(900)])
    until("all are set aside", lambda: count(platform.database_url, "dead_letters") == 300)
    backend.kill_kafka()
    try:
        # What was sent but not noted, and what was not sent at all.
        execute(platform, "update dead_letters set relayed_at = null")
        left = count(platform.database_url, "dead_letters")
    finally:
        backend.start_kafka()
    until("all are relayed", lambda: relayed(platform), seconds=120)
    records = read_topic(platform, 300, 60, platform.dlq_topic)
    assert {record.headers["dead-letter-id"].decode() for record in records} == set(map(str, letters(platform)))
    assert (left, count(platform.database_url, "dead_letters"), count(platform.database_url)) == (300, 300, 600)


def execute(platform: Platform, statement: str) -> None:
    with psycopg.connect(platform.database_url, autocommit=True) as connection:
        connection.execute(statement)


async def _several(platform: Platform, *commands: Sequence[object]) -> list[int]:
    done = await asyncio.gather(*[asyncio.to_thread(dlq, platform, *command) for command in commands])
    return [each.returncode for each in done]


def test_replays_at_once_and_again_store_each_event_once(platform: Platform) -> None:
    consumer = platform.start("event_consumer")
    # Refused for a fault of ours, which is taken away; not so many among the others that nothing more would be set aside.
    execute(platform, "alter table events add constraint ours check (event_name <> 'later')")
    names = ["later" if number % 4 == 0 else "e" for number in range(1_600)]
    write_topic(platform, [(b"u%d" % n, canonical(user_id=f"u{n}", event_name=name)) for n, name in enumerate(names)])
    until_states(platform, {"open": 400})
    execute(platform, "alter table events drop constraint ours")

    codes = asyncio.run(_several(platform, *[["replay", "--all", "--yes"]] * 2))
    assert set(codes) <= {0, 3, 4}, "the letters are shared out"
    until("all are stored", lambda: count(platform.database_url) == 1600)
    until_states(platform, {"resolved": 400})
    assert dlq(platform, "replay", "--all", "--yes").returncode == 3

    # As after a crash between sending and noting it: the letters are open, and are sent again.
    execute(platform, "update dead_letters set state = 'open'")
    assert dlq(platform, "replay", "--all", "--yes").returncode == 0
    until_states(platform, {"resolved": 400})
    assert count(platform.database_url) == 1600
    until("counted as duplicates", lambda: consumer.metric("consumer_events_duplicate_total") >= 400)
    assert len(read_topic(platform, 2400)) == 2400, "those of the client, and each letter twice"


def test_a_killed_replay_is_run_again_and_stores_each_event_once(platform: Platform) -> None:
    platform.start("event_consumer", CONSUMER_BREAKER_SHARE="1")
    write_topic(platform, [(b"u%d" % n, canonical(user_id=f"u{n}")) for n in range(3_000)], topic=platform.dlq_topic)
    until_states(platform, {"open": 3_000})
    arguments = ["replay", "--all", "--yes", "--to-topic", platform.topic]
    with subprocess.Popen(
        [sys.executable, "-m", "tools.dlq", *arguments], cwd=ROOT, env=environment(platform)
    ) as replaying:
        until("it has begun", lambda: states(platform)["open"] < 3_000)
        replaying.kill()
    assert dlq(platform, *arguments).returncode in (0, 3)
    until_states(platform, {"resolved": 3_000})
    assert count(platform.database_url) == 3_000


def failed(platform: Platform, times: int) -> bool:
    return query(platform.database_url, "select state, retry_count from dead_letters") == [("open", times)]


def test_a_letter_that_fails_again_is_open_again_until_it_is_mended(platform: Platform) -> None:
    platform.start("event_consumer")
    write_topic(platform, [poison(7)])
    until_states(platform, {"open": 1})
    [one] = letters(platform)
    for times in range(1, 6):
        assert dlq(platform, "replay", one).returncode == 0
        until("it failed again", partial(failed, platform, times))
    refused = dlq(platform, "replay", one)
    assert refused.returncode == 4
    assert "--force" in refused.stdout
    assert letters(platform) == [one], "it is one letter all the time"

    assert dlq(platform, "replay", one, "--set", 'user_id="u"', "--force").returncode == 0
    until_states(platform, {"resolved": 1})
    assert query(platform.database_url, "select event_id, user_id from events") == [(uuid.UUID(int=8), "u")]


def test_what_the_door_refuses_is_a_letter_that_can_be_mended(platform: Platform) -> None:
    ingestion = platform.start("ingestion_service")
    platform.start("event_consumer")
    assert httpx.post(ingestion.url + "/events", json={"event_name": "e", "metadata": {"a": 1}}).status_code == 422
    until_states(platform, {"open": 1})
    [one] = letters(platform)
    assert letters(platform, "source") == ["ingestion_service"]
    done = dlq(platform, "replay", one, "--set", 'user_id="u"', INGESTION_URL=ingestion.url)
    assert (done.returncode, done.stderr) == (0, "")
    until("it is stored", lambda: count(platform.database_url) == 1)
    assert states(platform) == {"resolved": 1}
    assert query(platform.database_url, "select event_id, user_id, metadata from events") == [(one, "u", {"a": 1})]


def test_what_the_door_refuses_again_is_the_letter_that_it_was(platform: Platform) -> None:
    ingestion = platform.start("ingestion_service")
    platform.start("event_consumer")
    assert httpx.post(ingestion.url + "/events", json={"event_name": "e"}).status_code == 422
    assert httpx.post(ingestion.url + "/api/v1/collect", json=[{"learner_id": "u"}]).status_code == 422
    until_states(platform, {"open": 2})
    assert dlq(platform, "replay", "--all", "--yes", INGESTION_URL=ingestion.url).returncode == 4
    # Whatever else the door put on the topic lies before this.
    write_topic(platform, [(None, b"last")], topic=platform.dlq_topic)
    until("the last is there", lambda: "not_a_dead_letter" in letters(platform, "reason"))
    assert sorted(letters(platform, "retry_count")) == [0, 1, 1]


def test_what_somebody_else_puts_on_the_topic_is_a_letter_too_and_goes_where_one_says(platform: Platform) -> None:
    platform.start("event_consumer")
    event = canonical()
    write_topic(platform, [(b"u", event), (None, b"\xff")], topic=platform.dlq_topic)
    until_states(platform, {"open": 2})
    assert set(letters(platform, "reason")) == {"not_a_dead_letter"}
    assert dlq(platform, "replay", "--all", "--yes").returncode == 4
    assert dlq(platform, "replay", "--all", "--yes", "--to-topic", platform.topic).returncode == 0
    until("the event is stored", lambda: count(platform.database_url) == 1)
    until_states(platform, {"open": 1, "resolved": 1})
    assert query(platform.database_url, "select reason, retry_count from dead_letters where state = 'open'") == [
        ("not_json", 1)
    ]


def test_the_consumer_answers_for_its_letters_over_http(platform: Platform) -> None:
    key = "0123456789abcdef"
    consumer = platform.start("event_consumer", ADMIN_API_KEY=key)
    write_topic(platform, [poison(1)])
    until_states(platform, {"open": 1})
    assert consumer.get("/dead-letters").status_code == 401
    with httpx.Client(base_url=consumer.url, headers={"Authorization": f"Bearer {key}"}) as client:
        [letter] = client.get("/dead-letters").json()["letters"]
        shown = client.get(f"/dead-letters/{letter['dead_letter_id']}").json()
        assert orjson.loads(shown["value"]["data"])["metadata"] == {"n": 1}
        wish = {"ids": [letter["dead_letter_id"]], "set": {"user_id": "u"}}
        assert client.post("/dead-letters/replay", json=wish, timeout=30).json()["sent"] == {platform.topic: 1}
    until_states(platform, {"resolved": 1})
    assert count(platform.database_url) == 1
