"""Fills topics with sales as ``tools/send_sales.py`` makes and sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from event_consumer.sales.rows import to_row
from event_consumer.sales.settings import SalesSettings
from tests.benchmarks.servers import Servers
from tools.sales_story import SEEDED_END, Fate, Mix, Told, story
from tools.send_sales import Tally, send

PARTITIONS = 3
SKUS = 500
DUPLICATES = 0.01


class PreloadedSales(NamedTuple):
    """A topic, and what must be stored of it."""

    topic: str
    records: int
    ids: frozenset[str]
    value_bytes: float
    """Mean."""


def plain_story(sales: int) -> Iterator[Told]:
    """Distinct sales; the same ones every time."""
    return story(Mix(sales, SKUS), "benchmark", SEEDED_END)


def preload_sales(servers: Servers, sales: int, *, duplicates: bool = False) -> PreloadedSales:
    """A new topic with so many sales, ``DUPLICATES`` of them copies of others where ``duplicates``.

    The keys are numbers: as SKUs they would make one partition twice as long as another.
    """
    topic = servers.new_topic(PARTITIONS)
    told = story(Mix(sales, SKUS, DUPLICATES), "benchmark", SEEDED_END) if duplicates else plain_story(sales)
    ids: set[str] = set()
    value_bytes = 0

    def noted() -> Iterator[Told]:
        nonlocal value_bytes
        for number, one in enumerate(told):
            value_bytes += len(one.record.value)
            if one.fate is Fate.STORED:
                ids.add(to_row(one.record.value, 0.0).sale_id)
            yield one._replace(record=one.record._replace(key=b"%08d" % number))

    settings = SalesSettings(kafka_bootstrap_servers=servers.backend.kafka, sales_topic=topic)
    asyncio.run(send(settings, noted(), 0.0, Tally(), lambda: None))
    return PreloadedSales(topic, sales, frozenset(ids), value_bytes / sales)
