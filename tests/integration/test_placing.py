"""A row that only Postgres refuses is found and set aside alone; what is there already is compared. On a real server."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from event_consumer.store import Written
from event_core.errors import DatabaseUnavailable, DeadLetterFlood
from tests.support.rows import AT, P0, P1, RECEIVED, batch, execute, open_store, row
from tests.support.wait import count, query

pytestmark = pytest.mark.integration

ID_NUMBERS = "select ('x' || right(event_id::text, 8))::bit(32)::int from events"
COUNT_COPIES = (
    "create sequence copies",  # what a sequence counts stays counted when a savepoint is rolled back
    "create function count_copy() returns trigger language plpgsql as $$ begin perform nextval('copies'); return null; end $$",
    "create trigger count_copy before insert on events execute function count_copy()",
)
REFUSING_TRIGGER = (
    "create function refuse() returns trigger language plpgsql as $$ begin"
    " if new.user_id = 'poison' then raise 'no %', new.user_id; end if; return new; end $$",
    "create trigger refuse before insert on events for each row execute function refuse()",
)
POISON: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "a number": ((), {"metadata": '{"a": 1e200000}'}),
    "too deep": ((), {"metadata": '{"a": ' + "[" * 50_000 + "]" * 50_000 + "}"}),
    "NUL": ((), {"user_id": "a\x00b"}),
    "half a character": ((), {"user_id": "a\ud800b"}),
    "a constraint": (
        ("alter table events add constraint no_poison check (user_id <> 'poison')",),
        {"user_id": "poison"},
    ),
    "a trigger": (REFUSING_TRIGGER, {"user_id": "poison"}),
    "the ledger": (
        ("alter table event_ids add constraint no_old_ones check (event_time > '1970-01-01')",),
        {"timestamp": AT - timedelta(days=365 * 100)},
    ),
}
NAMED = ("a number", "too deep", "NUL", "a constraint", "a trigger")
"""Those of which the server says the line."""


def letters(url: str) -> list[tuple[int, str]]:
    return [(at, why) for at, why in query(url, 'select "offset", reason from dead_letters order by "offset"')]


def position(url: str, partition: int = 0) -> dict[str, int]:
    names = ("next_offset", "consumed", "stored", "duplicates", "dead_letters", "skipped")
    [values] = query(url, f"select {', '.join(names)} from consumer_offsets where partition = {partition}")
    return dict(zip(names, values, strict=True))


@pytest.mark.parametrize("places", [[0], [500], [999], [0, 1, 333, 998, 999]], ids=["first", "middle", "last", "five"])
@pytest.mark.parametrize("kind", POISON)
async def test_what_postgres_refuses_is_set_aside_alone(database_url: str, kind: str, places: list[int]) -> None:
    statements, changes = POISON[kind]
    execute(database_url, *statements, *COUNT_COPIES)
    rows = [row(number + 1, **(changes if number in places else {})) for number in range(1000)]

    async with open_store(database_url) as store:
        outcome = await store.write(batch(rows), {P0: 0})

    assert isinstance(outcome, Written)
    assert (outcome.stored, outcome.duplicates) == (1000 - len(places), 0)
    stored = {
        int(number)
        for (number,) in query(database_url, "select ('x' || right(event_id::text, 8))::bit(32)::int from events")
    }
    assert stored == {number + 1 for number in range(1000)} - {place + 1 for place in places}
    assert letters(database_url) == [(place, "refused_by_store") for place in places]
    assert count(database_url, "event_ids") == 1000 - len(places)
    assert position(database_url) == {
        "next_offset": 1000,
        "consumed": 1000,
        "stored": 1000 - len(places),
        "duplicates": 0,
        "dead_letters": len(places),
        "skipped": 0,
    }
    [(copies,)] = query(database_url, "select last_value from copies")
    if (
        kind in NAMED
    ):  # one that fails, three of the row alone, one of what comes before it, and one of what comes after
        assert copies <= 6 * len(places)
    else:
        assert copies <= 24 * len(places)


async def test_the_row_that_is_named_is_found_where_a_batch_spans_partitions_and_the_past(database_url: str) -> None:
    days = [
        f"create table events_2026010{n} partition of events for values from ('2026-01-0{n}') to ('2026-01-0{n + 1}')"
        for n in range(1, 5)
    ]
    execute(database_url, *days, *POISON["a constraint"][0], *COUNT_COPIES)
    poison = [0, 17, 333, 334, 335, 999]
    rows = [
        row(n + 1, user_id="poison" if n in poison else "u", timestamp=AT + timedelta(days=n % 7 - 2))
        for n in range(1000)
    ]
    async with open_store(database_url) as store:
        await store.write(batch(rows[100:200]), {P0: 0})  # known ones are left out of what is copied
        outcome = await store.write(batch(rows, 100), {P0: 100})
    assert isinstance(outcome, Written)
    assert (outcome.stored, outcome.duplicates) == (894, 100)
    assert letters(database_url) == [(100 + place, "refused_by_store") for place in poison]
    assert count(database_url) == 994
    [(copies,)] = query(database_url, "select last_value from copies")
    assert copies <= 1 + 6 * len(poison)


async def test_hundreds_of_refused_rows_among_good_ones_are_set_aside_one_by_one(database_url: str) -> None:
    execute(database_url, *POISON["a constraint"][0])
    rows = [row(n + 1, user_id="poison" if n % 3 == 1 else "u") for n in range(1350)]
    async with open_store(database_url) as store:
        outcome = await store.write(batch(rows), {P0: 0})
    assert isinstance(outcome, Written)
    assert (outcome.stored, len(outcome.dead)) == (900, 450)
    assert letters(database_url) == [(n, "refused_by_store") for n in range(1350) if n % 3 == 1]


async def test_where_every_row_is_refused_nothing_is_committed(database_url: str) -> None:
    execute(database_url, "alter table events add constraint nobody check (user_id = 'nobody')")
    async with open_store(database_url) as store:
        with pytest.raises(DeadLetterFlood, match="nobody"):
            await store.write(batch([row(n + 1) for n in range(300)]), {P0: 0})
        assert count(database_url, "events") == count(database_url, "event_ids") == 0
        assert letters(database_url) == []
        assert set(position(database_url).values()) == {0}
        execute(database_url, "alter table events drop constraint nobody")
        assert isinstance(await store.write(batch([row(n + 1) for n in range(300)]), {P0: 0}), Written)
    assert count(database_url) == 300


# --- equal ones and others under one id

CORRECTED = '{"_platform": {"original_timestamp": "2026-01-01T13:00:00.5Z", "skew": %d}, "x": 1}'
SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "again": ({}, {}),
    "other order of keys": ({"metadata": '{"a": 1, "b": {"c": 2, "d": 3}}'}, {"metadata": '{"b":{"d":3,"c":2},"a":1}'}),
    "other spelling of a number": ({"metadata": '{"a": 1e2, "b": 1.50}'}, {"metadata": '{"a": 100, "b": 1.5}'}),
    "received later": ({}, {"received_at": RECEIVED + timedelta(hours=1)}),
    "time given by the server": (
        {"timestamp": AT, "received_at": AT},
        {"timestamp": RECEIVED + timedelta(days=40), "received_at": RECEIVED + timedelta(days=40)},
    ),
    "clock corrected otherwise": (
        {"timestamp": AT, "context": CORRECTED % 1},
        {"timestamp": AT + timedelta(days=2), "context": CORRECTED % 2},
    ),
    "corrected once only": (
        {
            "timestamp": AT,
            "context": '{"_platform": {"original_timestamp": "2026-01-03T00:00:00.25Z"}}'.replace(".25Z", ".250000Z"),
        },
        {"timestamp": AT.replace(day=3, hour=0, microsecond=250_000)},
    ),
    "noted otherwise": ({"context": '{"_platform": {"future_timestamp": true}}'}, {"context": "{}"}),
}
OTHER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "user_id": ({}, {"user_id": "another"}),
    "event_name": ({}, {"event_name": "another"}),
    "tenant_id": ({}, {"tenant_id": "another"}),
    "metadata": ({}, {"metadata": '{"a": 2}'}),
    "a number in other words": ({}, {"metadata": '{"a": "1"}'}),
    "a missing key": ({}, {"metadata": "{}"}),
    "null instead of missing": ({"metadata": "{}"}, {"metadata": '{"a": null}'}),
    "context": ({}, {"context": '{"a": 1}'}),
    "experiment_id": ({}, {"experiment_id": "x"}),
    "variant": ({"variant": "A"}, {"variant": "B"}),
    "source": ({"source": "s"}, {"source": None}),
    "timestamp": ({}, {"timestamp": AT + timedelta(microseconds=1)}),
    "day": ({}, {"timestamp": AT + timedelta(days=1)}),
    "time given and not given": ({}, {"timestamp": RECEIVED, "received_at": RECEIVED}),
    "original time": (
        {"context": '{"_platform": {"original_timestamp": "2026-01-01T13:00:00Z"}}'},
        {"context": '{"_platform": {"original_timestamp": "2026-01-01T14:00:00Z"}}'},
    ),
    "refused by the store": ({}, {"metadata": '{"a": 1e200000}'}),
    "unreadable": ({}, {"user_id": "a\x00b"}),
}


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two"])
@pytest.mark.parametrize("difference", SAME)
async def test_the_same_content_again_is_a_duplicate(database_url: str, difference: str, together: bool) -> None:
    first, second = (row(1, **changes) for changes in SAME[difference])
    assert await written(database_url, [first], [second], together) == (1, 1, [])
    assert query(database_url, 'select "timestamp", metadata from events') == await as_stored(database_url)


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two"])
@pytest.mark.parametrize("difference", OTHER)
async def test_other_content_under_the_same_id_is_set_aside_and_the_first_stays(
    database_url: str, difference: str, together: bool
) -> None:
    first, second = (row(1, **changes) for changes in OTHER[difference])
    neighbours = [row(number) for number in range(2, 12)]
    stored, duplicates, dead = await written(
        database_url, [first], [*neighbours[:5], second, *neighbours[5:]], together
    )
    assert (stored, duplicates, dead) == (11, 0, [(6, "conflict")])
    fields = "user_id, event_name, tenant_id, experiment_id, variant, source"
    assert query(database_url, f"select {fields} from events where event_id = '{UUID(int=1)}'") == [
        (first.user_id, first.event_name, first.tenant_id, first.experiment_id, first.variant, first.source)
    ]
    assert count(database_url, "event_ids") == 11


@pytest.mark.parametrize("days", [1, -1, 40])
async def test_an_id_is_unique_over_all_partitions(database_url: str, days: int) -> None:
    execute(
        database_url,
        "create table events_20260101 partition of events for values from ('2026-01-01') to ('2026-01-02')",
        "create table events_20260102 partition of events for values from ('2026-01-02') to ('2026-01-03')",
    )
    async with open_store(database_url) as store:
        await store.write(batch([row(1), row(2)]), {P0: 0})
        later = [row(1, timestamp=AT + timedelta(days=days)), row(3, timestamp=AT + timedelta(days=days)), row(2)]
        outcome = await store.write(batch(later, partition=P1), {P1: 0})
    assert isinstance(outcome, Written)
    assert (outcome.stored, outcome.duplicates) == (1, 1)
    assert letters(database_url) == [(0, "conflict")]
    ids = query(database_url, 'select event_id, "timestamp" from events order by 1')
    assert ids == query(database_url, "select event_id, event_time from event_ids order by 1")
    assert [at - AT for _, at in ids] == [timedelta(), timedelta(), timedelta(days=days)]


async def as_stored(url: str) -> list[tuple[Any, ...]]:
    """What the ledger says of the first event's time."""
    return query(
        url, 'select event_time, metadata from event_ids join events using (event_id) where "timestamp" = event_time'
    )


