"""The analytics service as a person with a question meets it over HTTP."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest

from analytics_service.errors import QueryTooSlow
from analytics_service.settings import AnalyticsSettings
from event_core.errors import DatabaseUnavailable, PlatformError
from tests.support.analytics import NOON, Analytics
from tests.unit.ingestion import error_of

HOUR = {"from_ts": "2026-01-31T12:00:00Z", "to_ts": "2026-01-31T13:00:00Z"}
COUNT = "/analytics/events/count"


def counting(number: int = 1) -> Analytics:
    """A service whose every count is ``number``."""
    service = Analytics()
    service.store.found = [{"events": number}]
    return service


async def test_the_answer_says_what_was_counted_and_how_fresh_it_is() -> None:
    service = counting(7)
    response = await service.get(
        COUNT, **HOUR, event_name="page_view", user_id=["user_1", "user_2"], metadata="plan=pro"
    )
    body = response.json()
    assert response.status_code == 200
    assert "[from_ts, to_ts)" in body.pop("semantics")
    assert body == {
        "kind": "count",
        "count": 7,
        "from_ts": "2026-01-31T12:00:00Z",
        "to_ts": "2026-01-31T13:00:00Z",
        "filters": {"event_name": ["page_view"], "user_id": ["user_1", "user_2"], "metadata": {"plan": ["pro"]}},
        "freshness": {"watermark": "2026-02-01T00:00:00Z", "age_seconds": 2.0},
        "approximate": False,
        "error": None,
        "incomplete_buckets": [],
    }


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
    response = await counting().get(f"{COUNT}?from_ts={start}&to_ts={end}")
    assert (response.status_code, response.json()["from_ts"]) == (200, "2026-01-31T12:00:00Z")


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "invalid_request", "from_ts"),
    ({"from_ts": "0"}, "invalid_request", "to_ts"),
    ({"to_ts": "0"}, "invalid_request", "from_ts"),
    ({**HOUR, "from_ts": ""}, "invalid_query", "from_ts"),
    ({**HOUR, "from_ts": "yesterday"}, "invalid_query", "from_ts"),
    ({**HOUR, "to_ts": "nan"}, "invalid_query", "to_ts"),
    ({**HOUR, "to_ts": "1e400"}, "invalid_query", "to_ts"),
    ({**HOUR, "to_ts": "\x00"}, "invalid_query", "to_ts"),
    ({**HOUR, "from_ts": "0001-01-01"}, "invalid_query", "from_ts"),
    ({**HOUR, "to_ts": HOUR["from_ts"]}, "invalid_query", "from_ts"),
    ({"from_ts": HOUR["to_ts"], "to_ts": HOUR["from_ts"]}, "invalid_query", "from_ts"),
    ({**HOUR, "event_name": ""}, "invalid_query", "event_name"),
    ({**HOUR, "event_name": "a\x00"}, "invalid_query", "event_name"),
    ({**HOUR, "user_id": "u" * 257}, "invalid_query", "user_id"),
    ({**HOUR, "metadata": "plan"}, "invalid_query", "metadata"),
    ({**HOUR, "event_name": [str(n) for n in range(101)]}, "invalid_request", "event_name"),
    ({**HOUR, "event_nam": "nope"}, "invalid_request", "event_nam"),
    ({**HOUR, "kind": "count"}, "invalid_request", "kind"),
    ({**HOUR, "format": "xml"}, "invalid_request", "format"),
    ({**HOUR, "from_ts": ["2026-01-01", "2026-01-31T12:00:00Z"]}, "invalid_query", "from_ts: given twice"),
    ({**HOUR, "from_ts": "2026"}, "invalid_query", "from_ts"),
]


@pytest.mark.parametrize(("params", "code", "named"), BAD, ids=lambda value: repr(value)[:60])
async def test_a_bad_question_is_a_422_that_names_the_parameter(params: dict[str, Any], code: str, named: str) -> None:
    response = await counting().get(COUNT, **params)
    error = error_of(response)
    assert (response.status_code, error["error_code"], error["retryable"]) == (422, code, False)
    assert named in error["error_message"]


@pytest.mark.parametrize(
    "query", ["from_ts=%ff&to_ts=%ed%a0%80", "from_ts=%00&to_ts=%00", f"from_ts={quote('😀')}&to_ts=1"]
)
async def test_bytes_that_are_no_text_are_a_422_too(query: str) -> None:
    response = await counting().get(f"{COUNT}?{query}")
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
    service = counting()
    service.fails(problem)
    response = await service.get(COUNT, **HOUR)
    error = error_of(response, details=False)
    assert (response.status_code, error["error_code"], error["error_message"]) == (status, code, problem.message)
    assert error["retryable"] is (status == 503)
    assert response.headers.get("retry-after") == wait


async def test_a_fault_of_ours_is_a_500_that_tells_nothing_secret() -> None:
    service = counting()
    service.store.problem = TypeError("hidden")
    response = await service.get(COUNT, **HOUR)
    assert response.status_code == 500
    assert error_of(response, details=False)["error_code"] == "internal_error"
    assert "hidden" not in response.text
    assert "TypeError" not in response.text


async def test_a_question_over_the_budget_is_refused_with_what_it_would_cost() -> None:
    service = Analytics(settings=AnalyticsSettings(analytics_row_budget=1_000))
    service.store.found, service.store.reads = [{"events": 5}], 1_001
    served = await service.get(COUNT, **HOUR)
    assert served.status_code == 200, "the stored counts serve it: nothing is read one by one"
    response = await service.get(COUNT, **HOUR, user_id="u")
    error = error_of(response, details=True)
    assert (response.status_code, error["error_code"]) == (422, "query_too_costly")
    assert "1,001" in error["error_message"]
    assert "ANALYTICS_ROW_BUDGET" in error["error_message"]
    service.store.reads = 1_000
    assert (await service.get(COUNT, **HOUR, user_id="u")).status_code == 200


# --- kept answers


async def test_the_same_question_is_answered_from_memory_until_its_days_change() -> None:
    service = counting(1)
    first = await service.get(COUNT, **HOUR)
    again = await service.get(COUNT, to_ts=HOUR["to_ts"], from_ts="1769860800")
    assert (first.headers["x-cache"], again.headers["x-cache"]) == ("miss", "hit")
    assert first.json() == again.json()
    service.store.found, service.store.version = [{"events": 2}], "2"
    late = await service.get(COUNT, **HOUR)
    assert (late.headers["x-cache"], late.json()["count"]) == ("miss", 2)
    assert len(service.store.asked) == 2


async def test_another_question_is_not_answered_with_this_ones_answer() -> None:
    service = counting(1)
    for params in ({}, {"event_name": "a"}, {"event_name": ["a", "b"]}, {"user_id": "a"}, {"metadata": "a=b"}):
        assert (await service.get(COUNT, **HOUR, **params)).headers["x-cache"] == "miss"
    assert len(service.store.asked) == 5


async def test_a_client_that_has_the_answer_gets_a_304_until_it_changes() -> None:
    service = counting(1)
    first = await service.get(COUNT, **HOUR)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    service.store.asked_at += timedelta(seconds=5)
    same = await service.get(COUNT, headers={"If-None-Match": f'"other", {tag}'}, **HOUR)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert same.headers["x-watermark"] == "2026-02-01T00:00:00Z", "how old the data is shows on a 304, too"
    service.store.version = "2"
    unchanged = await service.get(COUNT, headers={"If-None-Match": tag}, **HOUR)
    assert unchanged.status_code == 304, "an event came, but not one that this question counts"
    service.store.found, service.store.version = [{"events": 2}], "3"
    changed = await service.get(COUNT, headers={"If-None-Match": tag}, **HOUR)
    assert (changed.status_code, changed.json()["count"]) == (200, 2)


async def test_an_answer_that_becomes_complete_is_another_answer() -> None:
    service = counting(1)
    service.store.watermark = NOON + timedelta(minutes=59)
    before = await service.get(COUNT, **HOUR)
    assert before.json()["incomplete_buckets"] == ["2026-01-31T12:00:00Z"]
    service.store.watermark = NOON + timedelta(minutes=60)
    after = await service.get(COUNT, headers={"If-None-Match": before.headers["etag"]}, **HOUR)
    assert (after.status_code, after.headers["x-cache"]) == (200, "hit")
    assert after.json()["incomplete_buckets"] == []


async def test_where_no_consumer_ever_ran_the_freshness_is_unknown_and_nothing_complete() -> None:
    service = counting(1)
    service.store.watermark = None
    body = (await service.get(COUNT, **HOUR)).json()
    assert body["freshness"] == {"watermark": None, "age_seconds": None}
    assert body["incomplete_buckets"] == ["2026-01-31T12:00:00Z"]


async def test_several_who_ask_the_same_at_once_cost_one_query() -> None:
    service = counting(1)
    service.store.pause = asyncio.Event()
    asking = [asyncio.create_task(service.get(COUNT, **HOUR)) for _ in range(5)]
    while not service.store.asked:
        await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0.05)
    service.store.pause.set()
    replies = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(replies[0], asyncio.CancelledError)
    assert [reply.json()["count"] for reply in replies[1:] if not isinstance(reply, BaseException)] == [1] * 4
    assert len(service.store.asked) == 1


async def test_who_asks_again_at_once_after_the_last_one_left_gets_an_answer() -> None:
    service = counting(1)
    service.store.pause = asyncio.Event()
    first = asyncio.create_task(service.get(COUNT, **HOUR))
    while not service.store.asked:
        await asyncio.sleep(0)
    first.cancel()
    second = asyncio.create_task(service.get(COUNT, **HOUR))
    while len(service.store.asked) < 2:
        await asyncio.sleep(0)
    service.store.pause.set()
    assert (await second).json()["count"] == 1


async def test_who_asks_while_the_answer_is_worked_out_gets_it_with_its_freshness_although_events_came() -> None:
    service = counting(1)
    service.store.pause = asyncio.Event()
    first = asyncio.create_task(service.get(COUNT, **HOUR))
    while not service.store.asked:
        await asyncio.sleep(0)
    watermark = service.store.watermark
    service.store.version, service.store.watermark = "2", datetime(2026, 3, 1, tzinfo=UTC)
    second = asyncio.create_task(service.get(COUNT, **HOUR))
    await asyncio.sleep(0.05)
    service.store.pause.set()
    bodies = [(await one).json() for one in (first, second)]
    assert len(service.store.asked) == 1
    assert bodies[0] == bodies[1]
    assert watermark is not None
    assert datetime.fromisoformat(bodies[1]["freshness"]["watermark"]) == watermark
    assert (await service.get(COUNT, **HOUR)).headers["x-cache"] == "miss", "the next one sees what came"


async def test_what_time_alone_changes_is_kept_for_a_minute_of_the_watermark_until_it_settles() -> None:
    service = Analytics()
    service.store.found = [
        {"step": step, "event_name": name, "users": 3 - step, "still_open": 1} for step, name in ((1, "a"), (2, "b"))
    ]
    asked = {**HOUR, "step": ["a", "b"], "window": "1h"}

    async def outcome(watermark: datetime) -> str:
        service.store.watermark = watermark
        return (await service.get("/analytics/funnel", **asked)).headers["x-cache"]

    late = NOON + timedelta(hours=1, minutes=30)
    assert [await outcome(late + timedelta(seconds=each)) for each in (0, 59, 60, 61)] == ["miss", "hit", "miss", "hit"]
    settled = NOON + timedelta(hours=2)
    assert [await outcome(settled + timedelta(minutes=each)) for each in (0, 1, 100)] == ["miss", "hit", "hit"]


async def test_without_memory_for_answers_each_is_worked_out() -> None:
    service = Analytics(settings=AnalyticsSettings(analytics_cache_mb=0))
    service.store.found = [{"events": 1}]
    for _ in range(2):
        assert (await service.get(COUNT, **HOUR)).headers["x-cache"] == "miss"


# --- the other questions, and all of them by POST

DAY = datetime(2026, 1, 31, tzinfo=UTC)


async def test_a_series_flags_the_buckets_that_the_range_cuts_or_that_are_not_over() -> None:
    service = Analytics()
    days = [DAY + timedelta(days=n) for n in range(4)]
    service.store.found = [
        {"bucket": low, "until": high, "value": None, "other": False, "events": 3} for low, high in pairwise(days)
    ]
    service.store.watermark = DAY + timedelta(days=2, hours=1)
    body = (await service.get("/analytics/timeseries", from_ts=NOON.isoformat(), to_ts="2026-02-03")).json()
    assert [point["events"] for point in body["points"]] == [3, 3, 3]
    assert body["incomplete_buckets"] == ["2026-01-31T00:00:00Z", "2026-02-02T00:00:00Z"]


async def test_every_question_may_be_posted_too() -> None:
    service = counting(4)
    body = {"kind": "count", **HOUR, "event_name": "a", "metadata": {"plan": ["pro", "free"], "n": 3}}
    response = await service.request("POST", "/v1/query", json=body)
    assert (response.status_code, response.json()["count"]) == (200, 4)
    assert response.json()["filters"] == {"event_name": ["a"], "metadata": {"plan": ["pro", "free"], "n": ["3"]}}
    params = [("metadata", "plan=pro"), ("metadata", "plan=free"), ("metadata", "n=3"), ("event_name", "a")]
    asked = await service.request("GET", COUNT, params=[*HOUR.items(), *params])
    assert asked.headers["x-cache"] == "hit", "the same question, whichever way it is asked"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "required"),
        (b"[]", ""),
        (b"{}", "kind"),
        (b'{"kind": "nothing"}', "kind"),
        (b'{"kind": "count", "from_ts": "0"}', "to_ts"),
        (b'{"kind": "count", "from_ts": 0, "to_ts": {}}', "to_ts"),
        (b'{"kind": "count", "from_ts": 0, "to_ts": 1, "evil": 1}', "evil"),
        (b'{"kind": "count", "from_ts": 0, "to_ts": NaN}', ""),
        (b'{"kind": "count", "from_ts": 0, "to_ts": 1, "event_name": "\\ud800"}', ""),
    ],
)
async def test_a_bad_body_is_a_422_in_the_one_shape(body: bytes, named: str) -> None:
    response = await counting().request("POST", "/v1/query", content=body)
    assert response.status_code == 422
    assert named in error_of(response)["error_message"]


async def test_what_follows_the_question_mark_of_a_posted_question_is_not_ignored() -> None:
    response = await counting().request("POST", "/v1/query?format=csv", json={"kind": "count", **HOUR})
    assert response.status_code == 422
    assert "question mark" in error_of(response)["error_message"]


@pytest.mark.parametrize("given", [{"limit": "3"}, {"order": "newest"}])
async def test_an_export_of_events_takes_no_page(given: dict[str, str]) -> None:
    response = await Analytics().get("/analytics/events", **HOUR, **given, format="csv")
    assert response.status_code == 422
    assert "an export has all events" in error_of(response)["error_message"]


async def test_a_body_larger_than_any_question_is_a_413() -> None:
    response = await counting().request("POST", "/v1/query", content=b"[" * (3 << 20))
    assert (response.status_code, error_of(response)["error_code"]) == (413, "too_large")


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
    question = described["paths"][COUNT]["get"]
    required = {parameter["name"] for parameter in question["parameters"] if parameter["required"]}
    assert required == {"from_ts", "to_ts"}
    assert {"event_name", "user_id", "tenant_id", "metadata"} <= {each["name"] for each in question["parameters"]}
    for status in ("422", "503"):
        reference = question["responses"][status]["content"]["application/json"]["schema"]["$ref"]
        assert reference == "#/components/schemas/ErrorReply"
