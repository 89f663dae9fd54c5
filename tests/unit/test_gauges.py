"""What the gauges show while the database has not answered, and which labels they can have."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
from prometheus_client import CollectorRegistry

import ingestion_service.errors  # noqa: F401  # declares reasons
from event_consumer.gauges import OTHER, REASONS, Gauges
from event_core.errors import InvalidEvent
from ingestion_service.forms import _REASONS

REPOSITORY = Path(__file__).parents[2]
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Upkeep:
    partitions = 0
    default_rows = 0
    last_success: datetime | None = None


def nobody() -> asyncpg.Pool:
    """A pool whose server is not there."""
    return asyncpg.create_pool("postgresql://nobody@127.0.0.1:9/none", min_size=0, timeout=1)


def test_an_outage_is_waited_out_and_shown_by_the_age() -> None:
    registry = CollectorRegistry()

    async def work() -> None:
        async with nobody() as pool:
            gauges = Gauges(pool, "group", registry, interval=0.01)
            stop = asyncio.Event()
            running = asyncio.create_task(gauges.run(stop))
            await asyncio.sleep(0.2)
            assert not running.done()
            stop.set()
            async with asyncio.timeout(10):
                await running

    asyncio.run(work())
    age = registry.get_sample_value("consumer_gauges_age_seconds")
    assert age is not None
    assert age >= 0.2


def test_before_the_first_answer_nothing_is_claimed_of_any_partition() -> None:
    async def work() -> CollectorRegistry:
        registry = CollectorRegistry()
        async with nobody() as pool:
            Gauges(pool, "group", registry)
        return registry

    registry = asyncio.run(work())
    found = {family.name: family.samples for family in registry.collect()}
    assert found["consumer_unaccounted_records"] == []
    assert found["consumer_skipped_records"] == []
    assert not {"storage_partitions", "storage_default_rows", "storage_maintenance_age_seconds"} & found.keys()


def test_what_is_known_of_the_partitions_is_shown_once_it_is_known() -> None:
    async def work() -> None:
        registry, upkeep, now = CollectorRegistry(), Upkeep(), NOW
        async with nobody() as pool:
            Gauges(pool, "group", registry, upkeep, clock=lambda: now)
        now += timedelta(minutes=5)
        assert registry.get_sample_value("storage_partitions") is None
        assert registry.get_sample_value("storage_maintenance_age_seconds") == 300
        upkeep.partitions, upkeep.default_rows, upkeep.last_success = 12, 3, now - timedelta(minutes=1)
        assert registry.get_sample_value("storage_partitions") == 12
        assert registry.get_sample_value("storage_default_rows") == 3
        assert registry.get_sample_value("storage_maintenance_age_seconds") == 60

    asyncio.run(work())


def _given_reasons() -> Iterator[str]:
    """Every ``reason=`` of the code."""
    for package in ("event_core", "event_consumer", "ingestion_service"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.keyword) and node.arg == "reason" and isinstance(node.value, ast.Constant):
                    yield str(node.value.value)


def _codes(root: type[InvalidEvent]) -> Iterator[str]:
    yield root.code
    for derived in root.__subclasses__():
        yield from _codes(derived)


def test_every_reason_of_the_platform_has_a_label_of_its_own() -> None:
    assert {*_given_reasons(), *_REASONS.values(), *_codes(InvalidEvent)} <= REASONS
    assert OTHER not in REASONS
