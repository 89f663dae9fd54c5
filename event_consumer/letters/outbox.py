"""A producer that is opened when it is needed and left after every error."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from event_consumer.letters.outgoing import Outgoing
from event_core.codec import Record
from event_core.dead_letters import MAX_DEAD_LETTER_BYTES
from event_core.errors import BrokerUnavailable, RecordsRefused
from event_core.kafka.producer import ProducerSession
from event_core.settings import BrokerSettings
from event_core.topics import partition_for

OPEN_SECONDS = 20.0
BATCH_SECONDS = 25.0
"""Longest wait for a whole batch: its letters are locked meanwhile."""
SEND_SECONDS = 10.0
"""Longest wait for one acknowledgement; the client library has no bound of its own."""
CLOSE_SECONDS = 3.0
SMALL_BYTES = 8 << 10
"""The stub of a letter that its topic does not take in full."""


class Outbox:
    """Used by one task at a time."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._session: ProducerSession | None = None

    async def ready(self) -> None:
        """Returns once there is a producer whose broker answers. Raises BrokerUnavailable."""
        if self._session is None or not self._session.alive:
            await self._open()
            return
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._session.ping()
        except (BrokerUnavailable, TimeoutError):
            await self._open()

    async def partitions(self, topic: str) -> int:
        """How many partitions ``topic`` has. Raises BrokerUnavailable."""
        session = self._session or await self._open()
        if known := session.known_partitions(topic):
            return known
        try:
            async with asyncio.timeout(SEND_SECONDS):
                return await session.partitions(topic)
        except (BrokerUnavailable, TimeoutError) as error:
            await self.leave()
            raise _away(error, f"the partitions of topic {topic} are unknown") from error

    @contextlib.asynccontextmanager
    async def in_time(self, messages: int) -> AsyncGenerator[None]:
        """Around the sending of ``messages``: raises BrokerUnavailable, and leaves the producer, after BATCH_SECONDS."""
        try:
            async with asyncio.timeout(BATCH_SECONDS):
                yield
        except TimeoutError:
            await self.leave()
            raise BrokerUnavailable(f"Kafka did not take {messages} messages within {BATCH_SECONDS:g} s") from None

    async def send(self, batch: Sequence[Outgoing]) -> Mapping[int, str]:
        """Sends ``batch``, of each partition in its order. Returns once everything is acknowledged or refused: by the place
        in ``batch``, why the broker refuses a record for good.

        Raises:
            BrokerUnavailable: it did not acknowledge; what of the batch is in the topics is not known.
        """
        lanes: dict[tuple[str, int], list[int]] = defaultdict(list)
        for place, one in enumerate(batch):
            lanes[one.topic, await self._partition(one)].append(place)
        refused: dict[int, str] = {}
        for (topic, partition), places in lanes.items():
            await self._send(topic, partition, batch, places, refused)
        return refused

    async def send_letters(self, topic: str, letters: int, record: Callable[[int, int], Record]) -> Mapping[int, str]:
        """Sends ``letters`` dead letters: ``record(place, max_bytes)`` makes one, a stub where it is larger. What ``topic``
        does not take in full is sent as a small stub. By the place, why it takes a letter in no form.

        Raises:
            BrokerUnavailable: as ``send`` does.
        """
        refused = await self.send([Outgoing(topic, record(place, MAX_DEAD_LETTER_BYTES)) for place in range(letters)])
        if not refused:
            return {}
        places = list(refused)
        again = await self.send([Outgoing(topic, record(place, SMALL_BYTES)) for place in places])
        return {places[number]: why for number, why in again.items()}

    async def _partition(self, one: Outgoing) -> int:
        count = await self.partitions(one.topic)
        if one.record.key:
            return partition_for(one.record.key, count)
        return one.partition if one.partition is not None and one.partition < count else 0

    async def _send(
        self, topic: str, partition: int, batch: Sequence[Outgoing], places: Sequence[int], refused: dict[int, str]
    ) -> None:
        """A record that the broker refuses is found by halving: it takes none of its neighbours along."""
        session = self._session or await self._open()
        try:
            await session.send(topic, partition, [batch[place].record for place in places], seconds=SEND_SECONDS)
            return
        except RecordsRefused as error:
            # Its sequence numbers have a gap now: every later batch of this producer would be refused too.
            await self.leave()
            if len(places) == 1:
                refused[places[0]] = error.message
                return
        except (BrokerUnavailable, TimeoutError) as error:
            await self.leave()
            raise _away(error, f"Kafka did not acknowledge within {SEND_SECONDS:g} s") from error
        except BaseException:
            await self.leave()
            raise
        middle = len(places) // 2
        await self._send(topic, partition, batch, places[:middle], refused)
        await self._send(topic, partition, batch, places[middle:], refused)

    async def _open(self) -> ProducerSession:
        await self.leave()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                self._session = await ProducerSession.open(self._settings, acks="all", compression="lz4")
        except TimeoutError as error:
            servers = self._settings.kafka_bootstrap_servers
            raise BrokerUnavailable(f"Kafka at {servers} does not answer within {OPEN_SECONDS:g} s") from error
        return self._session

    async def leave(self) -> None:
        """Leaves the producer without waiting for its broker; nothing more of it leaves."""
        session, self._session = self._session, None
        if session is not None:
            await session.abandon()

    async def close(self) -> None:
        """Ends in order, within some seconds; nothing is in flight."""
        session, self._session = self._session, None
        if session is None:
            return
        closing = asyncio.create_task(session.close())
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        if not closing.done():
            closing.cancel()
            await session.abandon()
        elif closing.exception() is not None:  # one of its tasks had died; there was nothing in flight
            await session.abandon()


def _away(error: BrokerUnavailable | TimeoutError, what: str) -> BrokerUnavailable:
    return error if isinstance(error, BrokerUnavailable) else BrokerUnavailable(what)
