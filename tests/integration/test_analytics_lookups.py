"""Lists of events, page by page, on a real Postgres as the reading role."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_service.cursor import Order, Place, write_cursor
from analytics_service.questions import events as listing_questions
from analytics_service.questions.events import EventsQuestion, UserEventsParameters
from tests.conftest import Platform
from tests.oracles.events import Event
from tests.oracles.listing import ahead, listed
from tests.oracles.strategies import ANCHORS, events, filters
from tests.support.process import Service
from tests.support.reading import Reader, only, put

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
ORDERS: tuple[Order, ...] = ("newest", "oldest")
RELAXED = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@st.composite
def crowded(draw: st.DrawFn) -> tuple[list[Event], list[list[Event]], datetime, datetime]:
    """Events, many at the same times; others that come in later; and a range."""
    anchor = draw(st.sampled_from(ANCHORS))
    times = st.sampled_from([anchor + timedelta(hours=n, microseconds=m) for n in (0, 1, 20, 40) for m in (0, 1)])

    def some(most: int) -> list[Event]:
        return [event._replace(timestamp=draw(times)) for event in draw(events(anchor, most=most))]

    start = anchor + timedelta(hours=draw(st.sampled_from((-1, 0, 1))))
    return some(30), [some(4) for _ in range(3)], start, start + timedelta(hours=draw(st.sampled_from((1, 20, 60))))


@RELAXED
@given(crowded(), filters(), st.sampled_from(ORDERS), st.integers(1, 9))
def test_walking_the_pages_shows_each_event_once_and_in_order(
    connection: psycopg.Connection[Any],
    reader: Reader,
    scene: tuple[list[Event], list[list[Event]], datetime, datetime],
    given_filters: dict[str, Any],
    order: Order,
    limit: int,
) -> None:
    first, _, start, end = scene
    stored = only(connection, first)

    def ask(cursor: str | None) -> EventsQuestion:
        return EventsQuestion(from_ts=start, to_ts=end, order=order, limit=limit, cursor=cursor, **given_filters)

    pages = reader.walk(ask)
    expected = listed(stored, start, end, given_filters, newest=order == "newest")
    assert [event for page in pages for event in page] == expected
    assert all(len(page) == limit for page in pages[:-1])
    assert pages[-1] or pages == [[]], "a page that is full and the last one is not followed by an empty one"


@RELAXED
@given(crowded(), filters(), st.sampled_from(ORDERS), st.integers(1, 5))
def test_events_that_come_in_between_pages_hide_and_repeat_nothing(
    connection: psycopg.Connection[Any],
    reader: Reader,
    scene: tuple[list[Event], list[list[Event]], datetime, datetime],
    given_filters: dict[str, Any],
    order: Order,
    limit: int,
) -> None:
    first, later, start, end = scene
    newest = order == "newest"
    stored = only(connection, first)
    waiting = list(later)
    pages: list[list[UUID]] = []
    must = set(listed(stored, start, end, given_filters, newest=newest))
    may = set(must)
    cursor = None
    while True:
        question = EventsQuestion(from_ts=start, to_ts=end, order=order, limit=limit, cursor=cursor, **given_filters)
        page = reader.page(question)
        pages.append([UUID(event["event_id"]) for event in page["events"]])
        cursor = page["next_cursor"]
        if cursor is None:
            break
        if waiting:
            came = put(connection, waiting.pop())
            stored += came
            (at,) = (event for event in stored if event.event_id == pages[-1][-1])
            matching = set(listed(came, start, end, given_filters, newest=newest))
            must |= {event.event_id for event in came if event.event_id in matching and ahead(event, at, newest=newest)}
            may |= matching
    seen = [event for page in pages for event in page]
    assert len(seen) == len(set(seen))
    assert must == set(seen) <= may
    assert seen == [event for event in listed(stored, start, end, given_filters, newest=newest) if event in set(seen)]


def test_an_event_in_a_list_is_the_event_as_it_was_sent(connection: psycopg.Connection[Any], reader: Reader) -> None:
    metadata = {"plan": "pro", "ß": [1.5, None, {"deep": 'quote"\n'}], "large": 2**53, "empty": {}}
    (event,) = only(connection, [Event(START, "u", "buy", "acme", "exp", "A", "web", metadata)])
    page = reader.page(EventsQuestion(from_ts=START, to_ts=START + timedelta(seconds=1)))
    (found,) = page["events"]
    processed_at = found.pop("processed_at")
    assert found == {
        "event_id": str(event.event_id), "tenant_id": "acme", "user_id": "u", "event_name": "buy",
        "timestamp": "2026-01-31T12:00:00Z", "received_at": "2026-01-31T12:00:00Z", "source": "web", "experiment_id": "exp",
        "variant": "A", "metadata": metadata, "context": {},
    }  # fmt: skip
    assert datetime.fromisoformat(processed_at).tzinfo is not None
    assert (page["next_cursor"], page["order"], page["limit"]) == (None, "newest", 100)


def test_a_users_events_are_all_there_ever_were_of_that_user(
    connection: psycopg.Connection[Any], reader: Reader
) -> None:
    times = [datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC), START, datetime(9999, 12, 31, 23, 59, 59, 999998, tzinfo=UTC)]
    stored = only(connection, [Event(at, user) for at in times for user in ("u", "v")])
    of = [str(event.event_id) for event in stored if event.user_id == "u"]
    page = reader.page(UserEventsParameters().of("u"))
    assert [event["event_id"] for event in page["events"]] == of[::-1]
    walked = reader.walk(lambda cursor: UserEventsParameters(limit=1, order="oldest", cursor=cursor).of("u"))
    assert [[str(event) for event in page] for page in walked] == [[event] for event in of]
    assert len(reader.page(UserEventsParameters(from_ts="2026-01-01").of("u"))["events"]) == 2
    assert reader.page(UserEventsParameters().of("' or 1=1 --"))["events"] == []


def test_a_page_of_very_large_events_is_shorter_and_nothing_is_lost(
    connection: psycopg.Connection[Any], reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_questions, "PAGE_BYTES", 100_000)
    stored = only(
        connection, [Event(START + timedelta(seconds=n), metadata={"blob": "ß" * (n % 5) * 9000}) for n in range(40)]
    )
    for order in ORDERS:

        def ask(cursor: str | None, order: Order = order) -> EventsQuestion:
            return EventsQuestion(
                from_ts=START, to_ts=START + timedelta(hours=1), order=order, cursor=cursor, limit=1000
            )

        pages = reader.walk(ask)
        assert len(pages) > 10
        assert max(len(page) for page in pages) < 10
        whole = listed(stored, START, START + timedelta(hours=1), {}, newest=order == "newest")
        assert [event for page in pages for event in page] == whole


def test_a_page_far_inside_reads_no_more_than_the_first(connection: psycopg.Connection[Any], reader: Reader) -> None:
    connection.execute(
        """insert into events (event_id, user_id, event_name, "timestamp", received_at)
           select gen_random_uuid(), 'user_' || n % 3, 'e', timestamptz '2026-01-01' + n * interval '1 minute', now()
           from generate_series(0, 44000) n"""
    )
    connection.execute("vacuum analyze events")

    def blocks(after: datetime | None, user: Sequence[str] | None) -> int:
        cursor = None if after is None else write_cursor(Place(after, UUID(int=0)), "newest")
        start = datetime(2026, 1, 1, tzinfo=UTC)
        question = EventsQuestion(from_ts=start, to_ts=START, cursor=cursor, user_id=user and list(user))
        (row,) = reader.fetch(
            f"explain (analyze, buffers, timing off, format json) {question.statement()}", *question.arguments()
        )
        top = json.loads(row["QUERY PLAN"])[0]["Plan"]
        assert top["Actual Rows"] == 101
        return int(top["Shared Hit Blocks"]) + int(top["Shared Read Blocks"])

    for user in (None, ("user_1",)):
        blocks(None, user)  # the first reads the catalogue
        first, *inside = (
            blocks(after, user) for after in (None, *(datetime(2026, 1, day, tzinfo=UTC) for day in (30, 15, 3)))
        )
        assert max(inside) <= first * 1.5 + 50, (first, inside)


# --- for whoever asks in SQL


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ("analytics.list_events(now(), now())", "from_ts"),
        ("analytics.list_events(null, now())", "from_ts"),
        ("analytics.list_events(now() - interval '1 day', now(), '{\"colour\": \"red\"}')", "colour"),
        ("analytics.list_events(now() - interval '1 day', now(), most => 0)", "most"),
        ("analytics.list_events(now() - interval '1 day', now(), after_ts => now())", "after_id"),
        ("analytics.where_is_event(null)", "id"),
        ("analytics.newest_events(null)", "since"),
        ("analytics.newest_events(now(), 100000)", "most"),
    ],
)
def test_what_makes_no_sense_in_sql_is_refused_by_name(
    connection: psycopg.Connection[Any], call: str, named: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=named):
        connection.execute(f"select * from {call}")


def test_the_functions_are_described(connection: psycopg.Connection[Any]) -> None:
    rows = connection.execute(
        """select proname, obj_description(oid, 'pg_proc') from pg_proc
           where pronamespace = 'analytics'::regnamespace
             and proname in ('list_events', 'where_is_event', 'live_counts', 'newest_events')"""
    ).fetchall()
    assert len(rows) == 4
    assert all(description for _, description in rows)


# --- over HTTP


@pytest.fixture
def service(platform: Platform) -> Service:
    return platform.start("analytics_service")


HOUR = {"from_ts": "2026-01-31T12:00:00Z", "to_ts": "2026-01-31T13:00:00Z"}


def test_over_http_lists_exports_and_lookups_agree(platform: Platform, service: Service) -> None:
    with psycopg.connect(platform.database_url) as connection:
        stored = put(
            connection, [Event(START + timedelta(seconds=n // 3), f"ü {n % 2}", metadata={"n": n}) for n in range(25)]
        )
    expected = [str(event) for event in listed(stored, START, START + timedelta(hours=1), {}, newest=True)]

    walked: list[str] = []
    params: dict[str, Any] = {**HOUR, "limit": 7}
    while True:
        reply = service.get("/analytics/events", **params)
        assert reply.status_code == 200, reply.text
        body = reply.json()
        walked += [event["event_id"] for event in body["events"]]
        if body["next_cursor"] is None:
            break
        params["cursor"] = body["next_cursor"]
    assert walked == expected
    assert {"semantics", "freshness", "approximate", "error", "incomplete_buckets", "filters"} <= body.keys()

    lines = service.get("/analytics/events", **HOUR, format="jsonl")
    assert [json.loads(line)["event_id"] for line in lines.text.splitlines()] == expected[::-1]
    assert lines.headers["content-disposition"] == 'attachment; filename="events.jsonl"'
    table = service.get("/analytics/events", **HOUR, format="parquet")
    assert parquet.read_table(io.BytesIO(table.content)).num_rows == 25

    own = service.get("/analytics/users/ü 1/events", limit=1000).json()
    assert [event["event_id"] for event in own["events"]] == [
        event for event in expected if event in {str(one.event_id) for one in stored if one.user_id == "ü 1"}
    ]
    found = service.get(f"/analytics/events/{expected[0]}").json()
    assert (found["state"], found["event"]["event_id"]) == ("stored", expected[0])
    assert "freshness" in found


REFUSED: tuple[tuple[str, dict[str, str], str, str], ...] = (
    ("/analytics/events", {**HOUR, "cursor": "nonsense"}, "invalid_query", "next_cursor"),
    (
        "/analytics/events",
        {**HOUR, "cursor": write_cursor(Place(START, UUID(int=1)), "oldest")},
        "invalid_query",
        "order=oldest",
    ),
    ("/analytics/events", {**HOUR, "limit": "0"}, "invalid_request", "limit"),
    ("/analytics/events", {**HOUR, "limit": "1001"}, "invalid_request", "limit"),
    ("/analytics/events", {**HOUR, "order": "random"}, "invalid_request", "order"),
    ("/analytics/events", {"from_ts": "0"}, "invalid_request", "to_ts"),
    ("/analytics/events/not-a-uuid", {}, "invalid_query", "event_id"),
    ("/analytics/events/%7B018f4e9a-6c1e-7b0a-9c0e-3f6f1c2d4b5a%7D", {}, "invalid_query", "event_id"),
    ("/analytics/users/u/events", {"user_id": "v"}, "invalid_query", "user_id"),
    (f"/analytics/users/{'u' * 257}/events", {}, "invalid_query", "user_id"),
    ("/analytics/users/%00/events", {}, "invalid_query", "user_id"),
    ("/analytics/stream", {"tenant": "x"}, "invalid_request", "tenant"),
)


def test_over_http_what_makes_no_sense_is_a_422_that_says_what_to_change(service: Service) -> None:
    for path, params, code, named in REFUSED:
        reply = service.get(path, **params)
        assert (reply.status_code, reply.json()["error_code"]) == (422, code), reply.text
        assert named in reply.json()["error_message"]


def test_over_http_a_users_events_are_not_everybodys(platform: Platform, service: Service) -> None:
    with psycopg.connect(platform.database_url) as connection:
        put(connection, [Event(START, "u"), Event(START, "v")])
    everybody: tuple[dict[str, Any], ...] = ({}, {"user_id": None}, {"user_id": ["u", "v"]}, {"format": "csv"})
    for asked in everybody:
        reply = httpx.post(f"{service.url}/v1/query", json={"kind": "user_events", **asked}, timeout=30)
        assert (reply.status_code, reply.json()["error_code"]) == (422, "invalid_query"), reply.text
    reply = httpx.post(f"{service.url}/v1/query", json={"kind": "user_events", "user_id": []}, timeout=30)
    assert (reply.status_code, reply.json()["error_code"]) == (422, "invalid_request"), reply.text
    reply = httpx.post(f"{service.url}/v1/query", json={"kind": "user_events", "user_id": "u"}, timeout=30)
    assert [event["user_id"] for event in reply.json()["events"]] == ["u"]
