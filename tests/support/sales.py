"""Sales for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from event_consumer.batch import Batch, Item
from event_consumer.sales.rows import SaleRow, to_row
from event_consumer.sales.sales_event_pb2 import SalesEvent
from event_core.source import FakeMessage
from event_core.topics import TopicPartition

P0, P1 = TopicPartition("sales_txn", 0), TopicPartition("sales_txn", 1)
SALE: Final[dict[str, Any]] = {
    "sku": "SKU-ABC-123",
    "qty": 5,
    "price": 29.99,
    "ts": "2024-01-15T10:30:00Z",
    "event_id": "event-001",
}


def encoded(**changes: Any) -> bytes:
    """A good sale but for ``changes``; None leaves a field out."""
    fields = {name: value for name, value in (SALE | changes).items() if value is not None}
    return SalesEvent(**fields).SerializeToString()


def message(
    value: bytes | None, offset: int = 0, partition: TopicPartition = P0, timestamp: int = 1_000
) -> FakeMessage:
    return FakeMessage(*partition, offset, value, b"key", timestamp, (("traceparent", b"00-x"),))


def items(
    values: Iterable[bytes], start: int = 0, at: float = 1.5, partition: TopicPartition = P0
) -> list[Item[SaleRow]]:
    return [Item(to_row(value, at), message(value, start + n, partition)) for n, value in enumerate(values)]


def batch(values: Iterable[bytes], start: int = 0, at: float = 1.5, partition: TopicPartition = P0) -> Batch[SaleRow]:
    """The sales ``values``, from the offset ``start`` on, read at ``at``."""
    made: Batch[SaleRow] = Batch(100_000, 5.0)
    found = items(values, start, at, partition)
    if found:
        made.add(partition, [item.message for item in found], found, [], 0.0)
    return made
