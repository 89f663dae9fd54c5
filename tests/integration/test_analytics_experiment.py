"""An experiment's users are counted as an oracle counts them that follows each user by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from analytics_service.questions.experiment import ExperimentQuestion
from tests.oracles.events import Event, clear, store_events
from tests.oracles.experiment import Counted, experiment

pytestmark = pytest.mark.integration

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
"""Clocks change in the night, where they change: a window of a day must not."""
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
WATERMARK = NOON + 30 * HOUR
RELAXED = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as made:
        made.execute("set timezone to 'Europe/Berlin'")
        made.execute(
            "insert into consumer_offsets (consumer_group, topic, partition, next_offset, caught_up_at)"
            " values ('g', 't', 0, 1, %s)",
            [WATERMARK],
        )
        yield made


def ask(connection: psycopg.Connection[Any], question: ExperimentQuestion) -> list[dict[str, Any]]:
    """The statement's rows, with the arguments that the service sends."""
    cursor = psycopg.RawCursor(connection, row_factory=dict_row)
    return cursor.execute(question.statement(), question.arguments()).fetchall()


def asked(start: datetime, end: datetime, window: str, **filters: Any) -> ExperimentQuestion:
    return ExperimentQuestion(experiment="x", goal="buy", from_ts=start, to_ts=end, window=window, **filters)


def counted(connection: psycopg.Connection[Any], question: ExperimentQuestion) -> tuple[dict[str, Counted], int]:
    rows = {row.pop("variant"): row for row in ask(connection, question)}
    left_out = rows.pop(None, {"users": 0, "conversions": 0, "still_open": 0})
    assert (left_out["conversions"], left_out["still_open"]) == (0, 0)
    return {variant: Counted(**row) for variant, row in rows.items()}, left_out["users"]


moments = st.builds(
    lambda hour, ticks: NOON + hour * HOUR + ticks * TICK,
    st.sampled_from((-30, -1, 0, 1, 2, 3, 4, 23, 24, 25, 26, 48)),
    st.sampled_from((0, 0, 0, -1, 1)),
)
"""Few, so that events meet each other, the range's ends and the windows' ends."""
stored = st.lists(
    st.builds(
        Event,
        timestamp=moments,
        user_id=st.sampled_from(("u", "v", "w")),
        tenant_id=st.sampled_from(("default", "other")),
        event_name=st.sampled_from(("buy", "buy", "see")),
        experiment_id=st.sampled_from(("x", "x", None, "y")),
        variant=st.sampled_from(("A", "A", "B", None)),
        source=st.sampled_from((None, "web")),
        metadata=st.sampled_from(({}, {"plan": "pro"})),
    ),
    max_size=24,
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "tenant_id": st.just(["other"]),
        "user_id": st.just(["u", "v"]),
        "source": st.just(["web"]),
        "metadata": st.just({"plan": ["pro"]}),
    },
)


@RELAXED
@given(
    stored,
    st.sampled_from((0, 1, 4)),
    st.sampled_from((TICK, HOUR, DAY, 2 * DAY)),
    st.sampled_from(("1h", "24h", "1d", "2d")),
    filters,
)
def test_users_are_counted_as_one_would_by_hand(
    connection: psycopg.Connection[Any],
    events: list[Event],
    begin: int,
    length: timedelta,
    window: str,
    filters: dict[str, Any],
) -> None:
    start = NOON + begin * HOUR
    with connection.transaction():
        clear(connection)
        store_events(connection, events)
    hours = {"1h": 1, "24h": 24, "1d": 24, "2d": 48}[window]
    expected = experiment(events, ("x", "buy"), start, start + length, hours * HOUR, filters, WATERMARK)
    assert counted(connection, asked(start, start + length, window, **filters)) == expected


def exposure(at: datetime, user: str = "u", variant: str = "A", tenant: str = "default") -> Event:
    return Event(at, user, "see", tenant, "x", variant)


def conversion(at: datetime, user: str = "u", tenant: str = "default") -> Event:
    return Event(at, user, "buy", tenant)


EDGES: dict[str, tuple[list[Event], dict[str, Counted], int]] = {
    "a goal at the same time is no effect": ([exposure(NOON), conversion(NOON)], {"A": Counted(1, 0)}, 0),
    "nor is one before": ([conversion(NOON - TICK), exposure(NOON)], {"A": Counted(1, 0)}, 0),
    "the last moment of the window counts": ([exposure(NOON), conversion(NOON + DAY)], {"A": Counted(1, 1)}, 0),
    "the next does not": ([exposure(NOON), conversion(NOON + DAY + TICK)], {"A": Counted(1, 0)}, 0),
    "a window may end after the range": (
        [exposure(NOON + DAY - HOUR), conversion(NOON + DAY + HOUR)],
        {"A": Counted(1, 1, still_open=1)},
        0,
    ),
    "first seen before the range": ([exposure(NOON - TICK), exposure(NOON)], {}, 0),
    "first seen when the range ends": ([exposure(NOON + DAY)], {}, 0),
    "two variants": ([exposure(NOON), exposure(NOON, variant="B"), conversion(NOON + HOUR)], {}, 1),
    "another variant after the range": ([exposure(NOON), exposure(NOON + DAY, variant="B")], {"A": Counted(1, 0)}, 0),
    "once at most": ([exposure(NOON), conversion(NOON + HOUR), conversion(NOON + HOUR)], {"A": Counted(1, 1)}, 0),
    "another tenant's user": ([exposure(NOON), conversion(NOON + HOUR, tenant="other")], {"A": Counted(1, 0)}, 0),
    "an exposure is no conversion of its own": ([Event(NOON, "u", "buy", "t", "x", "B")], {"B": Counted(1, 0)}, 0),
    "a later exposure can be one": (
        [exposure(NOON), Event(NOON + HOUR, "u", "buy", "default", "x", "A")],
        {"A": Counted(1, 1)},
        0,
    ),
    "without a variant it is no exposure": ([Event(NOON, "u", "see", "default", "x", None)], {}, 0),
}


