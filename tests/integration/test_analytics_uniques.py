"""Unique users agree with an oracle that looks at each event; sketched ones lie within their error, as another library's do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import psycopg
import pytest
from datasketches import hll_sketch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_service.questions.uniques import UniquesQuestion
from tests.oracles import uniques
from tests.oracles.counts import Asked
from tests.oracles.events import Event, clear, store_events
from tests.oracles.strategies import ANCHORS, ZONES, events, filters, moments

pytestmark = pytest.mark.integration

Connection = psycopg.Connection[Any]
DAY = datetime(2024, 5, 6, tzinfo=UTC)
NARROW = (Asked(15, "minute"), Asked(60, "minute"), Asked(720, "minute"))
WIDE = (Asked(1, "day"), Asked(2, "day"), Asked(7, "day"), Asked(31, "day"), Asked(1, "month"))
DIMENSIONS = ("tenant_id", "event_name", "user_id", "variant", "metadata.plan", "metadata.address.city")
ONE_TENANT = [{}, {}, {"tenant_id": ["default"]}, {"tenant_id": ["other", "nothing"]}]
RELAXED = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url, autocommit=True) as made:
        # Nothing may depend on the session's zone.
        made.execute("set timezone to 'Pacific/Chatham'")
        yield made


def put(connection: Connection, stored: list[Event]) -> None:
    """These and no others are stored, every second of them late."""
    with connection.transaction():
        clear(connection)
        store_events(connection, stored[::2], slot=1)
        store_events(connection, stored[1::2], slot=2)


def ask(connection: Connection, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
    """The rows of analytics.<statement>, times in UTC: elsewhere Python calls an hour that clocks repeat unequal to itself."""
    given = [orjson.dumps(each).decode() if isinstance(each, dict) else each for each in arguments]
    rows = connection.execute(f"select * from analytics.{statement}", given).fetchall()
    return [tuple(each.astimezone(UTC) if isinstance(each, datetime) else each for each in row) for row in rows]


@st.composite
def asked(draw: st.DrawFn, *lengths: float) -> tuple[list[Event], datetime, datetime]:
    """Events of some days or months, and a range that holds some: of whole days (UTC), cut ones, or both."""
    anchor = draw(st.sampled_from(ANCHORS))
    days = draw(st.sampled_from(lengths))
    start, end = sorted((draw(moments(anchor, days)), draw(moments(anchor, days) | moments(anchor, 1.2 * days))))
    if draw(st.booleans()):
        start = start.replace(hour=0, minute=0, second=0, microsecond=0)
    if draw(st.booleans()):
        end = end.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return draw(events(anchor, days)), start, max(end, start + timedelta(microseconds=1))


@RELAXED
@given(asked(0.6, 3.0, 12.0, 70.0), st.sampled_from(ONE_TENANT) | filters())
def test_users_are_counted_as_one_by_one(
    connection: Connection, question: tuple[list[Event], datetime, datetime], wanted: dict[str, Any]
) -> None:
    stored, start, end = question
    put(connection, stored)
    right = uniques.unique(stored, start, end, wanted)
    assert ask(connection, "unique_users(%s, %s, %s::text::jsonb)", start, end, wanted) == [(right,)]
    assert ask(connection, "unique_users_auto(%s, %s, %s::text::jsonb)", start, end, wanted) == [(right, False, None)]
    # So few hashes hardly ever share a register; a shared one would show as one user less.
    [(about, error)] = ask(connection, "unique_users_sketched(%s, %s, %s::text::jsonb)", start, end, wanted)
    assert about == right
    assert error == pytest.approx(1.04 / 128)


@RELAXED
@given(
    asked(0.6, 3.0),
    st.sampled_from(ONE_TENANT) | filters(),
    st.sampled_from(("UTC", *ZONES)),
    st.sampled_from((*NARROW, *WIDE)),
)
def test_each_bucket_has_its_users(
    connection: Connection,
    question: tuple[list[Event], datetime, datetime],
    wanted: dict[str, Any],
    zone: str,
    width: Asked,
) -> None:
    stored, start, end = question
    put(connection, stored)
    found = ask(
        connection, "unique_users_by(%s, %s, %s::interval, %s, %s::text::jsonb)", start, end, width.sql, zone, wanted
    )
    assert found == uniques.series(stored, start, end, width, zone, wanted)


@settings(RELAXED, max_examples=30)
@given(asked(12.0, 70.0), st.sampled_from(ONE_TENANT), st.sampled_from(("UTC", "UTC", *ZONES)), st.sampled_from(WIDE))
def test_buckets_of_days_weeks_and_months_have_their_users_across_months(
    connection: Connection,
    question: tuple[list[Event], datetime, datetime],
    wanted: dict[str, Any],
    zone: str,
    width: Asked,
) -> None:
    stored, start, end = question
    put(connection, stored)
    found = ask(
        connection, "unique_users_by(%s, %s, %s::interval, %s, %s::text::jsonb)", start, end, width.sql, zone, wanted
    )
    assert found == uniques.series(stored, start, end, width, zone, wanted)


@RELAXED
@given(
    asked(0.6, 3.0, 40.0),
    st.sampled_from(ONE_TENANT) | filters(),
    st.sampled_from(DIMENSIONS),
    st.sampled_from((1, 2, 99)),
)
def test_each_value_has_its_users_and_the_most_come_first(
    connection: Connection,
    question: tuple[list[Event], datetime, datetime],
    wanted: dict[str, Any],
    dimension: str,
    most: int,
) -> None:
    stored, start, end = question
    put(connection, stored)
    found = ask(connection, "unique_users_per(%s, %s, %s, %s::text::jsonb, %s)", start, end, dimension, wanted, most)
    assert found == uniques.per(stored, start, end, dimension, wanted)[:most]


@settings(RELAXED, max_examples=30)
@given(asked(3.0, 70.0))
def test_the_view_of_days_says_what_the_events_of_each_day_say(
    connection: Connection, question: tuple[list[Event], datetime, datetime]
) -> None:
    stored, _, _ = question
    put(connection, stored)
    right = {
        (day, tenant): len(
            {event.user_id for event in stored if (event.timestamp.date(), event.tenant_id) == (day, tenant)}
        )
        for day, tenant in {(event.timestamp.date(), event.tenant_id) for event in stored}
    }
    found = {(day, tenant): users for day, tenant, users in ask(connection, "daily_users")}
    assert found == right
    if stored:
        days = min(right)[0], max(right)[0] + timedelta(days=1)
        assert ask(connection, "users_per_day(%s, %s) order by 1, 2", *days) == [
            (day, tenant, users) for (day, tenant), users in sorted(right.items())
        ]


def test_whole_days_are_not_read_event_by_event(connection: Connection) -> None:
    """Nor is a day that the range cuts where no event is: the rest of today."""
    put(connection, [Event(DAY + timedelta(hours=hour), f"u{hour}") for hour in range(48)])
    noon = DAY + timedelta(days=1, hours=12)
    connection.execute("delete from events where timestamp >= %s", [noon])
    answers = {
        "whole": ask(connection, "unique_users(%s, %s)", DAY, DAY + timedelta(days=2)),
        "today": ask(connection, "unique_users(%s, %s)", DAY, noon),
        "cut": ask(connection, "unique_users(%s, %s)", DAY, noon - timedelta(hours=1)),
    }
    assert answers == {"whole": [(48,)], "today": [(48,)], "cut": [(35,)]}


def test_a_cut_day_of_very_many_users_is_counted_exactly_too(connection: Connection) -> None:
    """More than are looked up one by one: half of them before noon, when the range ends."""
    put(connection, [Event(DAY, "u1"), Event(DAY, "u2")])
    fill(connection, "many", range(1, 25_001), DAY + timedelta(days=1))
    fill(connection, "many", range(12_501, 37_501), DAY + timedelta(days=1, hours=13))
    connection.execute(
        "insert into user_days"
        " select tenant_id, %s, user_id, bit_or(1 << extract(day from timestamp at time zone 'UTC')::int - 1) from events"
        " group by 1, 3 on conflict (tenant_id, month, user_id) do update set days = excluded.days",
        [date(2024, 5, 1)],
    )
    assert ask(connection, "unique_users(%s, %s)", DAY, DAY + timedelta(days=1, hours=12)) == [(25_000,)]
    assert ask(connection, "unique_users(%s, %s)", DAY, DAY + timedelta(days=2)) == [(37_500,)]


def test_the_users_of_very_many_tenants_are_counted_too(connection: Connection) -> None:
    """More than are named to the index."""
    put(connection, [Event(DAY + timedelta(hours=n), "u", tenant_id=f"t{n % 101}") for n in range(101)])
    until = DAY + timedelta(days=5)
    assert ask(connection, "unique_users(%s, %s)", DAY, until) == [(101,)]
    assert [users for _, _, users in ask(connection, "unique_users_by(%s, %s, '1 day')", DAY, until)] == [
        24,
        24,
        24,
        24,
        5,
    ]


def fill(connection: Connection, name: str, users: range, at: datetime = DAY) -> None:
    """Events of u<number> in the order of the range, a microsecond apart; the rollups are left as they are."""
    connection.execute(
        "insert into events (event_id, user_id, event_name, timestamp, received_at)"
        " select gen_random_uuid(), 'u' || n, %s, %s + n * interval '1 microsecond', now()"
        " from generate_series(%s::int, %s::int, %s::int) as n",
        [name, at, users.start, users.stop - users.step, users.step],
    )


@pytest.mark.parametrize("number", [1_000, 50_000, 200_000])
def test_a_sketch_lies_within_three_standard_errors_as_another_librarys_does(
    connection: Connection, number: int
) -> None:
    fill(connection, "seen", range(1, number + 1))
    wanted = {"event_name": "seen"}
    until = DAY + timedelta(days=1)
    [(exact,)] = ask(connection, "unique_users(%s, %s, %s::text::jsonb)", DAY, until, wanted)
    [(about, error)] = ask(connection, "unique_users_sketched(%s, %s, %s::text::jsonb)", DAY, until, wanted)
    theirs = hll_sketch(14)
    for n in range(1, number + 1):
        theirs.update(f"default\x00u{n}")
    assert exact == number
    assert abs(about - exact) <= 3 * error * exact
    assert abs(theirs.get_estimate() - exact) <= 3 * error * exact
    assert abs(about - theirs.get_estimate()) <= 6 * error * exact


def test_a_sketch_knows_neither_order_nor_repetition_and_can_be_united(connection: Connection) -> None:
    fill(connection, "up", range(1, 5_001))
    fill(connection, "down", range(5_000, 0, -1))
    fill(connection, "down", range(4_999, 0, -2), DAY + timedelta(hours=1))
    fill(connection, "more", range(4_001, 9_001), DAY + timedelta(hours=2))

    def sketch(*names: str) -> bytes:
        return bytes(
            ask(connection, "hll_sketch(%s, %s, %s::text::jsonb)", DAY, DAY + timedelta(days=1), {"event_name": names})[
                0
            ][0]
        )

    up, down, more, both = sketch("up"), sketch("down"), sketch("more"), sketch("up", "more")
    assert up == down
    assert up != more
    assert len(up) == 16384
    assert bytes(ask(connection, "hll_union(%s, %s)", up, more)[0][0]) == both
    assert ask(connection, "hll_estimate(%s)", both)[0][0] == pytest.approx(9_000, rel=3 * 1.04 / 128)
    assert ask(connection, "hll_estimate(%s)", bytes(16384)) == [(0,)]


def test_the_tenant_makes_another_user_in_sketches_too(connection: Connection) -> None:
    put(connection, [Event(DAY, "u", tenant_id=tenant) for tenant in ("a", "b", "c")])
    [(about, _)] = ask(connection, "unique_users_sketched(%s, %s)", DAY, DAY + timedelta(days=1))
    assert about == 3


def test_only_what_takes_reading_very_many_events_is_sketched_unless_asked_for(connection: Connection) -> None:
    put(connection, [Event(DAY + timedelta(minutes=n), f"u{n}", "a") for n in range(9)])
    connection.execute("update event_counts_15m set events = 1000001 where bucket = %s", [DAY])

    def approximate(wanted: dict[str, Any], method: str) -> bool:
        arguments = DAY, DAY + timedelta(days=1), wanted, method
        [(users, approximate, error)] = ask(connection, "unique_users_auto(%s, %s, %s::text::jsonb, %s)", *arguments)
        assert users == (1 if "user_id" in wanted else 0 if wanted.get("event_name") == "b" else 9)
        assert (error is not None) is approximate
        return bool(approximate)

    assert approximate({"event_name": "a"}, "auto")
    assert not approximate({"event_name": "a"}, "exact")
    assert not approximate({"event_name": "b"}, "auto")
    assert not approximate({"event_name": "a", "user_id": "u3"}, "auto")
    assert not approximate({}, "auto")
    assert approximate({}, "sketch")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("unique_users('2024-05-06', '2024-05-07', '{\"name\": \"a\"}')", "nothing can be filtered by name"),
        ("unique_users('-infinity', '2024-05-07')", "the range has no end"),
        ("unique_users(null, '2024-05-07')", "the range has no end"),
        ("unique_users('2024-05-06', '2024-05-06')", "the range is empty"),
        ("unique_users('2024-05-07', '2024-05-06')", "from_ts must lie before to_ts"),
        ("unique_users('2024-05-06', '294276-12-31')", "years 1 to 9999"),
        ("users_between('2024-05-07', '2024-05-06')", "from_ts must lie before to_ts"),
        ("unique_users_auto('2024-05-06', 'infinity')", "give from_ts and to_ts"),
        ("unique_users_auto('2024-05-07', '2024-05-06', '{}', 'sketch')", "from_ts must lie before to_ts"),
        ("unique_users_sketched(null, '2024-05-07')", "give from_ts and to_ts"),
        ("unique_users_per('2024-05-07', '2024-05-06', 'source')", "from_ts must lie before to_ts"),
        ("unique_users_per('2024-05-07', null, 'tenant_id')", "give from_ts and to_ts"),
        ("unique_users_per('2024-05-06', '2024-05-07', 'tenant')", "take event_name, user_id"),
        ("unique_users_per('2024-05-06', '2024-05-07', null)", "take event_name, user_id"),
        ("unique_users_per('2024-05-06', '2024-05-07', 'tenant_id', most => 0)", "1 or more"),
        ("unique_users_per('2024-05-06', '2024-05-07', 'source', most => null)", "1 or more"),
        ("unique_users_by('2024-05-06', '2024-05-06', '1 day')", "the range is empty"),
        ("unique_users_by('2024-05-06', 'infinity', '1 day')", "give from_ts and to_ts"),
        ("unique_users_by('2024-05-06', '2024-05-07', '7 hours')", "no width of a bucket"),
        ("unique_users_auto('2024-05-06', '2024-05-07', '{}', 'guess')", "no method: guess"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(connection: Connection, statement: str, message: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
        ask(connection, statement)


@pytest.mark.parametrize(
    ("fields", "right"),
    [
        ({}, [(2, False, None)]),
        ({"event_name": "e", "method": "sketch"}, [(2, True, 1.04 / 128)]),
        ({"bucket": "1d"}, [(DAY, DAY + timedelta(days=1), 2)]),
        ({"bucket": "12h", "event_name": "e"}, [
            (DAY, DAY + timedelta(hours=12), 1), (DAY + timedelta(hours=12), DAY + timedelta(days=1), 1),
        ]),
        ({"breakdown": "tenant_id"}, [("default", 2)]),
        ({"breakdown": "metadata.plan", "limit": 1}, [("pro", 1)]),
    ],
)  # fmt: skip
def test_the_role_that_may_only_read_answers_every_form_of_the_question(
    connection: Connection, fields: dict[str, Any], right: list[tuple[Any, ...]]
) -> None:
    put(connection, [Event(DAY, "u", metadata={"plan": "pro"}), Event(DAY + timedelta(hours=13), "v")])
    question = UniquesQuestion(from_ts=DAY, to_ts=DAY + timedelta(days=1), **fields)
    connection.execute("set role analytics_reader")
    cursor = psycopg.RawCursor(connection)
    cursor.execute(question.statement().encode(), question.arguments())
    assert [column.name for column in cursor.description or ()] == list(question.columns())
    assert cursor.fetchall() == right
    assert ask(connection, "daily_users") == [(DAY.date(), "default", 2)]
