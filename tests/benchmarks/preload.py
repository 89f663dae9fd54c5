"""Fills topics with events as the ingestion service would write them, past the service: it would take much longer.

A stock of events goes through the service's own code once; the records are copies of theirs with other ids.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple
from uuid import UUID

from event_core.clock import utc_now
from event_core.codec import Headers, Record, encode
from event_core.kafka.producer import ProducerSession
from event_core.settings import KafkaSettings
from event_core.topics import HEADER_EVENT_ID, partition_for
from ingestion_service.accept import accept
from ingestion_service.forms import new_id
from ingestion_service.limits import Limits
from tests.benchmarks.bodies import bodies
from tests.benchmarks.servers import Servers

RECORDS_PER_BATCH = 100
"""Of one producer batch, about what live traffic of some thousand events per second makes."""
BATCHES_IN_FLIGHT = 24
EXTRA_BYTES = 40
"""Metadata beyond that of the ingestion benchmark's bodies: makes values of about 350 bytes."""
STOCK = 50_000
DUPLICATE_EVERY = 100
POISON_EVERY = 1_000

_BEGIN = b'{"event_id":"'
_RECEIVED = b'"received_at":"'


class Kind(Enum):
    """What a topic holds; the value is said to people."""

    PLATFORM = "ids made by the platform (UUIDv7)"
    CLIENT = "random ids of clients (UUIDv4)"
    DUPLICATES = "1 % copies"
    POISON = "0.1 % poison"
    REFUSED = "0.1 % that only PostgreSQL refuses"


class Preloaded(NamedTuple):
    """A topic, and what must come of it."""

    topic: str
    records: int
    distinct: int
    """Rows to be stored."""
    dead: int
    """Dead letters to be made."""
    value_bytes: float
    """Mean."""


class _Like(NamedTuple):
    """An event of the stock without its id."""

    key: bytes
    rest: bytes
    headers: Headers

    def named(self, event_id: UUID) -> Record:
        text = str(event_id).encode()
        return Record(self.key, b"%b%b%b" % (_BEGIN, text, self.rest), [(HEADER_EVENT_ID, text), *self.headers])


def preload(servers: Servers, records: int, partitions: int, kind: Kind = Kind.PLATFORM) -> Preloaded:
    """A new topic with ``records`` of ``kind``."""
    topic = servers.new_topic(partitions)
    return asyncio.run(_Filling(topic, records, partitions, kind).run(servers.backend.kafka))


class _Filling:
    """One topic's. The partitions get batches in turns."""

    def __init__(self, topic: str, records: int, partitions: int, kind: Kind) -> None:
        self._topic = topic
        self._records = records
        self._kind = kind
        self._rng = random.Random(1)
        self._stock: list[list[_Like]] = [[] for _ in range(partitions)]
        limits = Limits()
        for body in bodies(min(records, STOCK), extra=EXTRA_BYTES):
            record = encode(accept(body, utc_now(), limits).event)
            like = _Like(record.key, record.value[len(_BEGIN) + 36 :], record.headers[1:])
            self._stock[partition_for(record.key, partitions)].append(like)
        self._new_id: Callable[[], UUID] = new_id
        if kind is Kind.CLIENT:
            self._new_id = lambda: UUID(int=self._rng.getrandbits(128), version=4)
        self._kept: list[list[Record]] = [[] for _ in range(partitions)]
        self._batches = [0] * partitions
        self._copies = self._dead = self._bytes = 0

    async def run(self, bootstrap: str) -> Preloaded:
        settings = KafkaSettings(kafka_bootstrap_servers=bootstrap)
        session = await ProducerSession.open(settings, acks="all", compression="lz4")
        streams = [itertools.cycle(stock) for stock in self._stock]
        sending: set[asyncio.Task[int]] = set()
        try:
            made = 0
            while made < self._records:
                for partition, stream in enumerate(streams):
                    number = min(RECORDS_PER_BATCH, self._records - made)
                    if not number:
                        break
                    batch = [like.named(self._new_id()) for like in itertools.islice(stream, number)]
                    made += number
                    self._change(partition, batch)
                    self._bytes += sum(len(record.value) for record in batch)
                    sending.add(asyncio.create_task(session.send(self._topic, partition, batch, seconds=60)))
                if len(sending) >= BATCHES_IN_FLIGHT:
                    done, sending = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            await asyncio.gather(*sending)
        finally:
            await session.close()
        distinct = made - self._copies - self._dead
        return Preloaded(self._topic, made, distinct, self._dead, self._bytes / made)

    def _change(self, partition: int, batch: list[Record]) -> None:
        """Puts the copy, or now and then the poison, into ``batch``."""
        self._batches[partition] += 1
        batches = self._batches[partition] + partition  # so that the partitions do not get theirs all at once
        if self._kind is Kind.DUPLICATES and len(batch) == DUPLICATE_EVERY:
            place, kept = self._rng.randrange(1, len(batch)), self._kept[partition]
            if batches % 2 and kept:
                batch[place] = _sent_again(kept[self._rng.randrange(len(kept) // 2 + 1)])
            else:
                batch[place] = batch[self._rng.randrange(place)]
            kept.append(batch[0])
            self._copies += 1
        poisons = POISONS.get(self._kind)
        if poisons and batches % (POISON_EVERY // RECORDS_PER_BATCH) == 0:
            place = self._rng.randrange(len(batch))
            batch[place] = poisons[self._dead % len(poisons)](batch[place])
            self._dead += 1


def _sent_again(record: Record) -> Record:
    """The same event from its sender, received a minute later."""
    start = record.value.index(_RECEIVED) + len(_RECEIVED)
    text = record.value[start : start + 27].decode()
    later = (datetime.fromisoformat(text) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()
    return record._replace(value=record.value[:start] + later + record.value[start + 27 :])


def _replaced(pattern: bytes, by: bytes) -> Callable[[Record], Record]:
    def poisoned(record: Record) -> Record:
        value, number = re.subn(pattern, lambda _: by, record.value, count=1)
        assert number == 1, f"{pattern!r} is not in {record.value!r}"
        return record._replace(value=value)

    return poisoned


POISONS: dict[Kind, list[Callable[[Record], Record]]] = {
    Kind.POISON: [
        _replaced(rb"\}$", b""),  # not JSON
        _replaced(rb'"event_name":"[a-z_]+",', b""),
        _replaced(rb'"page":"', rb'"page":"\u0000'),
        _replaced(rb'"page":"', rb'"page":"\ud800'),
    ],
    Kind.REFUSED: [_replaced(rb'"price":', b'"price":1e200000,"paid":')],
}