@pytest.mark.parametrize("edge", EDGES)
def test_the_edges(connection: psycopg.Connection[Any], edge: str) -> None:
    events, variants, excluded = EDGES[edge]
    store_events(connection, events)
    assert counted(connection, asked(NOON, NOON + DAY, "1d")) == (variants, excluded)


def test_before_anything_was_consumed_the_present_is_the_watermark(connection: psycopg.Connection[Any]) -> None:
    connection.execute("delete from consumer_offsets")
    now = datetime.now(UTC)
    store_events(connection, [exposure(now - 2 * HOUR, "past"), exposure(now - HOUR / 2, "recent")])
    found, _ = counted(connection, asked(now - DAY, now, "1h"))
    assert found == {"A": Counted(2, 0, 1)}


def test_the_reply_names_the_better_variant_and_who_is_left_out(connection: psycopg.Connection[Any]) -> None:
    events = [exposure(NOON, f"user_{number}", "AB"[number % 2]) for number in range(1200)]
    events += [
        conversion(NOON + HOUR, f"user_{number}") for number in range(1200) if number % 10 < (5 if number % 2 else 2)
    ]
    events += [exposure(NOON, "both", "A"), exposure(NOON + HOUR, "both", "B")]
    store_events(connection, events)
    question = asked(NOON, NOON + DAY, "1d")
    reply = question.answer(ask(connection, question)).fields
    assert (reply["control"], reply["better"], reply["excluded_users"]) == ("A", ["B"], 1)
    assert [(found["variant"], found["users"], found["conversions"]) for found in reply["variants"]] == [
        ("A", 600, 120),
        ("B", 600, 240),
    ]
    assert reply["conclusion"] == "B does better than A"


def test_very_many_users_of_a_day_without_statistics_are_not_compared_each_with_each(
    connection: psycopg.Connection[Any],
) -> None:
    connection.execute(
        "insert into events (event_id, user_id, event_name, timestamp, received_at, experiment_id, variant)"
        " select gen_random_uuid(), 'u' || n, name, at, now(), experiment, variant from generate_series(1, 20000) as n"
        " cross join (values ('see', %s::timestamptz, 'x', 'A'), ('buy', %s, null, null)) as e (name, at, experiment, variant)",
        [NOON, NOON + HOUR],
    )
    connection.execute("set statement_timeout = '10s'")
    assert counted(connection, asked(NOON, NOON + DAY, "1d")) == ({"A": Counted(20_000, 20_000, 0)}, 0)
    # However few rows the planner thinks there are.
    [(configuration,)] = connection.execute(
        "select proconfig from pg_proc where oid = 'analytics.experiment'::regproc"
    ).fetchall()
    assert "enable_nestloop=off" in configuration


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        ("'x', 'buy', '2026-03-02', '2026-03-01'", "from_ts"),
        ("'x', 'buy', '2026-03-01', null", "give from_ts and to_ts"),
        ("'x', 'buy', '-infinity', '2026-03-01'", "give from_ts and to_ts"),
        ("'x', 'buy', '2026-03-01', 'infinity'", "give from_ts and to_ts"),
        ("'x', 'buy', '2026-03-01', '2026-03-02', '290000 years'", "window_"),
        ("'x', 'buy', '2026-03-01', '2026-03-02', '-1 day'", "window_"),
        ("'x', 'buy', '2026-03-01', '2026-03-02', null", "window_"),
        ("null, 'buy', '2026-03-01', '2026-03-02'", "experiment"),
        ("'x', 'buy', '2026-03-01', '2026-03-02', '1 day', '{\"variants\": [\"A\"]}'", "variants"),
        ("'x', 'buy', '2026-03-01', '2026-03-02', '1 day', '{\"variant\": [\"A\"]}'", "leave out"),
        ("'x', 'buy', '2026-03-01', '2026-03-02', '1 day', null", "filters"),
    ],
)
def test_sql_says_what_is_wrong_with_a_question(connection: psycopg.Connection[Any], call: str, remedy: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=remedy):
        connection.execute(f"select * from analytics.experiment({call})")


def test_the_readers_role_is_enough(connection: psycopg.Connection[Any]) -> None:
    store_events(connection, [exposure(NOON), conversion(NOON + HOUR)])
    connection.execute("set role analytics_reader")
    assert counted(connection, asked(NOON, NOON + HOUR, "1h")) == ({"A": Counted(1, 1, 0)}, 0)
