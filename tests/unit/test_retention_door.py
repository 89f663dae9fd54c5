"""With RETENTION_DAYS set the door refuses what the store would drop at once, in every form."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_core.errors import InvalidEvent
from event_core.retention import oldest_kept
from event_core.settings import load
from ingestion_service.accept import accept
from ingestion_service.cloudevents import batched, binary, structured
from ingestion_service.collect import collect
from ingestion_service.forms import Accepted, Refused, field_of
from ingestion_service.limits import Limits
from ingestion_service.settings import IngestionSettings
from tests.unit.ingestion import NOW as SERVER_NOW
from tests.unit.ingestion import Ingestion

NOW = datetime(2024, 5, 10, 12, 30, tzinfo=UTC)
KEPT = datetime(2024, 5, 3, tzinfo=UTC)
"""The first moment that 7 days of retention keep at NOW."""
LAST_DROPPED = KEPT - timedelta(microseconds=1)
WEEK = Limits(retention_days=7)
OFF = Limits()

Take = Callable[[datetime, Limits], Accepted | Refused]


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def event(moment: datetime, limits: Limits) -> Accepted:
    return accept(
        dumped({"user_id": "u", "event_name": "e", "metadata": {}, "timestamp": moment.isoformat()}), NOW, limits
    )


def product(moment: datetime, limits: Limits) -> Accepted:
    sent = {
        "user_id": "u",
        "event_type": "e",
        "properties": {},
        "event_time": round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1) - 0.5),
    }
    return accept(dumped(sent), NOW, limits)


def cloudevent(moment: datetime) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "a",
        "source": "s",
        "type": "e",
        "subject": "u",
        "time": moment.isoformat(),
        "data": {"user_id": "u"},
    }


def structured_mode(moment: datetime, limits: Limits) -> Accepted:
    return structured(dumped(cloudevent(moment)), NOW, limits)


def binary_mode(moment: datetime, limits: Limits) -> Accepted:
    attributes = {name: value for name, value in cloudevent(moment).items() if name != "data"}
    headers = [(b"ce-" + name.encode(), value.encode()) for name, value in attributes.items()]
    return binary([*headers, (b"content-type", b"application/json")], b'{"user_id": "u"}', NOW, limits)


def batched_mode(moment: datetime, limits: Limits) -> Accepted | Refused:
    [item] = batched(dumped([cloudevent(moment)]), NOW, limits).items
    return item


def learner(moment: datetime) -> dict[str, Any]:
    return {"learner_id": "u", "event_type": "progress", "timestamp": moment.isoformat()}


def array(moment: datetime, limits: Limits) -> Accepted | Refused:
    [item] = collect(dumped([learner(moment)]), NOW, limits).items
    return item


def object_with_events(moment: datetime, limits: Limits) -> Accepted | Refused:
    [item] = collect(dumped({"events": [learner(moment)]}), NOW, limits).items
    return item


FORMS = [event, product, structured_mode, binary_mode, batched_mode, array, object_with_events]
TIME: dict[Take, str] = {product: "event_time", structured_mode: "time", binary_mode: "time", batched_mode: "time"}


def outcome(take: Take, moment: datetime, limits: Limits) -> Accepted | InvalidEvent:
    try:
        taken = take(moment, limits)
    except InvalidEvent as error:
        return error
    return taken.error if isinstance(taken, Refused) else taken


@pytest.mark.parametrize("take", FORMS)
def test_an_event_of_a_day_that_is_not_kept_is_refused_by_the_name_of_its_time(take: Take) -> None:
    refused = outcome(take, LAST_DROPPED, WEEK)
    assert isinstance(refused, InvalidEvent)
    assert (refused.reason, field_of(refused), refused.retriable) == ("too_old", TIME.get(take, "timestamp"), False)
    assert "7 days" in refused.message


@pytest.mark.parametrize("take", FORMS)
def test_an_event_of_the_oldest_day_that_is_kept_is_taken(take: Take) -> None:
    taken = outcome(take, KEPT + timedelta(milliseconds=1), WEEK)
    assert isinstance(taken, Accepted), taken


@pytest.mark.parametrize("take", FORMS)
def test_without_the_setting_nothing_is_too_old(take: Take) -> None:
    taken = outcome(take, datetime(1, 1, 2, tzinfo=UTC), OFF)
    assert isinstance(taken, Accepted), taken


def test_one_event_that_is_too_old_never_fails_its_batch() -> None:
    first, old, last = collect(dumped([learner(NOW), learner(LAST_DROPPED), learner(KEPT)]), NOW, WEEK).items
    assert isinstance(first, Accepted)
    assert isinstance(last, Accepted)
    assert isinstance(old, Refused)
    assert (old.index, old.error.reason) == (1, "too_old")


def test_the_clocks_correction_comes_before_the_judgement() -> None:
    # A client whose clock is a month behind sends what happened a minute ago.
    behind = timedelta(days=30)
    sent = {
        "sent_at": (NOW - behind).isoformat(),
        "events": [learner(NOW - behind - timedelta(minutes=1)), learner(LAST_DROPPED - behind)],
    }
    recent, old = collect(dumped(sent), NOW, WEEK).items
    assert isinstance(recent, Accepted)
    assert isinstance(old, Refused)


@given(now=st.datetimes(timezones=st.just(UTC)), days=st.integers(min_value=1, max_value=4_000_000))
def test_what_is_kept_begins_at_a_midnight_so_many_days_before_todays(now: datetime, days: int) -> None:
    oldest = oldest_kept(now, days)
    assert (oldest.hour, oldest.minute, oldest.second, oldest.microsecond) == (0, 0, 0, 0)
    assert (now.date() - oldest.date()).days == min(days, (now.date() - date.min).days)


async def test_what_is_refused_is_answered_counted_and_kept_as_a_dead_letter_like_other_refusals() -> None:
    ingestion = Ingestion(settings=load(IngestionSettings, retention_days=7))
    old, recent = (SERVER_NOW - timedelta(days=days) for days in (9, 6))
    body = dumped({"user_id": "u", "event_name": "e", "metadata": {}, "timestamp": old.isoformat()})
    reply = await ingestion.post(body)
    assert (reply.status_code, reply.json()["retryable"]) == (422, False)
    assert reply.json()["details"]["errors"][0]["field"] == "timestamp"
    batch = await ingestion.request("POST", "/api/v1/collect", json=[learner(old), learner(recent)])
    assert (batch.status_code, batch.json()["results"][0]["reason"]) == (207, "too_old")
    assert ingestion.rejected() == {"too_old": 2}
    assert len(ingestion.events()) == 1
    letters = ingestion.dead_letters()
    assert [letter.value for letter in letters] == [body, json.dumps(learner(old), separators=(",", ":")).encode()]
