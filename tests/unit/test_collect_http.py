"""POST /api/v1/collect, and what both endpoints share, as a client meets it over HTTP."""

from __future__ import annotations

import gzip
import json
import uuid
import zlib
from collections.abc import Sequence
from typing import Any

import brotli  # type: ignore[import-untyped]  # ships no types
import httpx
import pytest
import zstandard

from event_core.codec import Record
from event_core.errors import BrokerUnavailable, Unavailable
from ingestion_service.delivery import Delivery, Stored
from ingestion_service.errors import BufferFull
from ingestion_service.publisher import MemoryPublisher
from ingestion_service.settings import IngestionSettings
from tests.unit.ingestion import GOOD, Ingestion, error_of

FIELDS = {
    "batch_id",
    "accepted_count",
    "rejected_count",
    "processing_time_ms",
    "kafka_partition",
    "dlq_events",
    "warnings",
    "results",
}


def learner(**fields: Any) -> dict[str, Any]:
    """The collector document's own example, with an id of its own."""
    return {
        "event_id": str(uuid.uuid4()),
        "learner_id": "learner_001",
        "tenant_id": "tenant_alpha",
        "event_type": "interaction",
        "timestamp": "2024-01-15T10:30:00Z",
        "source_service": "learning-app",
        "event_data": {"action": "click", "element": "next_button"},
        "metadata": {},
        **fields,
    }


async def collect(service: Ingestion, body: Any, path: str = "/api/v1/collect", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await service.request("POST", path, content=content, headers=given)


async def test_a_batch_that_is_good_is_answered_with_exactly_the_documented_fields() -> None:
    service = Ingestion()
    events = [learner() for _ in range(3)]
    reply = await collect(service, {"batch_id": "550e8400-e29b-41d4-a716-446655440000", "events": events})
    assert reply.status_code == 200
    body = reply.json()
    assert set(body) == FIELDS
    assert body["batch_id"] == "550e8400-e29b-41d4-a716-446655440000"
    assert (body["accepted_count"], body["rejected_count"]) == (3, 0)
    assert (body["dlq_events"], body["warnings"], body["results"]) == ([], [], [])
    assert body["processing_time_ms"] >= 0
    assert [str(event["event_id"]) for event in service.events()] == [event["event_id"] for event in events]
    assert {"x-request-id", "x-process-time"} <= set(reply.headers)


async def test_one_bad_event_never_fails_its_batch() -> None:
    service = Ingestion()
    bad = learner(event_type="nonsense")
    reply = await collect(service, [learner(), bad, 5, learner()])
    assert reply.status_code == 207
    body = reply.json()
    assert (body["accepted_count"], body["rejected_count"]) == (2, 2)
    first, second = body["results"]
    assert (first["index"], first["event_id"], first["code"]) == (1, bad["event_id"], "rejected")
    assert (first["field"], first["reason"], first["retryable"]) == ("event_type", "unknown_value", False)
    assert (second["index"], second["event_id"], second["reason"]) == (2, None, "not_an_object")
    assert body["dlq_events"][0] == bad["event_id"]
    letters = service.dead_letters()
    assert [letter.value for letter in letters] == [json.dumps(bad).encode(), b"5"]
    headers = dict(letters[0].headers)
    assert headers["__connect.errors.exception.class.name"] == b"unknown_value"
    assert headers["__connect.errors.topic"] == b"events"
    assert {"retry-count", "failed-at", "dead-letter-id", "__connect.errors.exception.message"} <= set(headers)
    assert headers["retry-count"] == b"0"


async def test_a_batch_of_which_nothing_is_good_is_a_422_whose_events_are_dead_letters() -> None:
    service = Ingestion()
    reply = await collect(service, [learner(learner_id=""), learner(timestamp="soon")])
    assert reply.status_code == 422
    assert [result["reason"] for result in reply.json()["results"]] == ["bad_length", "bad_timestamp"]
    assert len(service.dead_letters()) == 2
    assert service.records() == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "empty_body"),
        (b"[", 400, "malformed_body"),
        (b"[]", 400, "empty_batch"),
        (b'{"events":5}', 400, "not_a_batch"),
        (b'"text"', 400, "not_a_batch"),
        (json.dumps([learner() for _ in range(1_001)]).encode(), 413, "batch_too_large"),
        (b"[" + b"[]," * 60_000 + b"[]]", 413, "too_wide"),
    ],
    ids=["nothing", "no JSON", "empty", "no array", "a text", "1,001 events", "too wide"],
)
async def test_what_is_no_batch_is_refused_whole_and_leaves_no_dead_letter(body: bytes, status: int, code: str) -> None:
    service = Ingestion()
    reply = await collect(service, body)
    assert (reply.status_code, error_of(reply)["error_code"]) == (status, code)
    assert service.publisher.sent == []
    assert service.rejected() == {code: 1.0}


