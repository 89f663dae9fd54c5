"""What the publisher does when its session to Kafka misbehaves; the session is scripted, Kafka's own is in tests/contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from event_core.codec import Record
from event_core.errors import BrokerUnavailable, Overloaded
from ingestion_service import publisher as module
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import KafkaPublisher
from ingestion_service.settings import IngestionSettings


class ScriptedBatch:
    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0

    def append(self, record: Record) -> bool:
        if self.records:
            return False
        self.records += 1
        self.bytes += len(record.value)
        return True


class ScriptedSession:
    """A session of one partition whose ``send`` the test decides."""

    alive = True

    def __init__(self, send: Callable[[], Awaitable[None]]) -> None:
        self._send = send

    async def partitions(self, topic: str) -> int:
        return 1

    def known_partitions(self, topic: str) -> int:
        return 1

    def new_batch(self) -> ScriptedBatch:
        return ScriptedBatch()

    async def send(self, batch: Any, topic: str, partition: int) -> None:
        await self._send()

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def abandon(self) -> None:
        return None


class Script:
    """Sessions in the order they are opened."""

    def __init__(self) -> None:
        self.sends: list[Callable[[], Awaitable[None]]] = []
        self.opened = 0

    async def open(self, *_: Any, **__: Any) -> ScriptedSession:
        send = self.sends[min(self.opened, len(self.sends) - 1)]
        self.opened += 1
        return ScriptedSession(send)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    made = Script()

    async def no_topics(*_: Any) -> None:
        return None

    monkeypatch.setattr(module, "ensure_topics", no_topics)
    monkeypatch.setattr("event_core.kafka.ProducerSession.open", made.open)
    return made


@pytest.fixture
async def publisher(script: Script) -> AsyncIterator[KafkaPublisher]:
    made = KafkaPublisher(IngestionSettings(kafka_publish_timeout_seconds=0.2), Metrics())
    yield made
    await made.stop()


async def connected(publisher: KafkaPublisher) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                await publisher.ping()
                return
            except BrokerUnavailable:
                await asyncio.sleep(0.01)


def record() -> Record:
    return Record(b"u", b"{}", [("event-id", b"1")])


async def fine() -> None:
    return None


async def broken() -> None:
    raise AssertionError("Unrecognized partition")


async def stuck() -> None:
    await asyncio.sleep(3600)


@pytest.mark.parametrize("fault", [broken, stuck])
async def test_whatever_goes_wrong_everybody_is_answered_and_a_new_session_takes_over(
    script: Script, publisher: KafkaPublisher, fault: Callable[[], Awaitable[None]]
) -> None:
    script.sends = [fault, fine]
    await publisher.start()
    await connected(publisher)
    waiting = [publisher.publish(record()) for _ in range(3)]
    for one in waiting:
        with pytest.raises(BrokerUnavailable):
            async with asyncio.timeout(10):
                await one
    await connected(publisher)
    await publisher.publish(record())
    assert script.opened == 2


async def test_a_batch_that_waited_too_long_for_its_turn_is_refused_not_sent(
    script: Script, publisher: KafkaPublisher
) -> None:
    sent = 0

    async def slow() -> None:
        nonlocal sent
        sent += 1
        await asyncio.sleep(0.15)

    script.sends = [slow]
    await publisher.start()
    await connected(publisher)
    waiting = [publisher.publish(record()) for _ in range(6)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert refused
    assert sent + len(refused) == 6
    assert script.opened == 1


async def test_a_keeper_that_dies_is_told_and_named(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    async def impossible(*_: Any, **__: Any) -> ScriptedSession:
        raise ValueError("not an address")

    monkeypatch.setattr("event_core.kafka.ProducerSession.open", impossible)
    told: list[BaseException] = []
    made = KafkaPublisher(IngestionSettings(), Metrics(), on_failure=told.append)
    await made.start()
    async with asyncio.timeout(10):
        while not told:
            await asyncio.sleep(0.01)
    assert str(told[0]) == "not an address"
    with pytest.raises(BrokerUnavailable, match="not an address"):
        await made.ping()
    await made.stop()