async def written(
    url: str, first: list[Any], second: list[Any], together: bool
) -> tuple[int, int, list[tuple[int, str]]]:
    """(stored, duplicates, dead letters) once both are written; ``together``: in one batch, else one after the other."""
    async with open_store(url) as store:
        parts = [first + second] if together else [first, second]
        stored = duplicates = start = 0
        for part in parts:
            outcome = await store.write(batch(part, start), {P0: start})
            assert isinstance(outcome, Written)
            stored, duplicates, start = stored + outcome.stored, duplicates + outcome.duplicates, start + len(part)
    told = position(url)
    assert (told["stored"], told["duplicates"]) == (stored, duplicates)
    assert told["consumed"] == told["stored"] + told["duplicates"] + told["dead_letters"] + told["skipped"]
    return stored, duplicates, letters(url)


async def test_the_twin_of_a_refused_row_is_stored(database_url: str) -> None:
    execute(database_url, *POISON["a constraint"][0])
    rows = [row(1), row(2, user_id="poison"), row(3), row(2), row(2), row(2, user_id="other")]
    async with open_store(database_url) as store:
        outcome = await store.write(batch(rows), {P0: 0})
    assert isinstance(outcome, Written)
    assert (outcome.stored, outcome.duplicates) == (3, 1)
    assert letters(database_url) == [(1, "refused_by_store"), (5, "conflict")]
    assert query(database_url, "select user_id from events order by event_id") == [("u",)] * 3


