"""``python -m event_consumer sales`` between a real Kafka and a real MongoDB, as S3 describes it."""

from __future__ import annotations

import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.sales import SALE, encoded
from tests.support.selling import Sales
from tests.support.wait import until

pytestmark = pytest.mark.integration

KEY = "0123456789abcdef"


def numbered(count: int, first: int = 0) -> list[bytes | None]:
    return [encoded(event_id=f"sale-{number}") for number in range(first, first + count)]


def test_sales_are_stored_with_the_documented_fields_and_the_bad_are_set_aside_alone(sales: Sales) -> None:
    began = time.time()
    service = sales.start()
    values = numbered(1_000)
    poison = {0: b"\xffno protobuf", 500: None, 501: encoded(qty=0), 502: encoded(price=float("nan")), 999: b"\x00\x00"}
    for place, value in poison.items():
        values[place] = value
    values += [
        encoded(event_id=None),
        encoded(event_id=None),
        encoded(event_id="sale-1"),
        encoded(event_id="sale-2", qty=9),
    ]
    sales.put(values, partition=1)

    until("996 documents", lambda: sales.count() == 996)
    document = sales.documents()["sale-1"]
    assert began <= document.pop("processed_at") <= time.time()
    assert document == {**SALE, "_id": "sale-1", "event_id": "sale-1"}
    letters = {int(letter.headers["__connect.errors.offset"]): letter for letter in sales.letters(6).values()}
    assert {offset: letter.value for offset, letter in letters.items()} == {
        offset: value or b"" for offset, value in [*poison.items(), (1_003, values[1_003])]
    }
    assert {offset: letter.headers["__connect.errors.exception.class.name"] for offset, letter in letters.items()} == {
        0: b"not_protobuf",
        500: b"not_protobuf",
        501: b"invalid_sale",
        502: b"invalid_sale",
        999: b"not_protobuf",
        1_003: b"conflict",
    }
    assert letters[501].headers["__connect.errors.exception.message"].startswith(b"qty: ")
    assert letters[501].key == b"key"
    until("the offsets are committed", lambda: sales.committed() == {1: 1_004})
    stats = service.get("/stats").json()
    assert stats["events"]["stored"] == 996
    assert stats["events"]["duplicates"] == 2
    assert stats["events"]["dead_letters"] == {"not_protobuf": 3, "invalid_sale": 2, "conflict": 1}


def test_a_restart_reads_on_where_it_stopped(sales: Sales) -> None:
    service = sales.start()
    sales.put(numbered(300))
    until("300 documents", lambda: sales.count() == 300)
    assert service.stop() == 0
    assert sales.committed()[0] == 300, "told before it ended"
    sales.put(numbered(100, first=300))
    service = sales.start()
    until("400 documents", lambda: sales.count() == 400)
    assert service.metric("sales_events_processed_total", status="duplicate") == 0


def test_the_metrics_have_their_documented_names_and_are_true(sales: Sales) -> None:
    service = sales.start()
    sales.put([*numbered(500), encoded(event_id="sale-0"), b"\xff"])
    until("all of it is settled", lambda: sum(processed(service.url).values()) == 502)

    assert processed(service.url) == {"stored": 500, "duplicate": 1, "dead_letter": 1}
    families = {
        family.name: family
        for family in text_string_to_metric_families(httpx.get(f"{service.url}/metrics", timeout=10).text)
    }
    kinds = {
        "sales_events_processed": "counter",
        "sales_events_per_second": "gauge",
        "kafka_consumer_lag_milliseconds": "gauge",
        "mongodb_writes": "counter",
        "event_processing_duration_seconds": "histogram",
        "service_uptime_seconds": "gauge",
    }
    assert {name: families[name].type for name in kinds} == kinds
    assert service.metric("event_processing_duration_seconds_count") == 502
    assert service.metric("event_processing_duration_seconds_bucket", le="+Inf") == 502
    assert service.metric("mongodb_writes_total", status="success") >= 1
    assert service.metric("mongodb_writes_total", status="partial") == 1
    assert service.metric("kafka_consumer_lag_milliseconds") == 0, "nothing waits"
    uptime = service.metric("service_uptime_seconds")
    assert uptime > 0
    assert service.metric("sales_events_per_second") == pytest.approx(502 / min(60, max(1, uptime)), rel=0.5)


def processed(url: str) -> dict[str, float]:
    text = httpx.get(f"{url}/metrics", timeout=10).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {one.labels["status"]: one.value for one in samples if one.name == "sales_events_processed_total"}


def test_health_and_statistics_say_how_kafka_and_mongodb_are(sales: Sales) -> None:
    service = sales.start()
    sales.put(numbered(10), partition=2)
    until("10 documents", lambda: sales.count() == 10)
    health = service.get("/health").json()
    assert (health["status"], health["kafka_connected"], health["mongodb_connected"]) == ("healthy", True, True)
    until("the offset is known", lambda: service.get("/stats").json()["kafka"]["partitions"][2]["next_offset"] == 10)
    stats = service.get("/stats").json()
    assert stats["kafka"]["status"] == stats["mongodb"]["status"] == "up"
    assert (stats["kafka"]["topic"], stats["kafka"]["dead_letter_topic"]) == (sales.topic, sales.dlq_topic)
    assert [one["partition"] for one in stats["kafka"]["partitions"]] == [0, 1, 2]
    assert stats["kafka"]["lag_milliseconds"] == 0
    assert stats["mongodb"]["documents"] == 10
    assert stats["settings"] == {"batch_size": 100, "flush_interval": 0.2, "max_retries": 3}


def test_a_small_batch_waits_for_the_flush_interval_and_no_longer(sales: Sales) -> None:
    service = sales.start(FLUSH_INTERVAL="3600")
    sales.put(numbered(99))
    until("they are read", lambda: service.get("/stats").json()["kafka"]["lag_milliseconds"] > 0)
    time.sleep(1)
    assert sales.count() == 0
    sales.put(numbered(1, first=99))
    until("the batch is full", lambda: sales.count() == 100)


def test_shutdown_needs_the_admin_key(sales: Sales) -> None:
    service = sales.start()
    assert httpx.post(f"{service.url}/shutdown").json()["error_code"] == "admin_key_unset"
    assert service.stop() == 0
    service = sales.start(ADMIN_API_KEY=KEY)
    for headers in ({}, {"X-API-Key": "wrong"}):
        assert httpx.post(f"{service.url}/shutdown", headers=headers).status_code == 401
    assert httpx.get(f"{service.url}/health/live").status_code == 200


def test_shutdown_writes_what_is_in_hand_commits_it_and_ends_with_0(sales: Sales) -> None:
    service = sales.start(ADMIN_API_KEY=KEY, FLUSH_INTERVAL="3600")
    sales.put(numbered(42))
    until("they are read", lambda: service.get("/stats").json()["kafka"]["lag_milliseconds"] > 0)
    assert sales.count() == 0
    reply = httpx.post(f"{service.url}/shutdown", headers={"Authorization": f"Bearer {KEY}"})
    assert (reply.status_code, reply.json()["status"]) == (202, "shutting_down")
    assert service.ended() == 0
    assert sales.count() == 42
    assert sales.committed()[0] == 42


def test_a_wrong_password_ends_the_service_and_says_so(sales: Sales) -> None:
    service = sales.service(MONGODB_URL=sales.settings["MONGODB_URL"].replace("password@", "wrong@"))
    sales.services.remove(service)  # it is to fail
    assert service.run("event_consumer", "sales") == 1
    log = service.log.read_text()
    assert "MONGODB_URL" in log
    assert "wrong@" not in log
    assert "Traceback" not in log
