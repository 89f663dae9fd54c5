"""The ingestion service on a real Kafka: durable acknowledgements, and honest answers while the broker is away."""

from __future__ import annotations

import contextlib
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest

from tests.conftest import Platform
from tests.support.backend import Backend, free_port
from tests.support.topics import read_topic

pytestmark = pytest.mark.integration


def event(**fields: Any) -> dict[str, Any]:
    return {"user_id": "user_1", "event_name": "page_view", "metadata": {"page": "/"}, **fields}


def test_an_accepted_event_is_in_the_topic_with_key_value_and_headers(platform: Platform) -> None:
    service = platform.start("ingestion_service")
    event_id = str(uuid.uuid4())
    sent = event(event_id=event_id, timestamp="2026-01-01T02:00:00+02:00", metadata={"n": [1, 2.5, "ü", None]})

    reply = httpx.post(service.url + "/events", json=sent)

    assert (reply.status_code, reply.json()) == (202, {"status": "accepted", "event_id": event_id})
    [record] = read_topic(platform, 1)
    assert record.key == b"user_1"
    assert record.headers["event-id"] == event_id.encode()
    assert record.headers["content-type"] == b"application/json"
    assert record.headers["schema"] == b"event/1"
    stored = record.json()
    assert stored["timestamp"] == "2026-01-01T00:00:00Z"
    assert stored["metadata"] == sent["metadata"]
    assert stored["tenant_id"] == "default"
    assert stored["context"] == {}


def test_one_users_events_keep_their_order(platform: Platform) -> None:
    service = platform.start("ingestion_service")
    with httpx.Client(base_url=service.url) as client:
        for number in range(200):
            assert client.post("/events", json=event(metadata={"n": number})).status_code == 202

    records = read_topic(platform, 200)

    assert {record.partition for record in records} == {records[0].partition}
    assert [record.json()["metadata"]["n"] for record in records] == list(range(200))


def test_without_a_buffer_a_broker_that_is_down_means_503_with_retry_after_and_recovery_by_itself(
    platform: Platform, backend: Backend
) -> None:
    service = platform.start("ingestion_service", BUFFER_DIR="", KAFKA_PUBLISH_TIMEOUT_SECONDS="2")
    assert httpx.post(service.url + "/events", json=event()).status_code == 202

    backend.kill_kafka()
    try:
        for _ in range(2):  # the first finds out, the second is told at once
            reply = httpx.post(service.url + "/events", json=event(), timeout=20)
            body = reply.json()
            assert reply.status_code == 503
            assert int(reply.headers["retry-after"]) >= 1
            assert (body["error_code"], body["retryable"]) == ("broker_unavailable", True)
            assert "event_id" in body["error_message"]
        service.wait("/health/ready", status=503)
        assert service.get("/health/live").status_code == 200
        assert service.metric("ingestion_events_unavailable_total", reason="broker_unavailable") == 2
    finally:
        backend.start_kafka()

    service.wait("/health/ready")
    event_id = str(uuid.uuid4())
    assert httpx.post(service.url + "/events", json=event(event_id=event_id), timeout=20).status_code == 202
    assert event_id in {record.json()["event_id"] for record in read_topic(platform, 2)}


def test_without_a_buffer_a_frozen_broker_means_503_within_the_time_limit(platform: Platform, backend: Backend) -> None:
    service = platform.start("ingestion_service", BUFFER_DIR="", KAFKA_PUBLISH_TIMEOUT_SECONDS="2")
    backend.pause_kafka()
    try:
        began = time.monotonic()
        reply = httpx.post(service.url + "/events", json=event(), timeout=30)
        assert reply.status_code == 503
        assert time.monotonic() - began < 15
    finally:
        backend.resume_kafka()
    service.wait("/health/ready")
    assert httpx.post(service.url + "/events", json=event(), timeout=20).status_code == 202


@pytest.mark.parametrize(("buffer", "status"), [({"BUFFER_DIR": ""}, 503), ({}, 202)], ids=["no buffer", "buffer"])
def test_events_that_wait_for_a_frozen_broker_cost_little_more_than_their_bytes(
    platform: Platform, backend: Backend, buffer: dict[str, str], status: int
) -> None:
    service = platform.start("ingestion_service", **buffer)
    # 150 KB of empty lists parse to some thirty times their size: what waits must be the encoded form alone.
    body = b'{"user_id":"u","event_name":"e","metadata":{"a":[' + b"[]," * 33_000 + b"[]]}}"
    backend.pause_kafka()
    try:
        with ThreadPoolExecutor(100) as pool:
            post = partial(httpx.post, service.url + "/events", content=body, timeout=60)
            statuses = {reply.status_code for reply in pool.map(lambda _: post(), range(300))}
        assert statuses == {status}
    finally:
        backend.resume_kafka()
    assert service.peak_memory() < 300 << 20


def test_an_endless_head_is_refused(platform: Platform) -> None:
    service = platform.start("ingestion_service")
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(b"POST /events HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(2_000):
                connection.sendall(b"X-Header-%d: %s\r\n" % (number, b"x" * 1_000))
        received = b""
        with contextlib.suppress(ConnectionError):
            received = connection.recv(1_000)
    assert received.startswith(b"HTTP/1.1 431") or not received
    assert service.peak_memory() < 150 << 20
    assert service.get("/health/live").status_code == 200


def test_an_address_that_is_none_ends_the_service_with_a_reason(platform: Platform) -> None:
    with pytest.raises(AssertionError, match="ended with 1"):
        platform.start("ingestion_service", ready=False, KAFKA_BOOTSTRAP_SERVERS="localhost:notaport")
    service = platform.must_stay_sound.pop()
    assert "notaport" in service.log.read_text()


def test_without_a_buffer_it_starts_without_a_broker_and_serves_once_there_is_one(
    platform: Platform, backend: Backend
) -> None:
    backend.kill_kafka()
    try:
        service = platform.start("ingestion_service", ready=False, BUFFER_DIR="")
        assert service.get("/health/ready").status_code == 503
        assert httpx.post(service.url + "/events", json=event()).status_code == 503
    finally:
        backend.start_kafka()
    service.wait("/health/ready")
    assert httpx.post(service.url + "/events", json=event(), timeout=20).status_code == 202


def test_sigterm_ends_it_in_order(platform: Platform) -> None:
    service = platform.start("ingestion_service")
    assert httpx.post(service.url + "/events", json=event()).status_code == 202
    assert service.stop() == 0


def test_another_metrics_port_opens_a_second_listener(platform: Platform) -> None:
    port = free_port()
    platform.start("ingestion_service", METRICS_PORT=str(port))
    assert "ingestion_kafka_connected" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