async def test_a_thousand_events_are_taken() -> None:
    service = Ingestion()
    assert (await collect(service, [learner() for _ in range(1_000)])).json()["accepted_count"] == 1_000


async def test_verbose_lists_every_event() -> None:
    service = Ingestion()
    events = [learner(), learner(event_type="?"), learner()]
    body = (await collect(service, events, "/api/v1/collect?verbose=1")).json()
    assert [(result["index"], result["code"]) for result in body["results"]] == [
        (0, "accepted"),
        (1, "rejected"),
        (2, "accepted"),
    ]
    assert body["results"][2]["event_id"] == events[2]["event_id"]


@pytest.mark.parametrize("path", ["/events", "/api/v1/collect"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "br"])
async def test_both_endpoints_take_compressed_bodies(path: str, encoding: str) -> None:
    service = Ingestion()
    plain = GOOD if path == "/events" else json.dumps([learner()]).encode()
    packed = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": zstandard.ZstdCompressor().compress,
        "br": brotli.compress,
    }[encoding](plain)
    reply = await collect(service, packed, path, content_encoding=encoding)
    assert reply.status_code == (202 if path == "/events" else 200), reply.text
    assert len(service.events()) == 1


async def test_a_bomb_is_refused_by_its_size_once_inflated() -> None:
    reply = await collect(Ingestion(), gzip.compress(b" " * (20 << 20)), content_encoding="gzip")
    assert (reply.status_code, error_of(reply)["error_code"]) == (413, "body_too_large")


async def test_while_events_go_to_disk_the_reply_says_so() -> None:
    service = Ingestion(publisher=MemoryPublisher(stored=Stored.DISK))
    body = (await collect(service, [learner()])).json()
    assert (body["accepted_count"], body["kafka_partition"]) == (1, None)
    assert "disk" in body["warnings"][0]
    single = (await service.post(GOOD)).json()
    assert single["status"] == "accepted"
    assert "disk" in single["warnings"][0]
    assert service.metric("ingestion_events_accepted_total", stored="disk") == 2


async def test_where_nothing_can_be_stored_the_batch_is_a_503_with_a_time_to_wait() -> None:
    service = Ingestion(publisher=MemoryPublisher(BufferFull("the disk buffer is full", retry_after=7)))
    reply = await collect(service, [learner(), learner()])
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "7")
    assert error_of(reply)["error_code"] == "buffer_full"
    assert service.metric("ingestion_events_unavailable_total", reason="buffer_full") == 2


class Halves(MemoryPublisher):
    """Stores the first record of each call and fails the others."""

    def publish(self, topic: str, records: Sequence[Record]) -> list[Delivery]:
        self.sent += [(topic, record) for record in records[:1]]
        failed = Delivery.settled(BrokerUnavailable("away", retry_after=3))
        return [Delivery.settled(Stored.KAFKA)] + [failed] * (len(records) - 1)


