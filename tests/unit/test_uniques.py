"""What may be asked about users, what it costs, and how the reply looks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from analytics_service.errors import InvalidQuery
from analytics_service.questions.base import Cost
from analytics_service.questions.uniques import UniquesQuestion

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
NOON = FIRST + timedelta(hours=12)
DAY = timedelta(days=1)


def question(from_ts: datetime = FIRST, to_ts: datetime = FIRST + 7 * DAY, **fields: Any) -> UniquesQuestion:
    return UniquesQuestion(from_ts=from_ts, to_ts=to_ts, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bucket": "1d", "breakdown": "tenant_id"}, "exclude each other"),
        ({"bucket": "1d", "method": "sketch"}, "only a total can be sketched"),
        ({"breakdown": "event_name", "method": "sketch"}, "only a total can be sketched"),
        ({"breakdown": "plan"}, r"none of .* and metadata\.PATH"),
        ({"bucket": "7h"}, "does not divide a day"),
        ({"bucket": "1m", "to_ts": FIRST + 8 * DAY}, "about 11,520 numbers, at most 10,000"),
        ({"bucket": "1d", "zone": "Mars/Olympus"}, "no IANA time zone"),
        ({"to_ts": FIRST}, "the range .* is empty"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_with_what_to_change(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidQuery, match=message):
        question(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tenant_id": ["a", "b"]},
        {"breakdown": "tenant_id"},
        {"bucket": "1d"},
        {"bucket": "24h"},
        {"bucket": "1w", "tenant_id": "a"},
        {"bucket": "1mo", "zone": "Etc/UTC"},
        {"bucket": "1d", "zone": "GMT"},
        {"from_ts": NOON, "to_ts": NOON + 1.5 * DAY},
        {"from_ts": NOON + DAY, "to_ts": NOON + 4 * DAY, "method": "exact"},
        {"to_ts": datetime(9999, 12, 31, 23, 59, tzinfo=UTC)},
    ],
)
def test_what_the_days_of_users_say_costs_no_reading_of_events(fields: dict[str, Any]) -> None:
    assert question(**fields).cost() is None


@pytest.mark.parametrize(
    "fields",
    [
        {"event_name": "buy"},
        {"tenant_id": "a", "metadata": {"plan": ["pro"]}},
        {"breakdown": "event_name"},
        {"bucket": "1h"},
        {"bucket": "1d", "zone": "Europe/Berlin"},
        {"method": "sketch"},
        {"from_ts": NOON, "to_ts": NOON + DAY},
        {"to_ts": NOON},
        {"from_ts": datetime(9999, 12, 31, 12, tzinfo=UTC), "to_ts": datetime(9999, 12, 31, 13, tzinfo=UTC)},
    ],
)
def test_any_other_costs_the_events_of_its_range(fields: dict[str, Any]) -> None:
    asked = question(**fields)
    assert asked.cost() == Cost(asked.from_ts, asked.to_ts, asked.filters)


def test_wide_buckets_of_another_zone_cost_a_day_at_each_of_their_bounds() -> None:
    asked = question(to_ts=FIRST + 84 * DAY, bucket="1w", zone="Europe/Berlin", tenant_id="a")
    assert asked.cost() == Cost(FIRST, FIRST + 14 * DAY, {"tenant_id": ["a"]})
    asked = question(to_ts=FIRST + 3 * DAY, bucket="1w", zone="Europe/Berlin")
    assert asked.cost() == Cost(FIRST, FIRST + 2 * DAY, {})


@pytest.mark.parametrize("fields", [{}, {"bucket": "1d"}, {"breakdown": "variant"}])
def test_each_form_has_a_statement_of_its_own_and_the_names_of_its_columns(fields: dict[str, Any]) -> None:
    asked = question(**fields)
    statement, arguments = asked.exported()
    assert (statement, arguments) == (asked.statement(), asked.arguments())
    assert f"${len(arguments)}" in statement
    assert f"${len(arguments) + 1}" not in statement
    assert all(column in statement for column in asked.columns())


def test_a_total_says_whether_and_how_far_it_is_approximate() -> None:
    exact = question().answer([{"users": 7, "approximate": False, "error": None}])
    assert (exact.fields, exact.approximate, exact.error) == ({"users": 7}, False, None)
    sketched = question(method="sketch").answer([{"users": 7, "approximate": True, "error": 0.008125}])
    assert (sketched.fields, sketched.approximate, sketched.error) == ({"users": 7}, True, 0.008125)


def test_a_series_has_a_point_and_a_span_for_each_bucket() -> None:
    rows = [{"bucket": FIRST + n * DAY, "until": FIRST + (n + 1) * DAY, "users": n} for n in range(2)]
    answer = question(bucket="1d").answer(rows)
    points = [{"bucket": FIRST, "users": 0}, {"bucket": FIRST + DAY, "users": 1}]
    assert answer.fields == {"bucket": "1d", "zone": "UTC", "points": points}
    assert answer.spans == [(FIRST, FIRST + DAY), (FIRST + DAY, FIRST + 2 * DAY)]
    assert not answer.approximate


def test_a_breakdown_has_its_values_in_order() -> None:
    top: list[dict[str, object]] = [{"value": "b", "users": 3}, {"value": None, "users": 1}]
    assert question(breakdown="variant").answer(top).fields == {"breakdown": "variant", "top": top}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "estimated (HyperLogLog) where more than 1,000,000 events would have to be read"),
        ({"method": "exact"}, "each counted once"),
        ({"method": "sketch"}, "estimated (HyperLogLog)"),
        ({"bucket": "1w", "zone": "Asia/Tokyo"}, "by the clocks of Asia/Tokyo"),
        ({"breakdown": "metadata.plan"}, "for each value of metadata.plan"),
    ],
)
def test_the_semantics_say_what_was_counted(fields: dict[str, Any], said: str) -> None:
    semantics = question(**fields).semantics()
    assert semantics.startswith("different users (a user_id within a tenant)")
    assert said in semantics
