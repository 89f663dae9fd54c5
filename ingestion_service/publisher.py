"""Makes records durable: the interface, and the fake that ships beside it. Kafka's own is kafka_publisher.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from event_core.codec import Record
from event_core.errors import Unavailable
from ingestion_service.delivery import Delivery, Stored


class PublisherStatus(NamedTuple):
    """What health and metrics tell."""

    kafka_connected: bool
    spooling: bool
    """Whether some new events go to disk first."""
    buffered_events: int = 0
    buffered_batches: int = 0
    """Files of the buffer that hold events."""
    buffer_bytes: int = 0
    buffer_max_bytes: int = 0
    damaged_files: int = 0
    damaged_records: int = 0
    """Files set aside because they were damaged, and the records known to be lost in them."""
    kafka_writes: int = 0
    """Batches that Kafka acknowledged."""
    problem: str | None = None
    """Why Kafka is not connected."""


class Publisher(Protocol):
    """Makes records durable, in Kafka or on disk."""

    async def start(self) -> None:
        """Opens the buffer, and waits a moment for Kafka; the connection is made in the background for as long as it takes.

        Raises:
            ConfigurationError: the buffer's folder cannot be used.
        """

    async def stop(self) -> None:
        """Waits a bounded time for what is in flight, keeps the rest on disk, then closes."""

    def publish(self, topic: str, records: Sequence[Record]) -> list[Delivery]:
        """The delivery of each record, many of them shared. Records with equal keys keep the order of the calls.

        Raises:
            Unavailable: there is no point in waiting; none of the records was taken.
        """

    def largest(self, topic: str) -> int:
        """Most bytes of key, value and headers together that ``topic`` takes as one record."""

    async def quarantine(self, record: Record, reason: str, error: str, retry_count: int) -> bool:
        """Keeps a dead letter that must not be tried again. False where there is no place for it."""

    def status(self) -> PublisherStatus:
        """As of now, without asking anybody."""


class MemoryPublisher:
    """A publisher for tests: keeps records in a list, or refuses with ``problem``."""

    def __init__(self, problem: Unavailable | None = None, stored: Stored = Stored.KAFKA) -> None:
        self.sent: list[tuple[str, Record]] = []
        self.problem = problem
        self.stored = stored
        self.started = False
        self.limit = 1 << 20
        self.quarantined: list[Record] = []

    async def start(self) -> None:
        self.started = True

    async def stop(self) -> None:
        self.started = False

    def publish(self, topic: str, records: Sequence[Record]) -> list[Delivery]:
        if self.problem is not None:
            raise self.problem
        self.sent += [(topic, record) for record in records]
        return [Delivery.settled(self.stored)] * len(records)

    def largest(self, topic: str) -> int:
        return self.limit

    async def quarantine(self, record: Record, reason: str, error: str, retry_count: int) -> bool:
        self.quarantined.append(record)
        return True

    def status(self) -> PublisherStatus:
        spooling = self.stored is Stored.DISK
        return PublisherStatus(not spooling and self.problem is None, spooling)

    async def ping(self) -> None:
        if self.problem is not None:
            raise self.problem

    name = "kafka"