async def test_events_that_could_not_be_stored_are_named_and_may_be_sent_again() -> None:
    service = Ingestion(publisher=Halves())
    events = [learner(), learner()]
    reply = await collect(service, events)
    assert reply.status_code == 207
    (result,) = reply.json()["results"]
    assert (result["index"], result["event_id"], result["code"]) == (1, events[1]["event_id"], "retry")
    assert (result["reason"], result["retryable"]) == ("broker_unavailable", True)
    again = await collect(service, [events[1]])
    assert (again.status_code, again.json()["results"]) == (200, []), "what failed is no duplicate"


async def test_an_event_sent_again_is_a_duplicate_with_the_same_status() -> None:
    service = Ingestion()
    event = learner()
    first = await collect(service, [event])
    again = await collect(service, [event, learner()])
    assert (first.status_code, again.status_code) == (200, 200)
    body = again.json()
    assert (body["accepted_count"], body["rejected_count"]) == (2, 0)
    assert body["results"] == [{"index": 0, "event_id": event["event_id"], "code": "duplicate"}]
    assert len(service.events()) == 2
    assert service.metric("ingestion_events_duplicate_total") == 1


async def test_an_event_twice_in_one_batch_is_stored_once() -> None:
    service = Ingestion()
    event = learner()
    body = (await collect(service, [event, learner(), event])).json()
    assert [(result["index"], result["code"]) for result in body["results"]] == [(2, "duplicate")]
    assert len(service.events()) == 2


async def test_the_same_id_with_other_content_is_a_conflict_and_a_dead_letter() -> None:
    service = Ingestion()
    event = learner()
    other = {**event, "event_data": {"action": "scroll"}}
    await collect(service, [event])
    reply = await collect(service, [other, {**event, "learner_id": "learner_002"}])
    assert reply.status_code == 422
    assert [(r["code"], r["reason"], r["field"]) for r in reply.json()["results"]] == [
        ("rejected", "conflict", "event_id")
    ] * 2
    assert service.dead_letters()[0].value == json.dumps(other).encode()
    assert len(service.events()) == 1


async def test_the_same_id_with_other_content_on_events_is_a_409_and_a_dead_letter() -> None:
    service = Ingestion()
    event_id = str(uuid.uuid4())
    first = {"user_id": "u", "event_name": "e", "event_id": event_id, "metadata": {"a": 1, "b": 2}}
    assert (await service.post(json.dumps(first).encode())).status_code == 202
    same = {**first, "metadata": {"b": 2, "a": 1}}
    assert (await service.post(json.dumps(same).encode())).json()["status"] == "duplicate"
    reply = await service.post(json.dumps({**first, "metadata": {"a": 2}}).encode())
    assert (reply.status_code, error_of(reply)["error_code"]) == (409, "conflict")
    assert len(service.dead_letters()) == 1


async def test_what_a_refused_single_event_was_is_kept_where_it_was_an_object() -> None:
    service = Ingestion()
    refused = b'{"user_id":"u","event_type":"click","event_time":"never"}'
    assert (await service.post(refused)).status_code == 422
    assert (await service.post(b"[1]")).status_code == 422
    assert (await service.post(b"{")).status_code == 400
    (letter,) = service.dead_letters()
    assert letter.value == refused
    assert dict(letter.headers)["__connect.errors.topic"] == b"product_events"
    assert service.rejected() == {"bad_timestamp": 1.0, "not_an_object": 1.0, "malformed_body": 1.0}


async def test_an_event_that_failed_more_than_three_times_is_quarantined() -> None:
    service = Ingestion()
    bad = learner(event_type="?")
    replies = [(await collect(service, [bad])).json() for _ in range(6)]
    assert [len(reply["dlq_events"]) for reply in replies] == [1, 1, 1, 0, 0, 0]
    assert [dict(letter.headers)["retry-count"] for letter in service.dead_letters()] == [b"0", b"1", b"2"]
    assert len(service.publisher.quarantined) == 1
    assert "quarantine" in replies[3]["warnings"][0]


