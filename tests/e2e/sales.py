"""What was sold, and what must have become of it: the outside oracle of the sales pipeline. It knows nothing of the services'
code but the form of a message."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer

from event_consumer.sales.sales_event_pb2 import SalesEvent
from tests.support.selling import Sales
from tests.support.wait import until

PARTITIONS = 3
TS = "2024-01-15T10:30:00Z"

Place = tuple[int, int]
"""Partition and offset."""


@dataclass
class Sold:
    """Everything that is in the topic. The first sale of an id is the one that is stored; what differs from it, and what is no
    sale, is set aside, each record by itself."""

    first: dict[str, int] = field(default_factory=dict)
    """Id to the quantity that must be stored."""
    aside: dict[Place, bytes] = field(default_factory=dict)
    duplicates: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def next(self) -> tuple[int, bytes, str, int]:
        """(partition, value, id or nothing, quantity) of the next record: most are new sales, some come again, some contradict an
        earlier one, some are no sales."""
        number = next(self.numbers)
        of, qty, kind = number, number % 50 + 1, number % 20
        if kind in (3, 4) and number > 40:
            of = number - PARTITIONS * 11  # of the same partition, in which it came before
            qty = of % 50 + (1 if kind == 3 else 2)
            if of % 20 in (3, 4, 7):
                of, qty = number, number % 50 + 1
        value = SalesEvent(
            sku=f"SKU-{of % 97}", qty=qty, price=of / 100, ts=TS, event_id=f"sale-{of}"
        ).SerializeToString()
        if kind == 7:
            return number % PARTITIONS, b"\xff bad" if number % 40 == 7 else value[:3], "", 0
        return number % PARTITIONS, value, f"sale-{of}", qty

    def note(self, place: Place, value: bytes, sale: str, qty: int) -> None:
        """The record is in the topic; those of one partition must be noted in their order."""
        if not sale or self.first.setdefault(sale, qty) != qty:
            self.aside[place] = value
        elif self.seen(sale):
            self.duplicates += 1

    _seen: set[str] = field(default_factory=set)

    def seen(self, sale: str) -> bool:
        there = sale in self._seen
        self._seen.add(sale)
        return there


async def _sell(servers: str, topic: str, sold: Sold, records: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        for _ in range(0, records, 50):
            made = [sold.next() for _ in range(50)]
            sent = [await producer.send(topic, value, partition=partition) for partition, value, _, _ in made]
            for (partition, value, sale, qty), record in zip(made, await asyncio.gather(*sent), strict=True):
                sold.note((partition, record.offset), value, sale, qty)
    finally:
        await producer.stop()


def sell(sales: Sales, sold: Sold, records: int) -> None:
    """Puts ``records`` (a multiple of 50) into the topic."""
    asyncio.run(_sell(sales.servers, sales.topic, sold, records))


@contextlib.contextmanager
def selling(sales: Sales, sold: Sold, rate: int = 300) -> Iterator[None]:
    """``rate`` records a second, until the block ends."""
    stop = threading.Event()
    problems: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.wait(50 / rate):
                sell(sales, sold, 50)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not problems, problems


def flows(sales: Sales, seconds: float = 60.0) -> None:
    """Returns once more is stored than now."""
    before = sales.count()
    until("sales are stored", lambda: sales.count() > before, seconds)


def assert_each_once(sales: Sales, sold: Sold, seconds: float = 120.0) -> None:
    """Every sale is stored once, with what was sent first; everything else is set aside once, with its bytes."""
    assert sold.first, "something was sold"
    until("all sales are stored", lambda: sales.count() >= len(sold.first), seconds)
    letters = sales.letters(len(sold.aside))
    found: dict[str, Any] = {key: document["qty"] for key, document in sales.documents().items()}
    assert found == sold.first
    aside = [(_place(letter.headers), letter.value) for letter in letters.values()]
    assert len(aside) == len(sold.aside), "no record has two letters"
    assert dict(aside) == sold.aside


def _place(headers: Any) -> Place:
    return int(headers["__connect.errors.partition"]), int(headers["__connect.errors.offset"])
