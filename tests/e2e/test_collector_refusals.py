"""Events that are not simply stored: what the broker refuses, copies, conflicts, and what the door refuses."""

from __future__ import annotations

import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import orjson
import pytest

from tests.conftest import Platform
from tests.e2e.clients import post_batches, post_events
from tests.e2e.load import assert_in_order, drained, events, learner_events, product_events
from tests.e2e.oracle import Ledger
from tests.e2e.sinks import Sinks, dead_letters, judge, quarantine
from tests.support.admin import alter_topic
from tests.support.backend import Backend
from tests.support.process import Service
from tests.support.topics import Record
from tests.support.wait import count, until

pytestmark = pytest.mark.e2e

ERRORS = "__connect.errors."


def connected(service: Service) -> None:
    until("it is connected", lambda: service.get("/api/v1/health").json()["status"] == "healthy")


def letters(platform: Platform, number: int) -> list[Record]:
    """The dead letters on their topic, once there are ``number`` of them."""
    found: list[Record] = []

    def enough() -> bool:
        found[:] = dead_letters(platform.settings["KAFKA_BOOTSTRAP_SERVERS"], platform.dlq_topic)
        return len(found) >= number

    until(f"{number} dead letters", enough)
    assert len(found) == number
    return found


def assert_form(letter: Record, topic: str, stage: str, reason: str, retries: int) -> None:
    """The one form of a dead letter (docs/wire-contract.md)."""
    text = {name: value.decode() for name, value in letter.headers.items()}
    assert text[ERRORS + "topic"] == topic
    assert text[ERRORS + "connector.name"] == "ingestion_service"
    assert text[ERRORS + "stage"] == stage
    assert text[ERRORS + "exception.class.name"] == reason
    assert text[ERRORS + "exception.message"]
    assert text["retry-count"] == str(retries)
    assert datetime.fromisoformat(text["failed-at"]).tzinfo is not None
    assert uuid.UUID(text["dead-letter-id"])


@pytest.mark.parametrize("spooled", [False, True], ids=["at once", "from disk"])
def test_row_8_an_event_too_large_for_the_broker_is_a_dead_letter_alone(
    platform: Platform, backend: Backend, spooled: bool
) -> None:
    ingestion = platform.start("ingestion_service")
    connected(ingestion)
    made = learner_events(41)
    for each in made:
        each["learner_id"] = "learner_1"  # so that all are neighbours in one partition
    large = made[20]
    large["event_data"] = {"noise": random.randbytes(50_000).hex()}
    ledger = Ledger()
    alter_topic(backend.kafka, platform.topic, max_message_bytes=20_000)
    if spooled:
        assert ingestion.stop() == 0
        backend.kill_kafka()
    try:
        if spooled:
            ingestion.start()
        posted = post_batches(ingestion.url + "/api/v1/collect", made, ledger, size=41)
    finally:
        backend.start_kafka()
    assert len(posted.acknowledged) == 41
    [letter] = letters(platform, 1)
    assert_form(letter, platform.topic, "KAFKA_PRODUCE", "refused_by_broker", 1)
    assert letter.headers["event-id"] == large["event_id"].encode()
    assert letter.key == b"learner_1"
    assert letter.json()["metadata"] == large["event_data"]

    connected(ingestion)
    url = ingestion.url + "/events"
    following = post_events(url, events(2, "learner")[1:], ledger)
    reply = httpx.post(url, json={**events(1)[0], "metadata": large["event_data"]})
    assert (reply.status_code, reply.json()["error_code"]) == (413, "event_too_large"), "now the door knows the limit"
    assert following.statuses() == {202}
    platform.start("event_consumer")
    drained(platform, 41)
    judge(ledger, Sinks.of(platform)).assert_clean()
    assert count(platform.database_url) == 41
    assert_in_order(platform, ledger)


