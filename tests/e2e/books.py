"""Events put straight on a topic, and the consumer's own books, held against what is there.

The oracle says whether each event is where it must be; the books are what an operator goes by: what became of each record
(consumer_offsets), the rollups, and the offsets that Kafka was told.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from aiokafka.admin import AIOKafkaAdminClient

from tests.conftest import Platform
from tests.e2e.oracle import Ledger, Verdict
from tests.e2e.sinks import Sinks, judge
from tests.support.stored import expected, rollups
from tests.support.topics import write_topic
from tests.support.wait import count, query, until

Event = dict[str, Any]
Record = tuple[bytes | None, bytes | None]

STORED_OFFSETS = "select topic, partition, next_offset from consumer_offsets where consumer_group = %s"
UNACCOUNTED = (
    "select topic, partition, next_offset, consumed, stored, duplicates, dead_letters, skipped from consumer_offsets"
    " where consumed <> stored + duplicates + dead_letters + skipped or consumed <> next_offset"
)


def event(number: int = 0, **fields: object) -> Event:
    """In the platform's own form, as it lies on a topic."""
    made: Event = {
        "event_id": str(uuid.uuid4()),
        "tenant_id": "default",
        "user_id": f"user_{number % 30}",
        "event_name": f"name_{number % 3}",
        "timestamp": f"2026-01-{1 + number % 5:02d}T{number % 24:02d}:00:00.000000Z",
        "received_at": "2026-01-06T00:00:01.000000Z",
        "metadata": {"n": number},
        "context": {},
    }
    return {**made, **fields}


def record(of: Event) -> Record:
    return of["user_id"].encode(), orjson.dumps(of)


def put(platform: Platform, ledger: Ledger, events: Iterable[Event], *partitions: int, topic: str | None = None) -> int:
    """Spreads the events over the partitions (by default the first), and enters them into the ledger: what lies on the topic
    is acknowledged. How many there are."""
    given, wanted = list(events), partitions or (0,)
    for each in given:
        ledger.acknowledged(each)
    for place, partition in enumerate(wanted):
        share = [record(each) for each in given[place :: len(wanted)]]
        write_topic(platform, share, partition, topic=topic)
    return len(given)


def topics_made(platform: Platform) -> None:
    """Lets the platform make its topics, so that there is something to read before a consumer starts."""
    assert platform.start("event_consumer").stop() == 0


def told(platform: Platform) -> dict[tuple[str, int], int]:
    """The offsets that Kafka was told, by (topic, partition)."""

    async def ask() -> dict[tuple[str, int], int]:
        admin = AIOKafkaAdminClient(bootstrap_servers=platform.settings["KAFKA_BOOTSTRAP_SERVERS"])
        await admin.start()
        try:
            found = await admin.list_consumer_group_offsets(platform.settings["KAFKA_GROUP_ID"])
        finally:
            await admin.close()
        return {(each.topic, each.partition): known.offset for each, known in found.items()}

    return asyncio.run(ask())


def assert_kafka_is_not_ahead(platform: Platform) -> None:
    """What Kafka was told is stored: an offset that is ahead is a loss as soon as somebody goes by it."""
    known = told(platform)  # first: what is stored only grows
    stored = {
        (topic, partition): offset
        for topic, partition, offset in query(
            platform.database_url, STORED_OFFSETS, platform.settings["KAFKA_GROUP_ID"]
        )
    }
    ahead = {each: (offset, stored.get(each)) for each, offset in known.items() if offset > stored.get(each, 0)}
    assert ahead == {}, f"told and stored: {ahead}"


def assert_books(platform: Platform) -> None:
    """Every record is accounted for once, the books agree with the tables, and Kafka is not ahead. Of partitions that were read
    from their beginning, once everything is read."""
    url = platform.database_url
    unaccounted = query(url, UNACCOUNTED)
    assert not unaccounted, f"offsets whose records are not accounted for once each: {unaccounted}"
    [(stored, letters)] = query(url, "select sum(stored)::int, sum(dead_letters)::int from consumer_offsets")
    rows = (count(url), count(url, "dead_letters"))
    assert (stored, letters) == rows, f"the books say {(stored, letters)} rows and dead letters, there are {rows}"
    [(taken,)] = query(url, "select coalesce(sum(stored), 0)::int from tenant_intake")
    assert taken == stored, f"of all tenants {taken}, of all partitions {stored}"
    ids = count(url, "event_ids")
    assert ids == stored, f"{ids} ids for {stored} rows"
    assert rollups(url) == expected(url), "the rollups are not what the rows say"
    assert_kafka_is_not_ahead(platform)


def assert_stored_once(
    platform: Platform, ledger: Ledger, stored: int, *, dead: int = 0, seconds: float = 90
) -> Verdict:
    """``stored`` rows and ``dead`` letters come to be, no more, each where it must be by the oracle; and the books agree."""
    url = platform.database_url
    until(f"{stored} rows", lambda: count(url) >= stored, seconds)
    until(f"{dead} dead letters", lambda: count(url, "dead_letters") >= dead, seconds)
    time.sleep(0.7)  # what comes after the last expected row would be a duplicate
    verdict = judge(ledger, Sinks.of(platform))
    verdict.assert_clean()
    found = (verdict.stored, count(url, "dead_letters"), verdict.quarantined)
    assert found == (stored, dead, 0), f"rows, dead letters, quarantine: {found}, expected {(stored, dead, 0)}"
    assert_books(platform)
    return verdict


def sessions(platform: Platform, where: str = "true") -> Sequence[int]:
    """The process ids of the consumers' database sessions for which ``where`` (SQL on pg_stat_activity) holds."""
    rows = query(
        platform.database_url,
        "select pid from pg_stat_activity where datname = current_database()"
        f" and application_name = 'event_consumer' and ({where})",
    )
    return [pid for (pid,) in rows]
