"""The analytics service as a person with a question meets it over HTTP."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from analytics_service.app import Deps, create_app
from analytics_service.errors import QueryTooSlow
from analytics_service.metrics import Metrics
from analytics_service.settings import AnalyticsSettings
from analytics_service.store import MemoryStore
from event_core.errors import DatabaseUnavailable, PlatformError
from event_core.health import FakePing
from event_core.telemetry import Tracing
from tests.unit.ingestion import error_of

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOUR = {"from_ts": "2026-01-31T12:00:00Z", "to_ts": "2026-01-31T13:00:00Z"}


@dataclass
class Analytics:
    """The app, the fakes around it, and a way to ask it."""

    store: MemoryStore = field(default_factory=MemoryStore)
    postgres: FakePing = field(default_factory=lambda: FakePing("postgres"))

    def __post_init__(self) -> None:
        self.deps = Deps(self.store, [self.postgres], Metrics(), Tracing(None), contextlib.AsyncExitStack())

    def happened(self, after: timedelta, name: str = "e", user: str = "u") -> None:
        self.store.events.append((START + after, name, user))

    async def get(self, path: str, **params: str) -> httpx.Response:
        app = create_app(AnalyticsSettings(), self.deps)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path, params=params or None)

    async def count(self, **params: str) -> int:
        response = await self.get("/analytics/events/count", **{**HOUR, **params})
        assert response.status_code == 200
        return int(response.json()["count"])


async def test_the_answer_says_what_was_counted() -> None:
    service = Analytics()
    service.happened(timedelta(minutes=5), "page_view", "user_1")
    response = await service.get("/analytics/events/count", **HOUR, event_name="page_view", user_id="user_1")
    body = response.json()
    assert response.status_code == 200
    assert "from_ts" in body.pop("semantics")
    assert body == {
        "count": 1,
        "from_ts": "2026-01-31T12:00:00Z",
        "to_ts": "2026-01-31T13:00:00Z",
        "event_name": "page_view",
        "user_id": "user_1",
        "approximate": False,
    }


async def test_the_start_is_inclusive_and_the_end_is_exclusive() -> None:
    service = Analytics()
    microsecond = timedelta(microseconds=1)
    for after in (-microsecond, timedelta(0), timedelta(hours=1) - microsecond, timedelta(hours=1)):
        service.happened(after)
    assert await service.count() == 2
    assert await service.count(from_ts="2026-01-31T11:00:00Z") == 3
    assert await service.count(to_ts="2026-01-31T14:00:00Z") == 3


async def test_filters_narrow_the_count() -> None:
    service = Analytics()
    for name, user in (("a", "u"), ("a", "v"), ("b", "u"), ("A", "u")):
        service.happened(timedelta(0), name, user)
    assert await service.count() == 4
    assert await service.count(event_name="a") == 2
    assert await service.count(user_id="u") == 3
    assert await service.count(event_name="a", user_id="u") == 1
    assert await service.count(event_name="none such") == 0


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("1769860800", "1769864400"),
        ("1769860800000", "1769864400000"),
        ("2026-01-31T13:00:00%2B01:00", "2026-01-31T14:00:00%2B01:00"),
        ("2026-01-31T13:00:00+01:00", "2026-01-31T14:00:00+01:00"),
        ("2026-01-31T13:00:00+0100", "2026-01-31T14:00:00+0100"),
    ],
)
async def test_a_range_may_be_given_in_any_form_even_with_an_unescaped_plus(start: str, end: str) -> None:
    service = Analytics()
    service.happened(timedelta(minutes=30))
    response = await service.get(f"/analytics/events/count?from_ts={start}&to_ts={end}")
    assert (response.status_code, response.json()["count"]) == (200, 1)
    assert response.json()["from_ts"] == "2026-01-31T12:00:00Z"


BAD: list[tuple[dict[str, str], str, str]] = [
    ({}, "invalid_request", "from_ts"),
    ({"from_ts": "0"}, "invalid_request", "to_ts"),
    ({"to_ts": "0"}, "invalid_request", "from_ts"),
    ({**HOUR, "from_ts": ""}, "invalid_query", "from_ts"),
    ({**HOUR, "from_ts": "yesterday"}, "invalid_query", "from_ts"),
    ({**HOUR, "to_ts": "nan"}, "invalid_query", "to_ts"),
    ({**HOUR, "to_ts": "inf"}, "invalid_query", "to_ts"),
    ({**HOUR, "to_ts": "1e400"}, "invalid_query", "to_ts"),
    ({**HOUR, "to_ts": "\x00"}, "invalid_query", "to_ts"),
    ({**HOUR, "from_ts": "0001-01-01"}, "invalid_query", "from_ts"),
    ({**HOUR, "to_ts": HOUR["from_ts"]}, "invalid_query", "from_ts"),
    ({"from_ts": HOUR["to_ts"], "to_ts": HOUR["from_ts"]}, "invalid_query", "from_ts"),
    ({**HOUR, "event_name": ""}, "invalid_query", "event_name"),
    ({**HOUR, "event_name": "a\x00"}, "invalid_query", "event_name"),
    ({**HOUR, "user_id": "u" * 257}, "invalid_query", "user_id"),
]


@pytest.mark.parametrize(("params", "code", "named"), BAD, ids=repr)
async def test_a_bad_question_is_a_422_that_names_the_parameter(params: dict[str, str], code: str, named: str) -> None:
    response = await Analytics().get("/analytics/events/count", **params)
    error = error_of(response)
    assert (response.status_code, error["error_code"], error["retryable"]) == (422, code, False)
    assert named in error["error_message"]


@pytest.mark.parametrize(
    "query", ["from_ts=%ff&to_ts=%ed%a0%80", "from_ts=%00&to_ts=%00", f"from_ts={quote('😀')}&to_ts=1"]
)
async def test_bytes_that_are_no_text_are_a_422_too(query: str) -> None:
    response = await Analytics().get(f"/analytics/events/count?{query}")
    assert response.status_code == 422
    assert error_of(response)["error_code"] == "invalid_query"


@pytest.mark.parametrize(
    ("problem", "status", "code", "wait"),
    [
        (DatabaseUnavailable("PostgreSQL is away", retry_after=3), 503, "database_unavailable", "3"),
        (QueryTooSlow("ask for less"), 422, "query_too_slow", None),
    ],
)
async def test_a_question_that_cannot_be_answered_says_why_and_whether_to_ask_again(
    problem: PlatformError, status: int, code: str, wait: str | None
) -> None:
    service = Analytics()
    service.store.problem = problem
    response = await service.get("/analytics/events/count", **HOUR)
    error = error_of(response, details=False)
    assert (response.status_code, error["error_code"], error["error_message"]) == (status, code, problem.message)
    assert error["retryable"] is (status == 503)
    assert response.headers.get("retry-after") == wait


async def test_a_fault_of_ours_is_a_500_that_tells_nothing_secret() -> None:
    service = Analytics()
    service.store.events = [("no time", "e", "u")]  # makes the comparison fail
    response = await service.get("/analytics/events/count", **HOUR)
    assert response.status_code == 500
    assert error_of(response, details=False)["error_code"] == "internal_error"
    assert "no time" not in response.text
    assert "TypeError" not in response.text


@pytest.mark.parametrize(("path", "status", "code"), [("/nowhere", 404, "not_found"), ("/analytics", 404, "not_found")])
async def test_an_unknown_path_is_a_404_in_the_one_shape(path: str, status: int, code: str) -> None:
    response = await Analytics().get(path)
    assert (response.status_code, error_of(response)["error_code"]) == (status, code)


async def test_health_and_readiness_follow_postgres() -> None:
    service = Analytics()
    for problem, status in ((None, 200), (DatabaseUnavailable("PostgreSQL is away"), 503)):
        service.postgres.problem = problem
        health, ready, live = [await service.get(f"/health{end}") for end in ("", "/ready", "/live")]
        assert (health.status_code, ready.status_code, live.status_code) == (status, status, 200)
        assert health.json()["postgres_connected"] is (problem is None)
        assert health.json()["service"] == "analytics_service"


async def test_the_metrics_are_there_and_the_documentation_describes_the_question() -> None:
    service = Analytics()
    metrics = await service.get("/metrics")
    assert metrics.status_code == 200
    assert "analytics_query_seconds" in metrics.text
    described: dict[str, Any] = (await service.get("/openapi.json")).json()
    question = described["paths"]["/analytics/events/count"]["get"]
    required = {parameter["name"]: parameter["required"] for parameter in question["parameters"]}
    assert required == {"from_ts": True, "to_ts": True, "event_name": False, "user_id": False}
    for status in ("422", "503"):
        reference = question["responses"][status]["content"]["application/json"]["schema"]["$ref"]
        assert reference == "#/components/schemas/ErrorReply"


async def test_a_mistyped_filter_is_refused_and_does_not_count_everything() -> None:
    service = Analytics()
    service.happened(timedelta(minutes=5))
    response = await service.get("/analytics/events/count", **HOUR, event_nam="nope")
    assert response.status_code == 422
    assert "event_nam" in error_of(response)["error_message"]