def test_a_copy_is_a_duplicate_and_other_content_a_conflict(platform: Platform) -> None:
    ingestion = platform.start("ingestion_service")
    connected(ingestion)
    platform.start("event_consumer")
    url, collect = ingestion.url + "/events", ingestion.url + "/api/v1/collect"
    [event], [product], [learner] = events(1), product_events(1), learner_events(1)
    for path, sent in ((url, event), (url, product)):
        assert [httpx.post(path, json=sent).json()["status"] for _ in range(3)] == [
            "accepted",
            "duplicate",
            "duplicate",
        ]
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda _: httpx.post(collect, json=[learner, learner]).json(), range(20)))
    codes = [result["code"] for reply in replies for result in reply["results"]]
    assert codes == ["duplicate"] * 39, "of forty copies at once one is the event"
    assert {reply["accepted_count"] for reply in replies} == {2}

    conflicts: list[tuple[str, dict[str, Any], str]] = [
        (url, {**event, "metadata": {"n": -1}}, platform.topic),
        (url, {**product, "variant": "C"}, platform.product_topic),
    ]
    for path, other, _ in conflicts:
        reply = httpx.post(path, json=other)
        assert (reply.status_code, reply.json()["error_code"], reply.json()["retryable"]) == (409, "conflict", False)
    other = {**learner, "event_type": "progress"}
    reply = httpx.post(collect, json=[other, learner_events(1)[0]])
    assert reply.status_code == 207
    [result] = reply.json()["results"]
    assert (result["index"], result["event_id"], result["code"]) == (0, learner["event_id"], "rejected")
    assert (result["reason"], result["field"], result["retryable"]) == ("conflict", "event_id", False)
    assert reply.json()["dlq_events"] == [learner["event_id"]]
    conflicts.append((collect, other, platform.topic))

    found = {orjson.loads(letter.value or b"")["event_id"]: letter for letter in letters(platform, 3)}
    for _, other, topic in conflicts:
        letter = found[other["event_id"]]
        assert letter.json() == other, "the second content is kept as it was sent"
        assert_form(letter, topic, "VALUE_CONVERTER", "conflict", 0)
    drained(platform, 4)
    assert count(platform.database_url) == 4


def test_what_is_refused_is_kept_with_its_bytes_and_after_three_failures_set_aside(platform: Platform) -> None:
    ingestion = platform.start("ingestion_service")
    connected(ingestion)
    url, collect = ingestion.url + "/events", ingestion.url + "/api/v1/collect"
    good = orjson.dumps(learner_events(1)[0])
    bad_ones = {
        b'{ "learner_id":"l\\u00fc", "event_type" : "no such type", "x":1.50}': "unknown_value",
        b'{"event_id":"00000000-0000-0000-0000-000000000001","learner_id":"","event_type":"error"}': "bad_length",
        b'{"learner_id":"l","event_type":"error","event_data":{"n":1e999}}': "unstorable_value",
        b"7": "not_an_object",
    }
    body = b"[" + b" ,\n".join([good, *bad_ones]) + b"]"
    reply = httpx.post(collect, content=body).json()
    assert (reply["accepted_count"], reply["rejected_count"]) == (1, 4)
    assert [(result["index"], result["code"]) for result in reply["results"]] == [(n, "rejected") for n in (1, 2, 3, 4)]
    single = b'{"user_id":"u" , "event_name":"e","metadata":[]}'
    product = b'{"user_id":"u","event_type":"e","event_time":"yesterday"}'
    binary = b'{"any":"thing"}'
    assert httpx.post(url, content=single).status_code == 422
    assert httpx.post(url, content=product).status_code == 422
    ce = {"ce-specversion": "1.0", "ce-id": "x", "ce-source": "/s", "content-type": "application/json"}
    assert httpx.post(url, content=binary, headers=ce).status_code == 422, "without ce-type"
    for unparsed in (b"", b"{", b"[1]", b'{"user_id":"\xff"}'):
        assert httpx.post(url, content=unparsed).status_code in (400, 422)

    expected = {**bad_ones, single: "wrong_type", product: "bad_timestamp", binary: "missing_field"}
    found = {letter.value: letter for letter in letters(platform, len(expected))}
    assert found.keys() == expected.keys()
    for raw, reason in expected.items():
        topic = platform.product_topic if raw == product else platform.topic
        assert_form(found[raw], topic, "VALUE_CONVERTER", reason, 0)
    assert found[binary].headers["ce-source"] == b"/s"

    assert [httpx.post(url, content=single).status_code for _ in range(4)] == [422] * 4
    again = [letter for letter in letters(platform, len(expected) + 2) if letter.value == single]
    assert sorted(letter.headers["retry-count"] for letter in again) == [b"0", b"1", b"2"]
    assert quarantine(platform.buffer_dir) == [single]
    assert ingestion.metric("ingestion_quarantined_total") == 1
