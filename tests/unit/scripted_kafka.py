"""A Kafka in memory whose faults a test decides, behind the same session interface as the real one."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence

from event_core.codec import Record
from event_core.errors import BrokerUnavailable, RecordsRefused
from ingestion_service.kafka_publisher import KafkaPublisher
from ingestion_service.link import Opened, Session


class ScriptedKafka:
    """``down``: nothing answers. ``frozen``: it takes what is sent, or not, but never answers. ``largest``: bytes of the largest
    batch that a topic takes, counted by values. ``stuck``: partitions that never answer. ``forbidden``: topics that fail."""

    def __init__(self, partitions: int = 3, topics: Sequence[str] = ("events", "product_events", "events-dlq")) -> None:
        self.partitions = dict.fromkeys(topics, partitions)
        self.logs: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)
        self.down = False
        self.frozen = False
        self.delay = 0.0
        self.largest: dict[str, int] = {}
        self.stuck: set[tuple[str, int]] = set()
        self.forbidden: set[str] = set()
        self.sessions: list[ScriptedSession] = []

    async def connect(self, more: Iterable[str]) -> Opened:
        if self.down or self.frozen:
            await asyncio.sleep(0.02)
            raise BrokerUnavailable("Kafka does not answer")
        session = ScriptedSession(self)
        self.sessions.append(session)
        return Opened(session, dict(self.partitions), {})

    def session_of(self, publisher: KafkaPublisher) -> Session:
        """The session that ``publisher`` uses now."""
        session = publisher._link.session
        assert session is not None
        return session

    def values(self, topic: str) -> list[bytes]:
        return [record.value for (name, _), log in self.logs.items() if name == topic for record in log]

    def of_key(self, topic: str, key: bytes) -> list[bytes]:
        """The values of ``key``, each at its first place."""
        return list(
            dict.fromkeys(r.value for (name, _), log in self.logs.items() if name == topic for r in log if r.key == key)
        )


class ScriptedSession:
    def __init__(self, kafka: ScriptedKafka) -> None:
        self._kafka = kafka
        self.alive = True
        self.abandoned = False

    def known_partitions(self, topic: str) -> int:
        return self._kafka.partitions[topic]

    async def send(
        self, topic: str, partition: int, records: Sequence[Record], *, seconds: float, limit: int = 1 << 20
    ) -> int:
        assert not self.abandoned, "an abandoned producer was used"
        batches: list[list[Record]] = [[]]
        for record in records:
            if batches[-1] and sum(len(r.value) for r in batches[-1]) + len(record.value) > limit:
                batches.append([])
            batches[-1].append(record)
        for batch in batches:
            await self._send(topic, partition, batch, seconds)
        return len(batches)

    async def _send(self, topic: str, partition: int, batch: Sequence[Record], seconds: float) -> None:
        kafka = self._kafka
        async with asyncio.timeout(seconds):
            await asyncio.sleep(kafka.delay)
            if kafka.down:
                raise BrokerUnavailable("the connection is gone")
            if not self.alive:
                raise RuntimeError("the sender task is dead")
            if topic in kafka.forbidden:
                raise BrokerUnavailable("not authorised")
            if kafka.frozen or (topic, partition) in kafka.stuck:
                kafka.logs[topic, partition] += batch  # it may have taken the batch: nobody can tell
                await asyncio.sleep(3600)
            if sum(len(record.value) for record in batch) > kafka.largest.get(topic, 1 << 20):
                raise RecordsRefused("too large", batch)
            kafka.logs[topic, partition] += batch

    async def ping(self) -> None:
        if self._kafka.down or not self.alive:
            raise BrokerUnavailable("Kafka does not answer")
        if self._kafka.frozen:
            await asyncio.sleep(3600)

    async def close(self) -> None:
        self.abandoned = True

    async def abandon(self) -> None:
        self.abandoned = True