async def test_many_that_cannot_even_be_compared_are_conflicts_and_the_rest_is_compared(database_url: str) -> None:
    again = [row(n, metadata='{"a": 1e200000}') if n % 50 == 0 else row(n) for n in range(1, 501)]
    async with open_store(database_url) as store:
        await store.write(batch([row(n) for n in range(1, 501)]), {P0: 0})
        outcome = await store.write(batch(again, 500), {P0: 500})
    assert isinstance(outcome, Written)
    assert (outcome.stored, outcome.duplicates) == (0, 490)
    assert letters(database_url) == [(499 + n, "conflict") for n in range(50, 501, 50)]


async def test_of_an_event_that_retention_has_dropped_only_the_time_is_compared(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.write(batch([row(1), row(2), row(3)]), {P0: 0})
        execute(database_url, "delete from events")
        later = AT + timedelta(hours=1)
        again = [
            row(1, user_id="nobody knows"),
            row(2, timestamp=later),
            row(3, timestamp=later, received_at=later),  # the client gave no time, so the server gave another one
        ]
        outcome = await store.write(batch(again, 3), {P0: 3})
    assert isinstance(outcome, Written)
    assert (outcome.stored, outcome.duplicates) == (0, 2)
    assert letters(database_url) == [(4, "conflict")]
    assert count(database_url) == 0


# --- too slow

SLEEPING_TRIGGER = (
    "create function dawdle() returns trigger language plpgsql as $$ begin"
    " if new.user_id = 'slow' then perform pg_sleep(10); end if; return new; end $$",
    "create trigger dawdle before insert on events for each row execute function dawdle()",
)


async def test_a_row_that_takes_too_long_is_set_aside_alone_but_only_after_patience(database_url: str) -> None:
    execute(database_url, *SLEEPING_TRIGGER)
    made = batch([row(n + 1, user_id="slow" if n == 20 else "u") for n in range(40)])
    async with open_store(database_url, statement_timeout="200") as store:
        for _ in range(3):  # it may be the server, or somebody who cancels
            with pytest.raises(DatabaseUnavailable) as caught:
                await store.write(made, {P0: 0})
            assert caught.value.sqlstate == "57014"
            assert (count(database_url), letters(database_url)) == (0, [])
        outcome = await store.write(made, {P0: 0})
    assert isinstance(outcome, Written)
    assert outcome.stored == 39
    assert letters(database_url) == [(20, "overdue")]


async def test_a_server_that_was_slow_for_a_while_costs_no_event(database_url: str) -> None:
    execute(database_url, *SLEEPING_TRIGGER)
    made = batch([row(n + 1, user_id="slow") for n in range(5)])
    async with open_store(database_url, statement_timeout="200") as store:
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await store.write(made, {P0: 0})
        execute(database_url, "drop trigger dawdle on events")
        outcome = await store.write(made, {P0: 0})
    assert isinstance(outcome, Written)
    assert (outcome.stored, letters(database_url)) == (5, [])


async def test_a_table_that_somebody_locks_for_long_costs_no_event(database_url: str) -> None:
    made = batch([row(n + 1) for n in range(5)], partition=P1)
    async with open_store(database_url, lock_timeout="100") as store:
        with psycopg.connect(database_url) as other:
            other.execute("lock table events")
            for _ in range(10):
                with pytest.raises(DatabaseUnavailable):
                    await store.write(made, {P1: 0})
        assert isinstance(await store.write(made, {P1: 0}), Written)
    assert (count(database_url), letters(database_url)) == (5, [])
