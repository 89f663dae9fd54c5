"""``ingestion_unaccounted_records``: what was acknowledged against what was made durable, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from event_core.codec import Record
from ingestion_service.errors import BufferFull
from ingestion_service.kafka_publisher import KafkaPublisher
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import MemoryPublisher
from ingestion_service.settings import IngestionSettings
from tests.unit.ingestion import GOOD, Ingestion
from tests.unit.scripted_kafka import ScriptedKafka, ScriptedSession

Start = Callable[..., Awaitable[Ingestion]]


@pytest.fixture
def kafka() -> ScriptedKafka:
    return ScriptedKafka()


@pytest.fixture
async def start(kafka: ScriptedKafka, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a collector before ``kafka``; with ``buffer_dir=None`` one without a spool."""
    made: list[KafkaPublisher] = []

    async def start(**given: Any) -> Ingestion:
        settings = IngestionSettings(
            **{"buffer_dir": tmp_path / "buffer", "kafka_publish_timeout_seconds": 0.2, "kafka_max_retries": 0, **given}
        )
        metrics = Metrics()
        publisher = KafkaPublisher(settings, metrics, connect=kafka.connect)
        await publisher.start()
        made.append(publisher)
        return Ingestion(cast(MemoryPublisher, publisher), settings, metrics=metrics)

    yield start
    for publisher in made:
        await publisher.stop()


def event(number: int, user: str = "u", **more: object) -> bytes:
    return json.dumps({"user_id": user, "event_name": "e", "metadata": {"n": number}, **more}).encode()


def batch(numbers: range) -> bytes:
    events = [json.loads(event(number, f"user-{number}")) for number in numbers]
    return json.dumps(events).encode()


async def collect(ingestion: Ingestion, numbers: range) -> int:
    """POST /events as a CloudEvents batch; its status."""
    events = [
        {
            "specversion": "1.0",
            "id": f"{number}",
            "source": "/test",
            "type": "e",
            "subject": f"user-{number}",
            "data": {"n": number},
        }
        for number in numbers
    ]
    response = await ingestion.request(
        "POST",
        "/events",
        content=json.dumps(events).encode(),
        headers={"content-type": "application/cloudevents-batch+json"},
    )
    return response.status_code


def told(ingestion: Ingestion) -> tuple[float, float, float, float, float]:
    """Unaccounted; accepted, unheard, direct, on disk."""
    metrics = ingestion.metrics
    return (
        ingestion.metric("ingestion_unaccounted_records"),
        metrics.accepted.total,
        metrics.unheard.total,
        metrics.direct.total,
        metrics.spooled_events.total,
    )


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not holds():
            await asyncio.sleep(0.01)


async def test_events_batches_duplicates_and_refusals_add_up(start: Start) -> None:
    ingestion = await start()
    assert (await ingestion.post(GOOD)).status_code == 202
    assert await collect(ingestion, range(10)) == 202
    again = event(1, event_id="0190a5b6-0000-7000-8000-000000000001")
    for _ in range(3):
        assert (await ingestion.post(again)).status_code == 202
    assert (await ingestion.post(b'{"user_id":"u"}')).status_code == 422
    await until(lambda: ingestion.metric("ingestion_dead_letters_total") == 1)
    assert told(ingestion) == (0, 12, 0, 12, 0)


async def test_an_outage_and_its_end_add_up(kafka: ScriptedKafka, start: Start) -> None:
    ingestion = await start()
    assert await collect(ingestion, range(5)) == 202
    kafka.down = True
    assert await collect(ingestion, range(5, 10)) == 202
    assert (await ingestion.post(GOOD)).status_code == 202
    assert (await ingestion.post(b'{"user_id":"u"}')).status_code == 422  # its dead letter is on disk, too
    assert told(ingestion) == (0, 11, 0, 5, 6)
    kafka.down = False
    await until(lambda: len(kafka.values("events")) == 11 and kafka.values("events-dlq"))
    await until(lambda: not ingestion.publisher.status().spooling)
    assert (await ingestion.post(GOOD)).status_code == 202
    assert told(ingestion) == (0, 12, 0, 6, 6)


