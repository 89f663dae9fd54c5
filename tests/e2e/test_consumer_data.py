"""Rows 21 and 23 of the fault matrix: poison among good events, and events that come more than once."""

from __future__ import annotations

import random
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.conftest import Platform
from tests.e2e.books import Event, Record, assert_stored_once, event, put, record, topics_made
from tests.e2e.oracle import Ledger
from tests.support.topics import write_topic
from tests.support.wait import count, query, until

pytestmark = pytest.mark.e2e

OF_EACH = 1_000
PLACES = (0, OF_EACH // 2, OF_EACH - 1)
VISIBLE_WITHIN = 20.0
"""Seconds, for another partition's event while poison is being looked for; the design says 5, a busy machine gets more."""


def with_text(of: bytes, **fields: Any) -> bytes:
    """An event with ``of`` in place of the text POISON."""
    return orjson.dumps(event(**fields)).replace(b'"POISON"', of)


def no_encoding(characters: int) -> str:
    """Text that does not compress, in the widest characters."""
    return "".join(chr(random.randrange(0x20000, 0x2A000)) for _ in range(characters))


POISON: dict[str, tuple[bytes | None, str]] = {
    "no JSON": (b"not json \xff\x00", "not_json"),
    "no value": (None, "not_json"),
    "NUL in a value": (with_text(b'"\\u0000"', metadata={"a": "POISON"}), "unstorable_value"),
    "NUL in a key": (with_text(b'"a\\u0000"', metadata={"POISON": 1}), "unstorable_value"),
    "NUL in a name": (with_text(b'"\\u0000"', event_name="POISON"), "unstorable_value"),
    "half a character": (with_text(b'"\\ud800"', metadata={"a": "POISON"}), "not_json"),
    "half a character, deep": (with_text(b'{"b":["\\udc00"]}', context={"a": "POISON"}), "not_json"),
    "a number that no float holds": (with_text(b"1e131072", metadata={"a": "POISON"}), "refused_by_store"),
    "nested 20,000 deep": (with_text(b"[" * 20_000 + b"]" * 20_000, metadata={"a": "POISON"}), "unstorable_value"),
    "a name beyond an index's row": (with_text(orjson.dumps(no_encoding(2_705)), user_id="POISON"), "invalid_event"),
    "a tenant beyond an index's row": (with_text(orjson.dumps(no_encoding(257)), tenant_id="POISON"), "invalid_event"),
    "the year 0": (with_text(b'"0000-01-01T00:00:00Z"', timestamp="POISON"), "invalid_event"),
}


def another(poison: bytes | None) -> bytes | None:
    """``poison`` under an id of its own: copies of one event are one letter."""
    return poison and re.sub(rb'"event_id":"[^"]*"', b'"event_id":"%s"' % str(uuid.uuid4()).encode(), poison)


def test_of_a_thousand_the_first_the_middle_and_the_last_are_poison_and_the_others_are_stored(
    platform: Platform,
) -> None:
    topics_made(platform)
    ledger = Ledger()
    expected: set[tuple[str, int, int, bytes | None, str]] = set()
    for number, (value, reason) in enumerate(POISON.values()):
        topic, partition = (platform.topic, platform.product_topic)[number % 2], number // 2
        bad = {place: another(value) for place in PLACES}
        write_topic(
            platform,
            [(b"k", bad[place]) if place in bad else acknowledged(ledger, place) for place in range(OF_EACH)],
            partition,
            topic=topic,
        )
        expected |= {(topic, partition, place, poison, reason) for place, poison in bad.items()}
    platform.start("event_consumer")
    assert_stored_once(platform, ledger, len(POISON) * (OF_EACH - 3), dead=len(expected), seconds=120)
    letters = query(platform.database_url, 'select topic, partition, "offset", value, reason from dead_letters')
    assert set(letters) == expected


def test_other_partitions_are_not_kept_waiting_by_poison(platform: Platform) -> None:
    topics_made(platform)
    ledger = Ledger()
    [first, *others] = range(6)
    poison = POISON["a number that no float holds"][0]
    platform.start("event_consumer")
    for _ in range(2):
        write_topic(
            platform,
            [(b"k", another(poison)) if n % 50 == 7 else acknowledged(ledger, n) for n in range(OF_EACH)],
            first,
        )
        for partition in others:
            fresh = event()
            put(platform, ledger, [fresh], partition)
            until("it is visible", visible(platform, fresh), seconds=VISIBLE_WITHIN)
    assert_stored_once(platform, ledger, 2 * (OF_EACH - OF_EACH // 50 + len(others)), dead=2 * OF_EACH // 50)


def acknowledged(ledger: Ledger, number: int) -> Record:
    made = event(number)
    ledger.acknowledged(made)
    return record(made)


def visible(platform: Platform, of: Event) -> Callable[[], bool]:
    return lambda: bool(query(platform.database_url, "select 1 from event_ids where event_id = %s", of["event_id"]))


def test_the_longest_and_latest_that_may_be_stored_is_stored(platform: Platform) -> None:
    """Names fill indexes of up to three columns: none of them may be beyond a row of an index."""
    topics_made(platform)
    names = ("user_id", "event_name", "tenant_id", "experiment_id", "variant", "source")
    longest = [event(number, **{name: no_encoding(256) for name in names}) for number in range(20)]
    moments = ["0001-01-01T00:00:00.000001Z", "1969-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999998Z"]
    ledger = Ledger()
    sent = put(platform, ledger, [*longest, *(event(timestamp=moment) for moment in moments)], 0, 1)
    platform.start("event_consumer")
    assert_stored_once(platform, ledger, sent)


# --- more than once


def duplicates(platform: Platform) -> int:
    """Of events: a dead letter that comes back from its own topic is another matter."""
    return total(platform, "duplicates")


def read(platform: Platform) -> int:
    return total(platform, "consumed")


def total(platform: Platform, what: str) -> int:
    rows = query(
        platform.database_url,
        f"select coalesce(sum({what}), 0)::int from consumer_offsets where topic <> %s",
        platform.dlq_topic,
    )
    return int(rows[0][0])


def conflicting(of: Event, **fields: object) -> Event:
    return {**of, **fields}


def test_the_same_event_again_is_a_duplicate_and_another_under_its_id_a_dead_letter(platform: Platform) -> None:
    topics_made(platform)
    consumer = platform.start("event_consumer")
    ledger = Ledger()
    first = [event(number) for number in range(100)]
    again = [dict(reversed(each.items())) | {"received_at": "2026-02-02T00:00:00Z"} for each in first]
    other_body = [conflicting(each, metadata={"other": 1}) for each in first[:20]]
    other_day = [conflicting(each, timestamp="2026-03-03T00:00:00Z") for each in first[20:40]]
    other_user = [conflicting(each, user_id="somebody else") for each in first[40:50]]
    clashing = [*other_body, *other_day, *other_user]

    put(platform, ledger, [*first, *again[:50]])  # within a batch
    until("the first are stored", lambda: count(platform.database_url) == 100)
    put(platform, ledger, again)  # across batches
    put(platform, ledger, again, 3)  # across partitions
    put(platform, ledger, clashing, 2)
    put(platform, ledger, again, topic=platform.product_topic)
    verdict = assert_stored_once(platform, ledger, 100, dead=50)
    assert verdict.dead == 50
    assert duplicates(platform) == 350
    letters = query(platform.database_url, "select event_id::text, value, reason, state from dead_letters")
    assert {(event_id, value) for event_id, value, *_ in letters} == {
        (each["event_id"], record(each)[1]) for each in clashing
    }
    assert {tuple(rest) for _, _, *rest in letters} == {("conflict", "open")}
    assert consumer.metric("consumer_dead_letters_total", reason="conflict") == 50


def test_both_bodies_of_one_id_in_one_batch(platform: Platform) -> None:
    topics_made(platform)
    ledger = Ledger()
    first = [event(number) for number in range(50)]
    second = [conflicting(each, timestamp="2026-03-03T00:00:00Z") for each in first]
    put(platform, ledger, [each for pair in zip(first, second, first, strict=True) for each in pair])
    platform.start("event_consumer")
    assert_stored_once(platform, ledger, 50, dead=50)
    values = {value for (value,) in query(platform.database_url, "select value from dead_letters")}
    assert values == {record(each)[1] for each in second}


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=[pytest.mark.exhaustive, pytest.mark.timeout(1800)])])
def test_two_consumers_meet_the_same_event_at_once(platform: Platform, rounds: int) -> None:
    """Its copies lie in partitions of both, so that each offers the id to the ledger while the other has not committed yet."""
    topics_made(platform)
    own = {"KAFKA_GROUP_INSTANCE_ID": "", "CONSUMER_BATCH_SIZE": "200"}
    two = [platform.start("event_consumer", **own) for _ in range(2)]
    until("each has partitions", lambda: all("partitions taken" in each.log.read_text() for each in two))
    ledger, stored, dead = Ledger(), 0, 0
    for _ in range(rounds):
        same = [event(number) for number in range(200)]
        differ = [event(number) for number in range(20)]
        stored += put(platform, ledger, [*same, *differ])
        dead += 5 * len(differ)
        random.shuffle(same)
        for partition in range(1, 6):
            put(platform, ledger, same, partition)
            put(platform, ledger, [conflicting(each, metadata={"in": partition}) for each in differ], partition)
    until("everything is read", lambda: read(platform) == rounds * 6 * 220, seconds=90)
    assert count(platform.database_url) == stored
    assert_stored_once(platform, ledger, stored, dead=dead)
    shares = [each.metric("consumer_events_stored_total") for each in two]
    assert min(shares) > 0
    assert sum(shares) == stored


def test_an_event_twice_months_apart(platform: Platform) -> None:
    """The ledger knows an id whatever the day of its event, also once its neighbours' partitions are others."""
    topics_made(platform)
    platform.start("event_consumer")
    ledger = Ledger()
    days = [f"20{year}-0{month}-15T00:00:00Z" for year in (19, 25, 26) for month in range(1, 10)]
    events = [event(timestamp=day, event_id=str(uuid.uuid4())) for day in days]
    for _ in range(2):
        put(platform, ledger, events, 0, 1, 2)
        time.sleep(1)
    until("all are read", lambda: read(platform) == 2 * len(events))
    assert_stored_once(platform, ledger, len(events))
    assert duplicates(platform) == len(events)
