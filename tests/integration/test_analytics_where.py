"""Where an event is, on a real Postgres as the reading role."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_service.where import WHERE, place_of
from tests.oracles.events import Event
from tests.oracles.listing import whereabouts
from tests.support.reading import Reader, only, put

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
RELAXED = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def set_aside(
    connection: psycopg.Connection[Any], event_id: UUID, reason: str = "invalid_event", **columns: Any
) -> UUID:
    columns = {"topic": "events", "value": b"secret bytes", "key": b"secret key", "error": f"why: {reason}", **columns}
    names = ", ".join(columns)
    marks = ", ".join(["%s"] * len(columns))
    row = connection.execute(
        f"insert into dead_letters (event_id, reason, {names}) values (%s, %s, {marks}) returning dead_letter_id",
        (event_id, reason, *columns.values()),
    ).fetchone()
    assert row is not None
    found: UUID = row[0]
    return found


def place(reader: Reader, event_id: UUID) -> dict[str, Any]:
    reply = place_of(reader.fetch(WHERE, event_id))
    found: dict[str, Any] = json.loads(orjson.dumps(reply, option=orjson.OPT_UTC_Z))
    return found


def test_a_stored_event_is_shown_with_all_its_columns(connection: psycopg.Connection[Any], reader: Reader) -> None:
    (event,) = only(connection, [Event(START, "u", "buy", "acme", metadata={"a": [1]})])
    found = place(reader, event.event_id)
    assert (found["state"], found["dead_letters"], found["reason"]) == ("stored", [], None)
    assert found["timestamp"] == found["event"]["timestamp"] == "2026-01-31T12:00:00Z"
    assert found["event"]["metadata"] == {"a": [1]}
    assert found["event"]["tenant_id"] == "acme"


def test_an_event_in_the_default_partition_is_found_as_well(
    connection: psycopg.Connection[Any], reader: Reader
) -> None:
    (event,) = only(connection, [Event(datetime(9998, 1, 1, tzinfo=UTC))])
    assert place(reader, event.event_id)["state"] == "stored"


def test_a_dead_letter_says_why_by_the_newest_of_its_kind_and_shows_no_bytes(
    connection: psycopg.Connection[Any], reader: Reader
) -> None:
    event_id = uuid4()
    old = set_aside(connection, event_id, "not_json", failed_at=START - timedelta(days=1), state="discarded")
    new = set_aside(connection, event_id, "conflict", failed_at=START)
    found = place(reader, event_id)
    assert (found["state"], found["reason"], found["error"]) == ("dead_letter", "conflict", "why: conflict")
    assert (found["dead_letter_id"], found["dead_letter_state"]) == (str(new), "open")
    assert found["failed_at"] == "2026-01-31T12:00:00Z"
    assert [letter["dead_letter_id"] for letter in found["dead_letters"]] == [str(new), str(old)]
    by_its_own_id = place(reader, old)
    assert (by_its_own_id["state"], by_its_own_id["dead_letter_id"]) == ("dead_letter", str(old))
    assert [letter["state"] for letter in found["dead_letters"]] == ["open", "discarded"]
    assert found["event"] is None
    assert "secret" not in json.dumps(found)
    assert not {"value", "key", "headers"} & found["dead_letters"][0].keys()


def test_a_stored_event_with_a_conflicts_dead_letter_is_stored_and_says_so(
    connection: psycopg.Connection[Any], reader: Reader
) -> None:
    (event,) = only(connection, [Event(START)])
    set_aside(connection, event.event_id, "conflict")
    found = place(reader, event.event_id)
    assert (found["state"], found["reason"], found["dead_letter_id"]) == ("stored", None, None)
    assert [letter["reason"] for letter in found["dead_letters"]] == ["conflict"]


def test_an_event_that_retention_dropped_is_gone_and_one_never_heard_of_is_unknown(
    connection: psycopg.Connection[Any], reader: Reader
) -> None:
    (event,) = only(connection, [Event(START)])
    connection.execute("delete from events")
    found = place(reader, event.event_id)
    assert (found["state"], found["timestamp"], found["event"]) == ("gone", "2026-01-31T12:00:00Z", None)
    unknown = place(reader, uuid4())
    assert (unknown["state"], unknown["timestamp"], unknown["dead_letters"]) == ("unknown", None, [])
    assert "ask again" in unknown["semantics"]


@RELAXED
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)), min_size=1, max_size=8))
def test_every_event_is_somewhere(
    connection: psycopg.Connection[Any], reader: Reader, fates: list[tuple[bool, bool, int]]
) -> None:
    only(connection, [])
    ids = [uuid4() for _ in fates]
    stored, ever, aside = set(), set(), set()
    for event_id, (was_stored, still, letters) in zip(ids, fates, strict=True):
        if was_stored:
            put(connection, [Event(START, event_id=event_id)])
            ever.add(event_id)
            if still:
                stored.add(event_id)
            else:
                connection.execute("delete from events where event_id = %s", (event_id,))
        for _ in range(letters):
            set_aside(connection, event_id)
            aside.add(event_id)
    for event_id, (_, _, letters) in zip(ids, fates, strict=True):
        found = place(reader, event_id)
        assert found["state"] == whereabouts(event_id, stored, ever, aside)
        assert len(found["dead_letters"]) == letters
