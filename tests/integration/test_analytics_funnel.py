"""Funnels agree with an oracle that tries every chain of events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from analytics_service.questions.funnel import FunnelQuestion
from tests.oracles import funnel as oracle
from tests.oracles.events import Event, clear, store_events
from tests.oracles.funnel import Step
from tests.oracles.strategies import filters

pytestmark = pytest.mark.integration

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
"""The clocks of Europe change the night after."""
MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)
RELAXED = settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
Asked = tuple[list[Event], datetime, datetime, list[str], timedelta, bool, dict[str, Any], datetime]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as made:
        yield made


def put(connection: psycopg.Connection[Any], stored: Sequence[Event]) -> None:
    """These and no others are stored."""
    with connection.transaction():
        clear(connection)
        store_events(connection, stored)


def funnel(
    connection: psycopg.Connection[Any],
    start: datetime,
    end: datetime,
    steps: Sequence[str],
    window: timedelta,
    per_step: bool = False,
    filters: Mapping[str, Any] | None = None,
    as_of: datetime | None = None,
) -> list[Step]:
    rows = connection.execute(
        "select step, event_name, users, still_open from analytics.funnel(%s, %s, %s, %s, %s, %s::text::jsonb, %s)",
        (start, end, list(steps), window, per_step, orjson.dumps(filters or {}).decode(), as_of),
    )
    return [Step(*row) for row in rows]


def at(minutes: float, name: str, user: str = "u", tenant: str = "default") -> Event:
    return Event(NOON + minutes * MINUTE, user, name, tenant)


# Few distinct times, so that events meet and windows end exactly at one.
_times = st.builds(
    lambda minutes, micros: NOON + minutes * MINUTE + micros * MICROSECOND,
    st.integers(-3, 24),
    st.sampled_from((0, 0, 0, -1, 1)),
)
_events = st.builds(
    Event,
    _times,
    st.sampled_from(("u", "u", "v", "ü")),
    st.sampled_from(("a", "b", "b", "c")),
    st.sampled_from(("default", "default", "other")),
    st.none(),
    st.sampled_from((None, "A")),
    st.sampled_from((None, "web")),
    st.sampled_from(({}, {"plan": "pro"})),
)


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    """Events, and a funnel that some of them take some steps of."""
    stored = draw(st.lists(_events, min_size=10, max_size=32) | st.lists(_events, max_size=10))
    start = draw(_times)
    end = start + draw(st.integers(1, 15)) * MINUTE
    steps = draw(st.lists(st.sampled_from(("a", "b", "c")), min_size=2, max_size=5))
    window = draw(st.integers(1, 12)) * MINUTE + draw(st.sampled_from((0, 0, -1, 1))) * MICROSECOND
    chosen = draw(st.just({}) | filters())
    chosen.pop("event_name", None)
    # Often the moment when a window ends.
    ends = [event.timestamp + window for event in stored]
    as_of = draw(_times | st.sampled_from(ends) if ends else _times)
    return stored, start, end, steps, window, draw(st.booleans()), chosen, as_of


@RELAXED
@given(asked())
@example(([at(0, "a"), at(5, "b")], NOON, NOON + MINUTE, ["a", "b"], 5 * MINUTE, False, {}, NOON))
@example(([at(0, "a"), at(0, "b")], NOON, NOON + MINUTE, ["a", "b"], 5 * MINUTE, False, {}, NOON))
@example(
    (
        [at(0, "a"), at(3, "a"), at(6, "b"), at(9, "c")],
        NOON,
        NOON + 4 * MINUTE,
        ["a", "b", "c"],
        6 * MINUTE,
        False,
        {},
        NOON,
    )
)
@example(([at(n, "a") for n in range(6)], NOON, NOON + MINUTE, ["a"] * 5, MINUTE, True, {}, NOON + 4 * MINUTE))
@example(([at(0, "a"), at(8, "a")], NOON, NOON + 9 * MINUTE, ["a", "b"], 5 * MINUTE, False, {}, NOON + 10 * MINUTE))
@example(([at(0, "a"), at(8, "a")], NOON, NOON + 9 * MINUTE, ["a", "b"], 5 * MINUTE, False, {}, NOON + 13 * MINUTE))
@example(([at(0, "a"), at(1, "b", "u", "other")], NOON, NOON + MINUTE, ["a", "b"], 5 * MINUTE, False, {}, NOON))
@example(([], NOON, NOON + MINUTE, ["a", "b"], MINUTE, True, {}, NOON))
def test_a_funnel_counts_what_trying_every_chain_finds(connection: psycopg.Connection[Any], question: Asked) -> None:
    stored, start, end, steps, window, per_step, chosen, as_of = question
    put(connection, stored)
    found = funnel(connection, start, end, steps, window, per_step, chosen, as_of)
    assert found == oracle.funnel(stored, start, end, steps, window, per_step, chosen, as_of)


@RELAXED
@given(asked(), st.lists(_events, max_size=12))
def test_what_nobody_can_still_change_later_events_do_not_change(
    connection: psycopg.Connection[Any], question: Asked, more: list[Event]
) -> None:
    stored, start, end, steps, window, per_step, chosen, as_of = question
    put(connection, stored)
    before = funnel(connection, start, end, steps, window, per_step, chosen, as_of)
    # Later ones of the steps after the entry, as those are what still_open speaks of.
    later = [
        e._replace(timestamp=as_of + MINUTE + (e.timestamp - NOON) % MINUTE) for e in more if e.event_name != steps[0]
    ]
    with connection.transaction():
        store_events(connection, later)
    after = funnel(connection, start, end, steps, window, per_step, chosen, as_of)
    moved = sum(step.still_open for step in before)
    assert before[0].users == after[0].users
    for earlier, now in zip(before, after, strict=True):
        assert earlier.users <= now.users <= earlier.users + moved


def test_a_day_is_24_hours_whatever_the_sessions_clock_does(connection: psycopg.Connection[Any]) -> None:
    put(connection, [at(0, "a"), at(24 * 60, "b")])
    connection.execute("set timezone to 'Europe/Berlin'")
    for window, reached in (("1 day", 1), ("23:59:59.999999", 0)):
        row = connection.execute(
            "select users from analytics.funnel(%s, %s, '{a,b}', %s::text::interval) where step = 2",
            (NOON, NOON + MINUTE, window),
        ).fetchone()
        assert row == (reached,)


def test_ten_steps_of_one_name_are_taken_by_ten_events(connection: psycopg.Connection[Any]) -> None:
    put(connection, [at(n, "a") for n in range(9)] + [at(n, "a", "v") for n in range(10)])
    steps = funnel(connection, NOON, NOON + MINUTE, ["a"] * 10, 9 * MINUTE, as_of=NOON + timedelta(days=1))
    assert [step.users for step in steps] == [2] * 9 + [1]


def test_without_as_of_a_window_is_open_until_the_watermark_has_passed_it(connection: psycopg.Connection[Any]) -> None:
    now = datetime.now(UTC)
    entered = Event(now - timedelta(minutes=30), "u", "a")
    put(connection, [entered])

    def still_open() -> int:
        return funnel(connection, now - timedelta(hours=1), now, ["a", "b"], timedelta(minutes=20))[0].still_open

    assert still_open() == 0  # nobody knows the watermark: by the clock
    connection.execute(
        "insert into consumer_offsets (consumer_group, topic, partition, next_offset, last_received_at)"
        " values ('g', 't', 0, 1, %s)",
        (now - timedelta(minutes=25),),
    )
    assert still_open() == 1
    connection.execute("update consumer_offsets set last_received_at = %s", (now - timedelta(minutes=5),))
    assert still_open() == 0


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ("now(), now() - interval '1 hour', '{a,b}'", "from_ts must lie before to_ts"),
        ("null, now(), '{a,b}'", "from_ts must lie before to_ts"),
        ("now() - interval '1 hour', now(), '{a}'", "2 to 10 steps"),
        ("now() - interval '1 hour', now(), '{}'", "2 to 10 steps"),
        ("now() - interval '1 hour', now(), null", "2 to 10 steps"),
        ("now() - interval '1 hour', now(), '{a,b,c,d,e,f,g,h,i,j,k}'", "2 to 10 steps"),
        ("now() - interval '1 hour', now(), '{a,null}'", "2 to 10 steps"),
        ("now() - interval '1 hour', now(), '{{a,b},{c,d}}'", "2 to 10 steps"),
        ("now() - interval '1 hour', now(), '{a,b}', '0'", "at most 90 days"),
        ("now() - interval '1 hour', now(), '{a,b}', '91 days'", "at most 90 days"),
        ("now() - interval '1 hour', now(), '{a,b}', '1 day', null", "per_step"),
        ("now() - interval '1 hour', now(), '{a,b}', '1 day', false, null", "filters"),
        ("now() - interval '1 hour', now(), '{a,b}', '1 day', false, '{\"name\": \"a\"}'", "filtered by name"),
        (
            "now() - interval '1 hour', now(), '{a,b}', '1 day', false, '{\"event_name\": \"a\"}'",
            "leave event_name out",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_remedy(
    connection: psycopg.Connection[Any], arguments: str, remedy: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=remedy):
        connection.execute(f"select * from analytics.funnel({arguments})")


def test_a_steps_name_is_never_read_as_sql(connection: psycopg.Connection[Any]) -> None:
    strange = "a'; drop table events; -- %s $1 \\"
    put(connection, [at(0, strange), at(1, 'b"')])
    steps = funnel(connection, NOON, NOON + MINUTE, [strange, 'b"'], MINUTE, as_of=NOON + timedelta(days=1))
    assert steps == [Step(1, strange, 1, 0), Step(2, 'b"', 1, 0)]


def test_the_reader_may_ask(connection: psycopg.Connection[Any]) -> None:
    put(connection, [at(0, "a"), at(1, "b"), at(0, "a", "v")])
    connection.execute("set role analytics_reader")
    connection.execute("set default_transaction_read_only = on")
    steps = funnel(connection, NOON, NOON + MINUTE, ["a", "b"], MINUTE, as_of=NOON)
    assert steps == [Step(1, "a", 2, 1), Step(2, "b", 1, 0)]


def test_a_question_as_the_service_asks_it_has_the_oracles_answer(
    connection: psycopg.Connection[Any], database_url: str
) -> None:
    put(connection, [at(0, "a"), at(3, "a"), at(6, "b"), at(9, "c"), at(0, "a", "v")])
    question = FunnelQuestion(from_ts=NOON, to_ts=NOON + MINUTE, step=["a", "b", "c"], window="6m", per_step=True)

    async def ask() -> list[asyncpg.Record]:
        client = await asyncpg.connect(database_url)
        try:
            return await client.fetch(question.statement(), *question.arguments())
        finally:
            await client.close()

    rows = asyncio.run(ask())
    assert tuple(rows[0].keys()) == question.columns()
    assert [step["users"] for step in question.answer(rows).fields["steps"]] == [2, 1, 1]
