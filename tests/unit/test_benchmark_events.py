"""The generated events that the analytics benchmark asks about."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest

from tests.benchmarks.analytics_events import COLUMNS, DAYS, NAMES, Plan, events_on, lines

PLAN = Plan(events=30_000, first_day=date(2026, 10, 1), users=5_000)


def rows(plan: Plan, day: date) -> list[dict[str, str]]:
    text = b"".join(lines(plan, day)).decode()
    return [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in text.splitlines()]


@pytest.fixture(scope="module")
def events() -> list[dict[str, str]]:
    return [row for day in PLAN.days for row in rows(PLAN, day)]


def digest(plan: Plan) -> str:
    return hashlib.sha256(b"".join(piece for day in plan.days for piece in lines(plan, day))).hexdigest()


def test_the_same_plan_gives_the_same_bytes_and_another_seed_others() -> None:
    assert digest(PLAN) == digest(PLAN)
    assert digest(PLAN) != digest(PLAN._replace(seed=2))


def test_a_day_is_the_same_whoever_makes_it_and_when() -> None:
    day = PLAN.days[17]
    assert rows(PLAN, day) == rows(PLAN, day)


@pytest.mark.parametrize("number", [1_000, 12_345, 10_000_000])
def test_the_days_have_as_many_events_as_were_asked_for(number: int) -> None:
    plan = PLAN._replace(events=number)
    assert sum(events_on(plan, day) for day in plan.days) == number
    assert min(events_on(plan, day) for day in plan.days) > 0


def test_every_id_is_another_and_says_the_time_of_its_event(events: list[dict[str, str]]) -> None:
    assert len(events) == PLAN.events
    assert len({row["event_id"] for row in events}) == PLAN.events
    for row in events[::97]:
        event_id = UUID(row["event_id"])
        assert event_id.version == 7
        assert datetime.fromtimestamp((event_id.int >> 80) / 1000, UTC) == datetime.fromisoformat(row["timestamp"])


def test_events_come_in_the_order_of_their_times_within_the_day(events: list[dict[str, str]]) -> None:
    assert all(one["timestamp"] <= other["timestamp"] for one, other in pairwise(events))
    days = {row["timestamp"][:10] for row in events}
    assert days == {str(PLAN.first_day + timedelta(days=number)) for number in range(DAYS)}
    assert all(
        row["timestamp"] <= row["received_at"] and row["received_at"][:10] == row["timestamp"][:10] for row in events
    )


def test_some_names_and_users_are_much_more_frequent_than_others(events: list[dict[str, str]]) -> None:
    names, users = Counter(row["event_name"] for row in events), Counter(row["user_id"] for row in events)
    assert set(names) == set(NAMES)
    assert names[NAMES[0]] > 10 * names[NAMES[-1]]
    assert users["user_000000"] == max(users.values()) > 20 * PLAN.events / PLAN.users
    assert len(users) > PLAN.users * 0.8


def test_nights_and_weekends_are_quieter(events: list[dict[str, str]]) -> None:
    hours = Counter(row["timestamp"][11:13] for row in events)
    assert hours["19"] > 3 * hours["03"]
    assert events_on(PLAN, date(2026, 10, 3)) < events_on(PLAN, date(2026, 10, 2))


def test_users_join_over_the_days(events: list[dict[str, str]]) -> None:
    joined = {row["user_id"]: row["timestamp"][:10] for row in reversed(events)}
    assert len(set(joined.values())) == DAYS


def test_two_percent_belong_to_an_experiment_and_nearly_every_user_has_one_variant(
    events: list[dict[str, str]],
) -> None:
    exposed = [row for row in events if row["experiment_id"] != "\\N"]
    assert 0.015 < len(exposed) / len(events) < 0.025
    assert all((row["experiment_id"] == "\\N") == (row["variant"] == "\\N") for row in events)
    variants: dict[str, set[str]] = {}
    for row in exposed:
        variants.setdefault(row["user_id"], set()).add(row["variant"])
    assert set().union(*variants.values()) == {"A", "B"}
    assert sum(len(seen) > 1 for seen in variants.values()) <= 0.02 * len(variants)


def test_metadata_is_json_with_plan_page_and_number(events: list[dict[str, str]]) -> None:
    assert all(json.loads(row["metadata"]).keys() == {"plan", "page", "n"} for row in events[::50])
