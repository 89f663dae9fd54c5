"""From a record to Kafka's acknowledgement: one open batch per partition, one in flight, one future per batch.

What arrives while a batch is in flight fills the next one (as Nagle's algorithm does for packets), so the broker's
latency sets the batch size and nothing has to be tuned. One future per message would cost ten times as much. A batch that
fails or is overdue ends the producer: everything unacknowledged gets its 503, and a new connection is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from event_core.codec import Record
from event_core.errors import BrokerUnavailable, Overloaded, Unavailable
from event_core.kafka import ProducerSession, RecordBatch, connected, ensure_topics, platform_topics
from event_core.telemetry import get_logger
from event_core.topics import partition_for
from ingestion_service.metrics import Metrics
from ingestion_service.settings import IngestionSettings

log = get_logger(__name__)

RETRY_AFTER_SECONDS = 2
"""Told to clients while Kafka is away: about as long as a new connection takes once it is back."""


class Publisher(Protocol):
    """Makes records durable."""

    @property
    def name(self) -> str:
        """Its name among the health checks."""

    async def start(self) -> None:
        """Returns at once; the connection is made in the background for as long as it takes."""

    async def stop(self) -> None:
        """Waits a bounded time for what is in flight, then closes."""

    def publish(self, record: Record) -> Awaitable[None]:
        """The returned awaitable ends when the record is durable, or raises Unavailable. Records with equal keys keep the
        order of the calls. Raises Unavailable at once where there is no point in waiting."""

    async def ping(self) -> None:
        """Raises Unavailable where nothing can be published now."""


class MemoryPublisher:
    """A publisher for tests: keeps records in a list, or refuses with ``problem``."""

    name = "kafka"

    def __init__(self, problem: Unavailable | None = None) -> None:
        self.records: list[Record] = []
        self.problem = problem
        self.started = False

    async def start(self) -> None:
        self.started = True

    async def stop(self) -> None:
        self.started = False

    def publish(self, record: Record) -> Awaitable[None]:
        if self.problem is not None:
            raise self.problem
        self.records.append(record)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def ping(self) -> None:
        if self.problem is not None:
            raise self.problem


class _Batch:
    """Records that share one acknowledgement."""

    __slots__ = ("acknowledged", "made", "records")

    def __init__(self, records: RecordBatch, acknowledged: asyncio.Future[None]) -> None:
        self.records = records
        self.acknowledged = acknowledged
        self.made = time.monotonic()

    def refuse(self, refusal: Unavailable) -> None:
        """Ends the wait of everybody whose record is in it."""
        if not self.acknowledged.done():
            self.acknowledged.set_exception(refusal)
            self.acknowledged.exception()  # seen: a client that has gone away must not make asyncio complain


class KafkaPublisher:
    """Publishes to ``settings.kafka_topic``."""

    name = "kafka"

    def __init__(
        self, settings: IngestionSettings, metrics: Metrics, on_failure: Callable[[BaseException], None] | None = None
    ) -> None:
        """``on_failure`` is told where no connection can ever be made, as with an address that is none."""
        self._settings = settings
        self._metrics = metrics
        self._session: ProducerSession | None = None
        self._partitions = 0
        self._queues: list[deque[_Batch]] = []  # per partition; the last batch is the open one
        self._sending: dict[int, _Batch | None] = {}  # partitions that are being drained, with the batch in flight
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending_bytes = 0
        self._trouble = asyncio.Event()
        self._problem = "the connection to Kafka is being made"
        self._keeper: asyncio.Task[None] | None = None
        self._on_failure = on_failure

    async def start(self) -> None:
        if self._settings.kafka_acks != "all":
            log.warning("KAFKA_ACKS is not all: acknowledged events can be lost", acks=self._settings.kafka_acks)
        self._keeper = asyncio.create_task(self._keep_connected())
        self._keeper.add_done_callback(self._keeper_ended)

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if keeper.cancelled() or (error := keeper.exception()) is None:
            return
        self._session = None
        self._problem = f"no connection to Kafka can be made: {error!r}"
        log.error("the publisher ended", exc_info=error)
        if self._on_failure is not None:
            self._on_failure(error)

    async def stop(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.kafka_publish_timeout_seconds):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        if self._session is not None:
            await self._leave(self._session, orderly=not self._tasks)

    async def ping(self) -> None:
        if self._session is None:
            raise BrokerUnavailable(self._problem)
        await self._session.ping()

    def publish(self, record: Record) -> Awaitable[None]:
        if self._session is None:
            raise BrokerUnavailable(
                f"the event was not stored: {self._problem}. Send it again, with the same event_id if it has one",
                retry_after=RETRY_AFTER_SECONDS,
            )
        size = len(record.value)
        if self._pending_bytes + size > self._settings.ingestion_max_pending_bytes:
            raise Overloaded(
                "too many events wait for Kafka: send fewer at a time, or raise INGESTION_MAX_PENDING_BYTES"
            )
        self._pending_bytes += size
        partition = partition_for(record.key, self._partitions)
        queue = self._queues[partition]
        if not queue or not queue[-1].records.append(record):
            batch = _Batch(self._session.new_batch(), asyncio.get_running_loop().create_future())
            batch.records.append(record)
            queue.append(batch)
            if partition not in self._sending:
                self._sending[partition] = None
                task = asyncio.create_task(self._drain(self._session, partition))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return queue[-1].acknowledged

    async def _drain(self, session: ProducerSession, partition: int) -> None:
        """Sends the partition's batches one after the other until none is left."""
        queue = self._queues[partition]
        deadline = self._settings.kafka_publish_timeout_seconds
        while queue:
            self._sending[partition] = batch = queue.popleft()
            if time.monotonic() - batch.made > deadline:
                # It has waited behind others for as long as a client may, and is certainly not stored.
                self._pending_bytes -= batch.records.bytes
                batch.refuse(
                    Overloaded("the event was not stored: events come faster than Kafka takes them. Send it again")
                )
                continue
            began = time.perf_counter()
            try:
                async with asyncio.timeout(deadline):
                    await session.send(batch.records, self._settings.kafka_topic, partition)
            except TimeoutError:
                self._give_up(session, f"Kafka did not acknowledge within {deadline:g} s")
                return
            except Exception as error:  # whatever the client library raises, nobody may be left waiting
                self._give_up(session, str(error) or repr(error))
                return
            self._pending_bytes -= batch.records.bytes
            if not batch.acknowledged.done():
                batch.acknowledged.set_result(None)
            self._metrics.batch_records.observe(batch.records.records)
            self._metrics.batch_seconds.observe(time.perf_counter() - began)
        self._sending.pop(partition, None)

    def _give_up(self, session: ProducerSession, problem: str) -> None:
        """Fails everything unacknowledged and lets ``_keep_connected`` make a new connection. Idempotent per session."""
        if session is not self._session:
            return
        self._session = None
        self._problem = problem
        self._metrics.connected.set(0)
        log.warning("the producer is given up", problem=problem, pending_bytes=self._pending_bytes)
        refusal = BrokerUnavailable(
            f"the event may not have been stored: {problem}. Send it again, with the same event_id if it has one",
            retry_after=RETRY_AFTER_SECONDS,
        )
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()  # the drains of other partitions wait for the same broker
        in_flight = [batch for batch in self._sending.values() if batch is not None]
        for batch in [*in_flight, *(batch for queue in self._queues for batch in queue)]:
            batch.refuse(refusal)
        self._queues = []
        self._sending = {}
        self._pending_bytes = 0
        self._trouble.set()

    async def _keep_connected(self) -> None:
        while True:
            session, partitions = await connected(self._connect, self._note)
            self._partitions = partitions
            self._queues = [deque() for _ in range(partitions)]
            self._sending = {}
            self._trouble.clear()
            self._session = session
            self._metrics.connected.set(1)
            log.info("connected to Kafka", servers=self._settings.kafka_bootstrap_servers, partitions=partitions)
            await self._wait_for_trouble(session)
            self._metrics.reconnects.inc()
            await self._leave(session, orderly=False)

    async def _wait_for_trouble(self, session: ProducerSession) -> None:
        """Returns once the session is given up: by a failed batch, or because its sender task died."""
        while not self._trouble.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._trouble.wait()
            if not session.alive:
                self._give_up(session, "the producer's sender task has ended")
            elif session.known_partitions(self._settings.kafka_topic) != self._partitions:
                self._give_up(session, "the topic's number of partitions has changed")
            self._metrics.pending_bytes.set(self._pending_bytes)

    async def _connect(self) -> tuple[ProducerSession, int]:
        settings = self._settings
        await ensure_topics(settings, platform_topics(settings))
        session = await ProducerSession.open(
            settings, acks=settings.kafka_acks, compression=settings.kafka_compression_type
        )
        try:
            return session, await session.partitions(settings.kafka_topic)
        except BrokerUnavailable:
            await session.abandon()
            raise

    def _note(self, problem: str) -> None:
        self._problem = problem

    async def _leave(self, session: ProducerSession, *, orderly: bool) -> None:
        self._session = None
        if orderly:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await session.close()
                return
        await session.abandon()
