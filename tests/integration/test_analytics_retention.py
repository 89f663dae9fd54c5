"""Retention agrees with an oracle that looks at each user, period and event, from masks of days and from events, in any zone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from analytics_service.questions.retention import RetentionQuestion
from tests.oracles import retention as oracle
from tests.oracles.events import Event, clear, store_events
from tests.oracles.retention import WIDTHS, period_of
from tests.oracles.strategies import ANCHORS, ZONES, events, filters, moments

pytestmark = pytest.mark.integration

RELAXED = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
Asked = tuple[list[Event], datetime, datetime, str, int]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as made:
        # Neither the session's zone nor its summer time may matter.
        made.execute("set timezone to 'America/New_York'")
        yield made


def put(connection: psycopg.Connection[Any], stored: Sequence[Event]) -> None:
    """These and no others are stored."""
    with connection.transaction():
        clear(connection)
        store_events(connection, stored)


def retention(
    connection: psycopg.Connection[Any],
    start: datetime,
    end: datetime,
    unit: str,
    zone: str,
    periods: int,
    filters: Mapping[str, Any] | None = None,
) -> list[tuple[date, int, date, int]]:
    """As the oracle's; each period begins and ends where the zone's clock says so."""
    rows = connection.execute(
        "select cohort, period, begins, until, users"
        " from analytics.retention(%s, %s, %s::text::interval, %s, %s, %s::text::jsonb)",
        (start, end, WIDTHS[unit], zone, periods, orjson.dumps(filters or {}).decode()),
    ).fetchall()
    for cohort, period, begins, until, _ in rows:
        of = period_of(begins, unit, zone)
        assert period_of(begins - MICROSECOND, unit, zone) < of < period_of(until, unit, zone)
        assert period_of(until - MICROSECOND, unit, zone) == of
        assert (cohort == begins) == (period == 0)
    return [(period_of(row[0], unit, zone), row[1], period_of(row[2], unit, zone), row[4]) for row in rows]


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    """Events over days, weeks or months, and cohorts and periods that hold some of them."""
    anchor = draw(st.sampled_from(ANCHORS))
    unit, days, most = draw(
        st.sampled_from((("day", 5.0, 7), ("day", 70.0, 60), ("week", 40.0, 9), ("month", 150.0, 6)))
    )
    stored = draw(events(anchor, days))
    start = draw(moments(anchor - 2 * DAY, days / 2))
    length = draw(st.integers(1, int(days)).map(lambda number: number * DAY))
    cut = draw(st.sampled_from((timedelta(0), -MICROSECOND, timedelta(hours=5))))
    return stored, start, start + length + cut, unit, draw(st.integers(1, most))


def on(day: str, user: str = "u", name: str = "a") -> Event:
    return Event(datetime.fromisoformat(day).replace(tzinfo=UTC), user, name)


_NEW_YEAR = (
    [
        on("2023-12-31"),
        on("2024-01-01"),
        on("2024-01-31T23:59:59"),
        on("2024-02-29"),
        on("2024-03-01", "v"),
        on("2024-03-31", "v"),
    ],
    datetime(2023, 12, 30, tzinfo=UTC),
    datetime(2024, 3, 2, tzinfo=UTC),
)

# The 1st is a Sunday, the 30th a Monday.
_SIX_WEEKS = (
    [on("2024-09-01"), on("2024-09-30")],
    datetime(2024, 9, 1, tzinfo=UTC),
    datetime(2024, 9, 2, tzinfo=UTC),
)


@RELAXED
@given(
    asked(),
    st.sampled_from(("UTC", "Etc/UTC", "Africa/Abidjan")),
    st.sampled_from(({}, {"tenant_id": ["default"]}, {"user_id": ["u", "ü"]})),
)
@example((*_NEW_YEAR, "day", 60), "UTC", {})
@example((*_NEW_YEAR, "week", 12), "UTC", {})
@example((*_NEW_YEAR, "month", 3), "UTC", {})
@example((*_SIX_WEEKS, "week", 5), "UTC", {})
def test_masks_of_days_say_what_the_oracle_finds(
    connection: psycopg.Connection[Any], question: Asked, zone: str, chosen: dict[str, Any]
) -> None:
    stored, start, end, unit, periods = question
    put(connection, stored)
    found = retention(connection, start, end, unit, zone, periods, chosen)
    assert found == oracle.retention(stored, start, end, unit, zone, periods, chosen)
    # The events themselves say the same, by a filter that lets all of them through.
    every = {**chosen, "event_name": ["a", "b", "c"]}
    assert found == retention(connection, start, end, unit, zone, periods, every)


@RELAXED
@given(asked(), st.sampled_from(("UTC", "UTC", *ZONES)), st.just({}) | filters())
@example((*_NEW_YEAR, "day", 60), "UTC", {"event_name": ["b"]})
@example((*_NEW_YEAR, "day", 60), "Europe/Berlin", {})
@example((*_NEW_YEAR, "week", 12), "America/New_York", {})
@example((*_NEW_YEAR, "month", 3), "Asia/Kathmandu", {"event_name": ["a"]})
@example(
    (
        [on("2011-12-29T09:59:59"), on("2011-12-30T10:00:00")],
        on("2011-12-28").timestamp,
        on("2012-01-01").timestamp,
        "day",
        5,
    ),
    "Pacific/Apia",
    {},
)
def test_events_say_what_the_oracle_finds_in_any_zone(
    connection: psycopg.Connection[Any], question: Asked, zone: str, chosen: dict[str, Any]
) -> None:
    stored, start, end, unit, periods = question
    put(connection, stored)
    found = retention(connection, start, end, unit, zone, periods, chosen)
    assert found == oracle.retention(stored, start, end, unit, zone, periods, chosen)


def test_new_means_new_an_earlier_event_moves_a_user_to_an_earlier_cohort(connection: psycopg.Connection[Any]) -> None:
    put(connection, [on("2026-03-02"), on("2026-03-04")])
    asked = (on("2026-03-02").timestamp, on("2026-03-03").timestamp, "day", "UTC", 2)
    assert [users for *_, users in retention(connection, *asked)] == [1, 0, 1]
    with connection.transaction():
        store_events(connection, [on("2025-01-01")])
    assert [users for *_, users in retention(connection, *asked)] == [0, 0, 0]


def test_a_cohort_is_everybody_who_came_anew_whatever_events_are_asked_about(
    connection: psycopg.Connection[Any],
) -> None:
    put(connection, [on("2026-03-02"), on("2026-03-03", name="buy"), on("2026-03-02", "v"), on("2026-03-03", "v")])
    start, end = on("2026-03-02").timestamp, on("2026-03-03").timestamp
    found = retention(connection, start, end, "day", "UTC", 1, {"event_name": ["buy"]})
    assert [users for *_, users in found] == [2, 1]


def test_very_many_users_of_a_day_without_statistics_are_not_compared_each_with_each(
    connection: psycopg.Connection[Any],
) -> None:
    start = on("2026-03-02").timestamp
    connection.execute(
        "insert into events (event_id, user_id, event_name, timestamp, received_at)"
        " select gen_random_uuid(), 'u' || n, 'a', %s + day * interval '1 day', now()"
        " from generate_series(1, 20000) as n cross join generate_series(0, 1) as day",
        [start],
    )
    connection.execute(
        "insert into first_seen select 'default', 'u' || n, %s from generate_series(1, 20000) as n", [start]
    )
    connection.execute("set statement_timeout = '10s'")
    found = retention(connection, start, start + DAY, "day", "UTC", 1, {"event_name": ["a"]})
    assert [users for *_, users in found] == [20_000, 20_000]
    # However few rows the planner thinks there are.
    [(configuration,)] = connection.execute(
        "select proconfig from pg_proc where oid = 'analytics.returns_by_events'::regproc"
    ).fetchall()
    assert "enable_nestloop=off" in configuration


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ("now(), now() - interval '1 hour'", "from_ts must lie before to_ts"),
        ("now(), null", "give from_ts and to_ts"),
        ("'-infinity', now()", "give from_ts and to_ts"),
        ("now(), 'infinity'", "give from_ts and to_ts"),
        ("now() - interval '1 day', now(), '2 days'", "days, weeks or months"),
        ("now() - interval '1 day', now(), '24 hours'", "days, weeks or months"),
        ("now() - interval '1 day', now(), '30 days'", "days, weeks or months"),
        ("now() - interval '1 day', now(), null", "days, weeks or months"),
        ("now() - interval '1 day', now(), '1 day', 'Mars/Olympus'", "Mars/Olympus"),
        ("now() - interval '1 day', now(), '1 day', 'UTC', 0", "1 to 60"),
        ("now() - interval '1 day', now(), '1 day', 'UTC', 61", "1 to 60"),
        ("now() - interval '1 day', now(), '1 day', 'UTC', null", "1 to 60"),
        ("now() - interval '1 day', now(), '1 day', 'UTC', 7, '{\"name\": \"a\"}'", "filtered by name"),
        ("now() - interval '500 days', now()", "more than 400 cohorts"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_remedy(
    connection: psycopg.Connection[Any], arguments: str, remedy: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=remedy):
        connection.execute(f"select * from analytics.retention({arguments})")


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_the_reader_may_ask(connection: psycopg.Connection[Any], zone: str) -> None:
    put(connection, [on("2026-03-02T12:00"), on("2026-03-04T12:00")])
    connection.execute("set role analytics_reader")
    connection.execute("set default_transaction_read_only = on")
    start, end = on("2026-03-02T06:00").timestamp, on("2026-03-02T07:00").timestamp
    for unit, expected in (("day", [1, 0, 1]), ("week", [1, 0, 0]), ("month", [1, 0, 0])):
        assert [users for *_, users in retention(connection, start, end, unit, zone, 2)] == expected


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_a_question_as_the_service_asks_it_counts_whole_periods(
    connection: psycopg.Connection[Any], database_url: str, zone: str
) -> None:
    put(connection, [on("2026-03-02T12:00"), on("2026-03-11T12:00"), on("2026-03-09T12:00", "v")])
    wednesday = on("2026-03-04T12:00").timestamp
    question = RetentionQuestion(from_ts=wednesday, to_ts=wednesday + 7 * DAY, bucket="1w", zone=zone, periods=1)

    async def ask() -> list[asyncpg.Record]:
        client = await asyncpg.connect(database_url)
        try:
            return await client.fetch(question.statement(), *question.arguments())
        finally:
            await client.close()

    rows = asyncio.run(ask())
    assert tuple(rows[0].keys()) == question.columns()
    answer = question.answer(rows)
    assert [cohort["active"] for cohort in answer.fields["cohorts"]] == [[1, 1], [1, 0]]
    assert [period_of(begins, "day", zone) for begins, _ in answer.spans] == [
        date(2026, 3, 2),
        date(2026, 3, 9),
        date(2026, 3, 16),
    ]
    assert (answer.fields["range_from"], answer.fields["range_to"]) == (answer.spans[0][0], answer.spans[1][1])
    low, high = question.touched()
    assert low <= answer.spans[0][0]
    assert answer.spans[-1][1] <= high
