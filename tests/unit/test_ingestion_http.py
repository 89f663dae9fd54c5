"""The ingestion service as a client and an operator meet it over HTTP."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from uuid import UUID

import pytest
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from event_core.errors import BrokerUnavailable
from event_core.telemetry import Tracing
from ingestion_service.publisher import MemoryPublisher
from tests.unit.ingestion import GOOD, NOW, Ingestion, error_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


async def test_an_accepted_event_is_answered_with_202_and_its_id() -> None:
    service = Ingestion()
    response = await service.post(GOOD, content_type="application/json")
    assert response.status_code == 202
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"status", "event_id"}
    assert body["status"] == "accepted"
    (event,) = service.events()
    assert UUID(body["event_id"]) == event["event_id"]
    assert (event["user_id"], event["event_name"], event["metadata"]) == ("u", "e", {"page": "/"})
    assert (event["timestamp"], event["received_at"]) == (datetime(2026, 1, 31, 11, 59, 59, tzinfo=UTC), NOW)


async def test_a_retry_with_the_same_event_id_is_a_duplicate_under_the_same_id_and_status() -> None:
    service = Ingestion()
    raw = b'{"user_id":"u","event_name":"e","event_id":"0190A3F27B3C7DEF8123456789ABCDEF"}'
    answers = [(await service.post(raw)).json() for _ in range(2)]
    event_id = "0190a3f2-7b3c-7def-8123-456789abcdef"
    assert answers == [{"status": status, "event_id": event_id} for status in ("accepted", "duplicate")]
    assert len(service.events()) == 1


async def test_accepted_events_are_counted() -> None:
    service = Ingestion()
    for _ in range(3):
        await service.post(GOOD)
    assert service.metric("ingestion_events_accepted_total", stored="kafka") == 3
    assert service.metric("ingestion_requests_total", status="202") == 3
    assert service.metric("ingestion_request_seconds_count", status="202") == 3


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
async def test_the_content_type_does_not_matter(content_type: str) -> None:
    assert (await Ingestion().post(GOOD, content_type=content_type)).status_code == 202


REQUESTS = [("POST", "/events"), ("GET", "/health"), ("GET", "/health/live"), ("GET", "/nowhere"), ("GET", "/events")]


@pytest.mark.parametrize(("method", "path"), REQUESTS)
@pytest.mark.parametrize("given", ["abc-123", "x", "a" * 128, "!~{}\"'\\"])
async def test_a_clients_request_id_comes_back(method: str, path: str, given: str) -> None:
    response = await Ingestion().request(method, path, content=GOOD, headers={"X-Request-ID": given})
    assert response.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize(("method", "path"), REQUESTS)
@pytest.mark.parametrize("given", [None, b"", b"a" * 129, b"a b", b"a\tb", b"a\x00b", "é".encode(), b"\xff"], ids=repr)
async def test_without_a_usable_request_id_a_new_one_is_made(method: str, path: str, given: bytes | None) -> None:
    headers = [] if given is None else [(b"x-request-id", given)]
    service = Ingestion()
    made = [
        (await service.request(method, path, content=GOOD, headers=headers)).headers["x-request-id"] for _ in range(2)
    ]
    assert len({UUID(one) for one in made}) == 2


@pytest.mark.parametrize(("method", "path"), REQUESTS)
async def test_every_answer_says_how_long_it_took(method: str, path: str) -> None:
    response = await Ingestion().request(method, path, content=GOOD)
    (took,) = response.headers.get_list("x-process-time")
    assert 0 <= float(took) < 60


@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("POST", "/events/"), ("POST", "/events/1")])
async def test_an_unknown_path_is_a_404_in_the_one_shape(method: str, path: str) -> None:
    response = await Ingestion().request(method, path, content=GOOD)
    assert response.status_code == 404
    assert error_of(response, details=False)["error_code"] == "not_found"


@pytest.mark.parametrize(("method", "path"), [("GET", "/events"), ("PUT", "/events"), ("DELETE", "/health")])
async def test_a_wrong_method_is_a_405_in_the_one_shape_that_names_the_right_ones(method: str, path: str) -> None:
    response = await Ingestion().request(method, path)
    assert response.status_code == 405
    assert error_of(response, details=False)["error_code"] == "method_not_allowed"
    assert response.headers["allow"] in ("POST", "GET")


async def test_a_fault_of_an_operational_route_is_a_500_in_the_one_shape() -> None:
    service = Ingestion()
    service.metrics.registry.register(_BrokenCollector())
    response = await service.request("GET", "/metrics")
    assert response.status_code == 500
    assert error_of(response, details=False)["error_code"] == "internal_error"
    assert "hunter2" not in response.text


class _BrokenCollector(Collector):
    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        raise RuntimeError("hunter2")


async def test_health_shows_the_service_and_its_broker() -> None:
    response = await Ingestion().request("GET", "/health")
    body = response.json()
    assert response.status_code == 200
    assert (body["status"], body["service"], body["kafka_connected"]) == ("healthy", "ingestion_service", True)
    assert body["checks"]["kafka"]["status"] == "up"
    assert body["uptime_seconds"] >= 0
    assert body["version"]


async def test_without_its_broker_the_service_lives_but_is_not_ready() -> None:
    service = Ingestion(publisher=MemoryPublisher(BrokerUnavailable("Kafka is away")))
    health, live, ready = [await service.request("GET", f"/health{end}") for end in ("", "/live", "/ready")]
    assert (health.status_code, live.status_code, ready.status_code) == (503, 200, 503)
    assert (health.json()["status"], health.json()["kafka_connected"]) == ("unhealthy", False)
    assert live.json() == {"status": "alive"}
    assert ready.json()["status"] == "not_ready"
    assert ready.json()["checks"]["kafka"] == {"status": "down", "error": "Kafka is away"}


async def test_with_its_broker_the_service_is_ready() -> None:
    response = await Ingestion().request("GET", "/health/ready")
    assert (response.status_code, response.json()["status"]) == (200, "ready")


async def series(service: Ingestion) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    response = await service.request("GET", "/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


async def test_what_clients_send_never_makes_a_new_series() -> None:
    service = Ingestion()

    async def one_of_each(number: int) -> None:
        name = f"name-{number}"
        raw = {"user_id": name, "event_name": name, "metadata": {name: name}, name: name}
        await service.post(json.dumps(raw).encode(), x_request_id=name)
        await service.post(json.dumps({**raw, "event_type": name}).encode())
        await service.post(json.dumps({**raw, "event_id": name}).encode())
        await service.request("GET", f"/{name}")

    await one_of_each(0)
    before = await series(service)
    for number in range(1, 1001):
        await one_of_each(number)
    assert await series(service) == before
    assert service.metric("ingestion_events_accepted_total", stored="kafka") == 1001


async def test_every_metric_says_what_it_means() -> None:
    response = await Ingestion().request("GET", "/metrics")
    for family in text_string_to_metric_families(response.text):
        assert family.documentation
        assert re.fullmatch(r"(ingestion|process|python)_[a-z0-9_]+", family.name)


async def test_the_documentation_describes_the_hot_endpoint_too() -> None:
    service = Ingestion()
    described = (await service.request("GET", "/openapi.json")).json()
    post = described["paths"]["/events"]["post"]
    schemas = described["components"]["schemas"]

    assert set(schemas["EventIn"]["required"]) == {"user_id", "event_name"}
    assert schemas["EventIn"]["properties"]["user_id"]["maxLength"] == 256
    assert "EventIn" in json.dumps(post["requestBody"])
    assert "ProductEventIn" in json.dumps(post["requestBody"])
    for status in ("400", "408", "409", "413", "415", "422", "503"):
        assert "ErrorReply" in json.dumps(post["responses"][status])
    answer = (await service.post(b"")).json()
    assert set(answer) <= set(schemas["ErrorReply"]["properties"])
    assert set(schemas["ErrorReply"]["required"]) <= set(answer)
    assert (await service.request("GET", "/docs")).status_code == 200


async def test_the_documented_example_is_accepted() -> None:
    service = Ingestion()
    described = (await service.request("GET", "/openapi.json")).json()
    (example,) = described["components"]["schemas"]["EventIn"]["examples"]
    assert (await service.post(json.dumps(example).encode())).status_code == 202


def published_trace(service: Ingestion) -> str | None:
    headers = dict(service.records()[-1].headers)
    return headers["traceparent"].decode() if "traceparent" in headers else None


async def test_a_clients_trace_goes_on_to_the_consumer_while_the_service_does_not_trace() -> None:
    service = Ingestion()
    await service.post(GOOD, traceparent=TRACEPARENT)
    assert published_trace(service) == TRACEPARENT


@pytest.mark.parametrize(
    "given", [f"00-{'0' * 32}-b7ad6b7169203331-01", "nonsense", "x" * 600_000], ids=lambda x: x[:20]
)
async def test_a_traceparent_that_is_none_does_not_travel_with_the_event(given: str) -> None:
    service = Ingestion()
    assert (await service.post(GOOD, traceparent=given)).status_code == 202
    assert published_trace(service) is None


@pytest.mark.parametrize("given", [TRACEPARENT, "nonsense", "x" * 600_000, None], ids=lambda x: str(x)[:20])
async def test_while_the_service_traces_its_own_span_goes_on_to_the_consumer(given: str | None) -> None:
    provider = TracerProvider()
    service = Ingestion(tracing=Tracing(provider))
    await service.post(GOOD, **({"traceparent": given} if given else {}))
    trace, span = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[13]", published_trace(service) or "").groups()  # type: ignore[union-attr]
    assert (trace == TRACE) is (given == TRACEPARENT)
    assert span != "b7ad6b7169203331"
    provider.shutdown()
