"""One trace from the POST through Kafka's headers to the Postgres write, and logs that carry its ids."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.conftest import Platform
from tests.support.otlp import Collector, Span
from tests.support.topics import read_topic, write_topic
from tests.support.wait import count, until

pytestmark = pytest.mark.integration

EVENT = {"user_id": "u", "event_name": "e"}


def named(collector: Collector, name: str) -> list[Span]:
    return [span for span in collector.spans if span.name == name]


def test_one_trace_leads_from_the_clients_span_to_the_postgres_write(platform: Platform) -> None:
    trace_id, client_span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with Collector() as collector:
        ingestion = platform.start("ingestion_service", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        consumer = platform.start("event_consumer", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        reply = httpx.post(
            ingestion.url + "/events", json=EVENT, headers={"traceparent": f"00-{trace_id}-{client_span}-01"}
        )
        assert reply.status_code == 202
        for _ in range(2):
            assert httpx.post(ingestion.url + "/events", json=EVENT).status_code == 202
        until("3 rows", lambda: count(platform.database_url) == 3)
        assert ingestion.stop() == 0  # what is not exported yet is exported at the end
        assert consumer.stop() == 0

    posts, writes = named(collector, "POST /events"), named(collector, "postgresql write")
    batches = named(collector, "write batch")
    [ours] = [span for span in posts if span.trace_id == trace_id]
    assert (ours.service, ours.parent_id) == ("ingestion_service", client_span)
    [write] = [span for span in writes if span.trace_id == trace_id]
    assert (write.service, write.parent_id) == ("event_consumer", ours.span_id)
    assert write.attributes["messaging.message.id"] == reply.json()["event_id"]

    assert len(posts) == len(writes) == 3
    assert {span.parent_id for span in writes} == {span.span_id for span in posts}
    # Every batch's span names the traces that it joins, and each message's write names its batch.
    assert {link for span in batches for link in span.links} == {span.span_id for span in posts}
    assert {link for span in writes for link in span.links} == {span.span_id for span in batches}


def test_a_message_with_odd_headers_is_traced_and_stored(platform: Platform) -> None:
    with Collector() as collector:
        consumer = platform.start("event_consumer", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        event = {**EVENT, "event_id": "0" * 31 + "1", "tenant_id": "t", "metadata": {}, "context": {}}
        times = {"timestamp": "2026-01-01T00:00:00Z", "received_at": "2026-01-01T00:00:00Z"}
        parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        odd = [("traceparent", parent), ("event-id", None), ("", b"\xff"), ("traceparent", parent)]
        write_topic(platform, [(b"u", json.dumps({**event, **times}).encode())], headers=odd)
        until("the row", lambda: count(platform.database_url) == 1)
        assert consumer.stop() == 0
    assert [span.parent_id for span in named(collector, "postgresql write")] == ["b7ad6b7169203331"]


def test_an_unsampled_trace_leaves_no_spans(platform: Platform) -> None:
    with Collector() as collector:
        own = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_TRACES_SAMPLER": "parentbased_always_off"}
        ingestion = platform.start("ingestion_service", **own)
        consumer = platform.start("event_consumer", **own)
        assert httpx.post(ingestion.url + "/events", json=EVENT).status_code == 202
        until("the row", lambda: count(platform.database_url) == 1)
        assert (ingestion.stop(), consumer.stop()) == (0, 0)
    assert collector.spans == []


def test_a_collector_that_is_away_harms_nothing(platform: Platform) -> None:
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    ingestion = platform.start("ingestion_service", **own)
    consumer = platform.start("event_consumer", **own)
    assert httpx.post(ingestion.url + "/events", json=EVENT).status_code == 202
    until("the row", lambda: count(platform.database_url) == 1)
    assert (ingestion.stop(), consumer.stop()) == (0, 0)
    # The exporter's own complaint about its collector is no failure of the service.
    platform.must_stay_sound.clear()


def test_without_tracing_a_clients_trace_context_still_reaches_the_topic(platform: Platform) -> None:
    ingestion = platform.start("ingestion_service")
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert httpx.post(ingestion.url + "/events", json=EVENT, headers={"traceparent": parent}).status_code == 202
    [record] = read_topic(platform, 1)
    assert record.headers["traceparent"] == parent.encode()


def test_every_log_line_is_one_json_object_with_time_level_service_and_message(platform: Platform) -> None:
    ingestion = platform.start("ingestion_service", LOG_LEVEL="INFO", KAFKA_TYPO="1")
    assert ingestion.stop() == 0
    lines = [json.loads(line) for line in ingestion.log.read_text().splitlines()]
    assert all({"timestamp", "level", "logger", "message", "service"} <= line.keys() for line in lines)
    assert {line["service"] for line in lines} == {"ingestion_service"}
    assert any("KAFKA_TYPO" in line["message"] for line in lines)
