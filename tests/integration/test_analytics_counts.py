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
from psycopg import sql

from tests.oracles import counts
from tests.oracles.counts import Asked
from tests.oracles.events import Event, clear, fold, store_events
from tests.oracles.strategies import ANCHORS, ZONES, events, filters, moments
from tools.migrate.__main__ import upgrade

pytestmark = pytest.mark.integration

WIDTHS = tuple(Asked(number, "minute") for number in (1, 5, 15, 30, 60, 120, 180, 360, 720))
WIDER = (Asked(1, "day"), Asked(2, "day"), Asked(7, "day"), Asked(1, "month"))
DIMENSIONS = ("event_name", "tenant_id", "user_id", "variant", "source", "metadata.plan", "metadata.address.city")
RELAXED = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def put(connection: psycopg.Connection[Any], stored: list[Event]) -> None:
    """These and no others are stored: by two writers, and some late, when earlier days were folded already."""
    late = len(stored) // 4
    with connection.transaction():
        clear(connection)
        store_events(connection, stored[late::2], slot=2)
        store_events(connection, stored[late + 1 :: 2], slot=1)
        if stored:
            fold(connection, stored[len(stored) // 2].timestamp.date())
        store_events(connection, stored[:late], slot=1)


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


def test_a_series_of_very_many_values_is_not_quadratic(connection: psycopg.Connection[Any]) -> None:
    day = datetime(2024, 5, 6, tzinfo=UTC)
    connection.execute(
        "insert into events (event_id, user_id, event_name, timestamp, received_at)"
        " select gen_random_uuid(), 'u' || n, 'e', %s, now() from generate_series(1, 20000) as n",
        [day],
    )
    connection.execute("set statement_timeout = '10s'")
    found = connection.execute(
        "select value, events from analytics.timeseries(%s, %s, '1 hour', breakdown => 'user_id', most => 2)",
        [day, day + timedelta(hours=1)],
    ).fetchall()
    assert found == [("u1", 1), ("u10", 1), (None, 19_998)]


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


@pytest.fixture
def english(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A database whose own order is that of English words, as the official image's is."""
    server, name = database_url.rsplit("/", 1)
    made = sql.Identifier(f"{name}_english")
    with psycopg.connect(database_url, autocommit=True) as maintenance:
        maintenance.execute(
            sql.SQL(
                "create database {} template template0 encoding 'UTF8' locale_provider icu icu_locale 'en-US'"
            ).format(made)
        )
        try:
            url = f"{server}/{name}_english"
            upgrade(url)
            with psycopg.connect(url, autocommit=True) as connection:
                yield connection
        finally:
            maintenance.execute(sql.SQL("drop database {} with (force)").format(made))


def test_among_equals_the_same_come_first_whatever_order_the_database_has(
    english: psycopg.Connection[Any],
) -> None:
    day = datetime(2024, 5, 6, tzinfo=UTC)
    names = ("a", "A", "b", "B", "_x", "é")
    store_events(english, [Event(day, name, name, name, metadata={"plan": name}) for name in names])
    assert english.execute(
        "select array_agg(name order by name) from unnest(%s::text[]) as name", [list(names)]
    ).fetchone() == (["_x", "a", "A", "b", "B", "é"],)
    for dimension in ("event_name", "tenant_id", "user_id", "metadata.plan"):
        asked = [day, day + timedelta(hours=1), dimension]
        for question in (
            "select value from analytics.top(%s, %s, %s, 4)",
            "select value from analytics.unique_users_per(%s, %s, %s, most => 4)",
            "select value from analytics.timeseries(%s, %s, '1 hour', breakdown => %s, most => 4) where not other",
        ):
            assert english.execute(question, asked).fetchall() == [("A",), ("B",), ("_x",), ("a",)]


RANGE = "'2024-05-06', '2024-05-07'"


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (f'count_events({RANGE}, \'{{"event_nam": ["a"]}}\')', "filtered by event_nam"),
        (f"count_events({RANGE}, '[]')", "not a JSON object"),
        (f"count_events({RANGE}, null)", "not a JSON object"),
        (f'count_events({RANGE}, \'{{"metadata": {{"a": 1, "b": 1, "c": 1, "d": 1}}}}\')', "at most 3 paths"),
        ("count_events('2024-05-07', '2024-05-06')", "from_ts must lie before to_ts"),
        ("count_events('2024-05-07', '2024-05-07')", "from_ts must lie before to_ts"),
        ("count_events('2024-05-07', null)", "give from_ts and to_ts"),
        ("count_events('-infinity', '2024-05-07')", "give from_ts and to_ts"),
        ("count_events('2024-05-07', '294276-12-31')", "years 1 to 9999"),
        ("top('2024-05-07', '2024-05-06', 'event_name')", "from_ts must lie before to_ts"),
        ("top('2024-05-07', 'infinity', 'event_name')", "give from_ts and to_ts"),
        (f"top({RANGE}, 'event_nam')", "take event_name, user_id"),
        (f"top({RANGE}, 'plan')", "metadata.PATH"),
        (f"top({RANGE}, 'metadata.')", "metadata.PATH"),
        (f"top({RANGE}, 'metadatas')", "metadata.PATH"),
        (f"top({RANGE}, null)", "take event_name, user_id"),
        (f"top({RANGE}, 'event_name', 0)", "1 or more"),
        (f"top({RANGE}, 'event_name', null)", "1 or more"),
        ("counted(null)", "give from_ts and to_ts"),
        ("counted(array[now()])", "from_ts must lie before to_ts"),
        (f"counted(array[{RANGE}]::timestamptz[], breakdown => 'country')", "take event_name, user_id"),
        (f"timeseries({RANGE}, '1 hour', breakdown => 'country')", "take event_name, user_id"),
        (f"timeseries({RANGE}, '1 hour', breakdown => 'source', most => -1)", "1 or more"),
        (f"timeseries({RANGE}, null)", "no width of a bucket"),
        (f"timeseries({RANGE}, '1 hour', null)", "no zone"),
        ("timeseries('-infinity', 'infinity', '1 hour')", "give from_ts and to_ts"),
        ("bucket_bounds(now(), now(), '1 day', 'UTC')", "from_ts must lie before to_ts"),
        (f"bucket_bounds({RANGE}, '7 minutes', 'UTC')", "no width of a bucket"),
        (f"bucket_bounds({RANGE}, '1 month 1 day', 'UTC')", "no width of a bucket"),
        (f"bucket_bounds({RANGE}, '1 hour', 'nowhere')", "nowhere"),
        ("bucket_bounds('0001-01-01', '9999-01-01', '1 minute', 'UTC')", "too many buckets"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_by_sql_too(
    connection: psycopg.Connection[Any], call: str, remedy: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=remedy):
        connection.execute(f"select analytics.{call}")


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


def test_quarters_and_hours_of_folded_days_meet_without_gap_or_overlap(connection: psycopg.Connection[Any]) -> None:
    start = datetime(2024, 5, 6, tzinfo=UTC)
    quarter = timedelta(minutes=15)
    stored = [Event(start + quarter * n, event_name="ab"[n % 2]) for n in range(60)]
    with connection.transaction():
        clear(connection)
        store_events(connection, stored[:50])
        fold(connection, (start + timedelta(days=1)).date())
        store_events(connection, stored[50:])
    for low in range(10):
        for high in range(low + 1, 30):
            for breakdown in (None, "event_name"):
                [(found,)] = connection.execute(
                    "select sum(events) from analytics.counted(array[%s, %s], '{}', %s)",
                    [start + quarter * low, start + quarter * high, breakdown],
                ).fetchall()
                assert found == high - low, (low, high, breakdown)
