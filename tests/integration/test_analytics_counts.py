"""Counts, series and top values agree with an oracle that looks at each event and each minute, whatever the zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.oracles import counts
from tests.oracles.counts import Asked
from tests.oracles.events import Event, clear, store_events
from tests.oracles.strategies import ANCHORS, ZONES, events, filters, moments

pytestmark = pytest.mark.integration

WIDTHS = tuple(Asked(number, "minute") for number in (1, 5, 15, 30, 60, 120, 180, 360, 720))
WIDER = (Asked(1, "day"), Asked(2, "day"), Asked(7, "day"), Asked(1, "month"))
DIMENSIONS = ("event_name", "tenant_id", "user_id", "variant", "source", "metadata.plan", "metadata.address.city")
RELAXED = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as made:
        made.execute("set timezone to 'UTC'")
        yield made


def put(connection: psycopg.Connection[Any], stored: list[Event]) -> None:
    """These and no others are stored; every third by another writer."""
    with connection.transaction():
        clear(connection)
        store_events(connection, stored[::3], slot=2)
        store_events(connection, [event for place, event in enumerate(stored) if place % 3], slot=1)


@st.composite
def asked(draw: st.DrawFn) -> tuple[list[Event], datetime, datetime]:
    """Events, and a range that holds some of them, ends at one, or lies elsewhere."""
    anchor = draw(st.sampled_from(ANCHORS))
    days = draw(st.sampled_from((0.3, 3.0)))
    start = draw(moments(anchor, days))
    length = draw(st.integers(1, int(days * 24 * 4)).map(lambda quarters: timedelta(minutes=15 * quarters)))
    cut = draw(st.sampled_from((timedelta(0), timedelta(microseconds=1), timedelta(minutes=7, seconds=3))))
    return draw(events(anchor, days)), start, start + length + cut


@RELAXED
@given(
    st.sampled_from(ANCHORS).flatmap(lambda anchor: moments(anchor, 1.5)),
    st.sampled_from(ZONES),
    st.sampled_from((*WIDTHS, *WIDER)),
    st.timedeltas(timedelta(microseconds=1), timedelta(days=2)),
)
@example(datetime(2024, 11, 3, 4, 30, tzinfo=UTC), "America/Havana", Asked(1, "day"), timedelta(days=1))
@example(datetime(2024, 11, 3, 4, 30, tzinfo=UTC), "America/New_York", Asked(60, "minute"), timedelta(hours=4))
@example(datetime(2024, 11, 3, 4, 30, tzinfo=UTC), "America/New_York", Asked(120, "minute"), timedelta(hours=4))
@example(datetime(2011, 12, 30, 1, 0, tzinfo=UTC), "Pacific/Apia", Asked(1, "day"), timedelta(days=2))
def test_buckets_begin_and_end_as_a_clock_on_the_wall_says(
    connection: psycopg.Connection[Any], start: datetime, zone: str, width: Asked, length: timedelta
) -> None:
    [(found,)] = connection.execute(
        "select analytics.bucket_bounds(%s, %s, %s::interval, %s)", [start, start + length, width.sql, zone]
    ).fetchall()
    assert found == counts.bounds(start, start + length, width, zone)


@RELAXED
@given(asked(), filters(served=True) | filters())
def test_a_count_is_what_counting_one_by_one_gives(
    connection: psycopg.Connection[Any], question: tuple[list[Event], datetime, datetime], wanted: dict[str, Any]
) -> None:
    stored, start, end = question
    put(connection, stored)
    [(found,)] = connection.execute(
        "select analytics.count_events(%s, %s, %s::text::jsonb)", [start, end, orjson.dumps(wanted).decode()]
    ).fetchall()
    assert found == len(counts.matching(stored, start, end, wanted))


@RELAXED
@given(asked(), filters(served=True) | filters(), st.sampled_from(ZONES), st.sampled_from((*WIDTHS[1:], *WIDER)))
def test_a_series_holds_every_event_in_its_bucket_and_zeros_where_there_is_none(
    connection: psycopg.Connection[Any],
    question: tuple[list[Event], datetime, datetime],
    wanted: dict[str, Any],
    zone: str,
    width: Asked,
) -> None:
    stored, start, end = question
    put(connection, stored)
    found = connection.execute(
        "select bucket, until, events from analytics.timeseries(%s, %s, %s::interval, %s, %s::text::jsonb)",
        [start, end, width.sql, zone, orjson.dumps(wanted).decode()],
    ).fetchall()
    assert found == counts.timeseries(stored, start, end, width, zone, wanted)


@RELAXED
@given(asked(), filters(served=True) | filters(), st.sampled_from(DIMENSIONS), st.integers(1, 3))
def test_top_values_and_their_series_add_up_to_all_events(
    connection: psycopg.Connection[Any],
    question: tuple[list[Event], datetime, datetime],
    wanted: dict[str, Any],
    dimension: str,
    most: int,
) -> None:
    stored, start, end = question
    put(connection, stored)
    text = orjson.dumps(wanted).decode()
    right = counts.top(stored, start, end, dimension, wanted)
    ordered = sorted(right.items(), key=lambda pair: (-pair[1], pair[0] is None, pair[0] or ""))
    found = connection.execute(
        "select value, events, total from analytics.top(%s, %s, %s, %s, %s::text::jsonb)",
        [start, end, dimension, most, text],
    ).fetchall()
    assert found == [(value, number, right.total()) for value, number in ordered[:most]]

    series = connection.execute(
        "select value, other, sum(events)::bigint from analytics.timeseries(%s, %s, '6 hours', 'UTC', %s::text::jsonb, %s, %s)"
        " group by value, other",
        [start, end, text, dimension, most],
    ).fetchall()
    rest = sum(number for _, number in ordered[most:])
    expected = {(value, False): number for value, number in ordered[:most]} | ({(None, True): rest} if rest else {})
    assert {(value, other): number for value, other, number in series} == expected


def test_what_is_stored_late_shows_in_its_own_bucket_at_once(connection: psycopg.Connection[Any]) -> None:
    day = datetime(2024, 5, 6, tzinfo=UTC)
    put(connection, [Event(day + timedelta(hours=hour)) for hour in range(24)])
    question = "select analytics.count_events(%s, %s), analytics.version_of(%s, %s)"
    arguments = [day, day + timedelta(days=1)] * 2
    [(before, version)] = connection.execute(question, arguments).fetchall()
    with connection.transaction():
        store_events(connection, [Event(day + timedelta(hours=3, minutes=7))])
    [(after, another)] = connection.execute(question, arguments).fetchall()
    assert (before, after) == (24, 25)
    assert version != another


@pytest.mark.parametrize(
    "call",
    [
        "analytics.count_events(now(), now() + interval '1 day', '{\"event_nam\": [\"a\"]}')",
        "analytics.count_events(now(), now() + interval '1 day', '[]')",
        'analytics.count_events(now(), now() + interval \'1 day\', \'{"metadata": {"a": 1, "b": 1, "c": 1, "d": 1}}\')',
        "analytics.bucket_bounds(now(), now(), '1 day', 'UTC')",
        "analytics.bucket_bounds(now(), now() + interval '1 day', '7 minutes', 'UTC')",
        "analytics.bucket_bounds(now(), now() + interval '1 day', '1 month 1 day', 'UTC')",
        "analytics.bucket_bounds(now(), now() + interval '1 day', '1 hour', 'nowhere')",
        "analytics.bucket_bounds('0001-01-01', '9999-01-01', '1 minute', 'UTC')",
    ],
)
def test_a_question_that_makes_no_sense_is_refused_by_sql_too(connection: psycopg.Connection[Any], call: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        connection.execute(f"select {call}")


def test_the_role_reads_the_schema_and_nothing_else(connection: psycopg.Connection[Any]) -> None:
    put(connection, [Event(datetime(2024, 5, 6, tzinfo=UTC))])
    connection.execute("set role analytics_reader")
    assert connection.execute("select analytics.count_events('2024-05-06', '2024-05-07')").fetchall() == [(1,)]
    assert connection.execute("select sum(events) from analytics.event_counts").fetchall() == [(1,)]
    assert connection.execute("select count(*) from analytics.events").fetchall() == [(1,)]
    for forbidden in (
        "select * from public.events",
        "select value from public.dead_letters",
        "delete from analytics.events",
        "create table analytics.mine (a int)",
        "create table public.mine (a int)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(forbidden)