async def test_what_could_not_be_kept_does_not_count_as_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Ingestion()
    bad = learner(event_type="?")
    with monkeypatch.context() as patch:
        patch.setattr(service.publisher, "problem", Unavailable("nothing takes it"))
        for _ in range(6):
            assert "could not be kept" in (await collect(service, [bad])).json()["warnings"][0]
    assert [len((await collect(service, [bad])).json()["dlq_events"]) for _ in range(3)] == [1, 1, 1]

    async def full(*_: object) -> bool:
        return False

    monkeypatch.setattr(service.publisher, "quarantine", full)
    assert len((await collect(service, [bad])).json()["dlq_events"]) == 1, (
        "no room in quarantine: a dead letter once more"
    )
    assert len(service.dead_letters()) == 4


async def test_the_two_forms_of_events_go_to_their_topics() -> None:
    service = Ingestion()
    product = {"user_id": "u", "event_type": "page_view", "event_time": 1_710_000_000_000, "variant": "A"}
    assert (await service.post(json.dumps(product).encode())).status_code == 202
    assert (await service.post(GOOD)).status_code == 202
    assert [topic for topic, _ in service.publisher.sent] == ["product_events", "events"]


async def test_sent_at_corrects_the_times_and_says_so() -> None:
    service = Ingestion()
    late = {"events": [learner(timestamp="2026-01-31T10:00:00Z")], "sent_at": "2026-01-31T11:00:00Z"}  # it is 12:00
    assert (await collect(service, late)).status_code == 200
    (event,) = service.events()
    assert event["timestamp"].isoformat() == "2026-01-31T11:00:00+00:00"
    assert event["context"]["_platform"]["original_timestamp"].startswith("2026-01-31T10:00:00")
    assert service.metric("ingestion_events_clock_corrected_total") == 1


async def test_a_page_may_send_beacons_only_where_its_origin_is_allowed() -> None:
    page = {"origin": "https://shop.example", "content-type": "text/plain;charset=UTF-8"}
    closed = await Ingestion().request("POST", "/events", content=GOOD, headers=page)
    assert closed.status_code == 202
    assert "access-control-allow-origin" not in closed.headers
    settings = IngestionSettings(ingestion_cors_origins=["https://shop.example"], ingestion_cors_credentials=True)
    service = Ingestion(settings=settings)
    open_ = await service.request("POST", "/events", content=GOOD, headers=page)
    assert open_.headers["access-control-allow-origin"] == "https://shop.example"
    assert open_.headers["access-control-allow-credentials"] == "true"
    preflight = await service.request(
        "OPTIONS",
        "/api/v1/collect",
        headers={
            "origin": "https://shop.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
    stranger = await service.request(
        "POST", "/events", content=GOOD, headers={**page, "origin": "https://evil.example"}
    )
    assert "access-control-allow-origin" not in stranger.headers


async def test_a_cloudevent_is_the_same_event_in_every_mode() -> None:
    service = Ingestion()
    attributes = {"specversion": "1.0", "id": "a-1", "source": "/shop", "type": "order", "subject": "user_1"}
    structured = json.dumps({**attributes, "data": {"n": 1}}).encode()
    first = await collect(service, structured, "/events", content_type="application/cloudevents+json")
    headers = {f"ce-{name}": value for name, value in attributes.items()}
    second = await service.request(
        "POST", "/events", content=b'{"n":1}', headers={**headers, "content-type": "application/json"}
    )
    batch = await collect(
        service, b"[" + structured + b"]", "/events", content_type="application/cloudevents-batch+json"
    )
    assert [first.status_code, second.status_code, batch.status_code] == [202, 202, 202]
    assert [first.json()["status"], second.json()["status"]] == ["accepted", "duplicate"]
    assert batch.json()["results"][0]["code"] == "duplicate"
    assert len(service.events()) == 1