async def test_what_was_in_flight_when_kafka_froze_adds_up(kafka: ScriptedKafka, start: Start) -> None:
    ingestion = await start()
    assert (await ingestion.post(GOOD)).status_code == 202
    kafka.frozen = True
    assert [response.status_code for response in await asyncio.gather(*map(ingestion.post, map(event, range(20))))] == [
        202
    ] * 20
    assert told(ingestion) == (0, 21, 0, 1, 20)


@pytest.mark.parametrize("one", [True, False])
async def test_events_whose_client_is_gone_are_told_apart(kafka: ScriptedKafka, start: Start, one: bool) -> None:
    ingestion = await start()
    kafka.delay = 0.1
    asking = asyncio.create_task(ingestion.post(GOOD)) if one else asyncio.create_task(collect(ingestion, range(5)))
    await asyncio.sleep(0.03)
    asking.cancel()
    await asyncio.wait({asking})
    count = 1 if one else 5
    await until(lambda: len(kafka.values("events")) == count)
    await until(lambda: ingestion.metrics.unheard.total == count)
    assert told(ingestion) == (0, 0, count, count, 0)
    assert ingestion.metric("ingestion_events_unheard_total", why="gone") == count


async def test_a_client_that_is_gone_before_a_failure_is_counted_nowhere(kafka: ScriptedKafka, start: Start) -> None:
    ingestion = await start(buffer_dir=None)
    kafka.frozen = True
    asking = asyncio.create_task(ingestion.post(GOOD))
    await asyncio.sleep(0.03)
    asking.cancel()
    await asyncio.wait({asking})
    await until(lambda: not ingestion.publisher.status().kafka_connected)
    assert told(ingestion) == (0, 0, 0, 0, 0)


class HalfStuck(ScriptedKafka):
    """Five partitions are one group: of a batch some parts are acknowledged before another one fails."""

    def __init__(self) -> None:
        super().__init__(partitions=5)
        self.stuck = {("events", 3)}


@pytest.mark.parametrize("disk", [True, False])
@pytest.mark.parametrize("kafka", [HalfStuck()], ids=["five-partitions"])
async def test_a_batch_of_which_kafka_took_a_part_adds_up(kafka: ScriptedKafka, start: Start, disk: bool) -> None:
    ingestion = await start(kafka_topic_partitions=5, **({} if disk else {"buffer_dir": None}))
    status = await collect(ingestion, range(40))
    unaccounted, accepted, unheard, direct, on_disk = told(ingestion)
    assert unaccounted == 0
    assert 0 < direct < 40
    if disk:
        assert (status, accepted, unheard, on_disk) == (202, 40, 0, 40 - direct)
    else:
        assert (accepted, unheard, on_disk) == (0, direct, 0)
        assert ingestion.metric("ingestion_events_unheard_total", why="part") == direct


async def test_a_disk_that_is_full_adds_up(kafka: ScriptedKafka, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    ingestion = await start(kafka_topic_partitions=3)

    def full(*_: object) -> None:
        raise BufferFull("the disk is full")

    monkeypatch.setattr("ingestion_service.spool.store.SpoolStore.append", full)
    kafka.down = True
    assert (await ingestion.post(GOOD)).status_code == 503
    assert told(ingestion) == (0, 0, 0, 0, 0)


async def test_an_acknowledgement_without_a_durable_copy_shows() -> None:
    ingestion = Ingestion()  # its publisher keeps nothing, and says that it did
    assert (await ingestion.post(GOOD)).status_code == 202
    assert await collect(ingestion, range(4)) == 202
    assert told(ingestion)[0] == 5


async def test_an_event_that_is_sent_and_not_answered_shows(
    kafka: ScriptedKafka, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = ScriptedSession._send

    async def twice(
        session: ScriptedSession, topic: str, partition: int, records: list[Record], seconds: float
    ) -> None:
        await sends(session, topic, partition, records, seconds)
        ingestion.metrics.accepted.inc(-1, "kafka")  # a reply that was lost between the door and its count

    ingestion = await start()
    monkeypatch.setattr(ScriptedSession, "_send", twice)
    assert (await ingestion.post(GOOD)).status_code == 202
    assert told(ingestion)[0] == -1
