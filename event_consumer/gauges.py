"""What only the database knows, as gauges: records unaccounted for, open dead letters, partitions.

They are asked for every 15 seconds. While PostgreSQL is away the last answer stands, and ``consumer_gauges_age_seconds`` grows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple, Protocol

import asyncpg
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from event_core.clock import Clock, Monotonic, monotonic, utc_now
from event_core.sqlfiles import load_sql
from event_core.stopping import sleep, until_stopped
from event_core.telemetry import get_logger
from event_core.topics import TopicPartition

log = get_logger(__name__)

OFFSET_COUNTERS = load_sql("event_consumer.sql", "offset_counters")
OPEN_LETTERS = load_sql("event_consumer.sql", "open_letters")
LETTER_AGES = load_sql("event_consumer.sql", "letter_ages")

INTERVAL_SECONDS = 15.0
REST = 20
"""It rests this many times as long as the answer took: counting a million open dead letters takes a while."""

GIVE_UP_SECONDS = 1.0
DATABASE_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

OTHER = "other"
REASONS = frozenset(
    """
    ambiguous_data ambiguous_form bad_attribute bad_attribute_name bad_base64 bad_compression bad_header bad_length
    bad_timestamp batch_metadata_too_large batch_too_large body_timeout body_too_large conflict duplicate_attribute
    empty_batch empty_body event_too_large invalid_event invalid_sale malformed_body missing_field not_a_batch
    not_a_dead_letter not_an_object not_json not_protobuf overdue refused_by_broker refused_by_store reserved_field
    too_deep too_large too_old too_wide unknown_value unstorable_value unsupported_content_encoding
    unsupported_media_type unsupported_specversion wrong_type
    """.split()
)
"""Why the platform sets events aside. What others write onto the dead letters' topic may say anything: that is ``other``."""


class Upkeep(Protocol):
    """What is known of the tables' partitions, as of ``last_success``."""

    @property
    def partitions(self) -> int:
        """Partitions of ``events``, the default one aside."""

    @property
    def default_rows(self) -> int:
        """About how many rows are of days that have no partition of their own."""

    @property
    def last_success(self) -> datetime | None:
        """When all was last found in order; None before the first time."""


class Answer(NamedTuple):
    """What the database said."""

    unaccounted: Mapping[TopicPartition, int]
    skipped: Mapping[TopicPartition, int]
    open_letters: Mapping[str, int]
    """By reason."""
    oldest_seconds: float
    unrelayed: int


class Gauges(Collector):
    """The gauges of one consumer group; registers itself. Every member of the group shows the same: alert on the maximum."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        group: str,
        registry: CollectorRegistry,
        upkeep: Upkeep | None = None,
        *,
        interval: float = INTERVAL_SECONDS,
        now: Monotonic = monotonic,
        clock: Clock = utc_now,
    ) -> None:
        """``interval`` in seconds."""
        self._pool = pool
        self._group = group
        self._upkeep = upkeep
        self._interval = interval
        self._now = now
        self._clock = clock
        self._began = clock()
        self._answered_at = now()
        self._answer = Answer({}, {}, {}, 0.0, 0)
        registry.register(self)

    async def run(self, stop: asyncio.Event) -> None:
        """Asks until ``stop`` is set. An outage is waited out."""
        away = False
        while not stop.is_set():
            began = self._now()
            asking = await until_stopped(self.ask(), stop, give_up=GIVE_UP_SECONDS)
            if asking is None:
                return
            try:
                asking.result()
                away = False
            except (OSError, TimeoutError, *DATABASE_ERRORS) as error:
                if not away:
                    log.warning("the gauges stand still: PostgreSQL does not answer", problem=repr(error))
                away = True
            await sleep(self._interval if away else max(self._interval, REST * (self._now() - began)), stop)

    async def ask(self) -> None:
        """Asks once.

        Raises:
            OSError, TimeoutError, DATABASE_ERRORS: there is no answer; the last one stands.
        """
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            offsets = await connection.fetch(OFFSET_COUNTERS, self._group)
            letters: Counter[str] = Counter()
            for reason, count in await connection.fetch(OPEN_LETTERS):
                letters[reason if reason in REASONS else OTHER] += count
            [(oldest, unrelayed)] = await connection.fetch(LETTER_AGES)
        self._answer = Answer(
            {TopicPartition(topic, partition): count for topic, partition, count, _ in offsets},
            {TopicPartition(topic, partition): count for topic, partition, _, count in offsets},
            letters,
            oldest,
            unrelayed,
        )
        self._answered_at = self._now()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        answer = self._answer
        yield _gauge(
            "consumer_gauges_age_seconds",
            "Seconds since PostgreSQL last told the values of the gauges that only it knows (since the start, where never).",
            self._now() - self._answered_at,
        )
        yield _by_partition(
            "consumer_unaccounted_records",
            "Must be 0: records consumed, less those stored, duplicate, set aside and skipped, by partition.",
            answer.unaccounted,
        )
        yield _by_partition(
            "consumer_skipped_records",
            "Offsets that were passed over: holes in the log, and what an operator decided to skip, by partition.",
            answer.skipped,
        )
        letters = GaugeMetricFamily(
            "dead_letters_open", "Dead letters that wait for a decision, by reason.", labels=["reason"]
        )
        for reason in sorted({*REASONS, OTHER}):
            letters.add_metric([reason], answer.open_letters.get(reason, 0))
        yield letters
        yield _gauge(
            "dead_letters_oldest_seconds",
            "Age of the oldest open dead letter; 0 where none is open.",
            answer.oldest_seconds,
        )
        yield _gauge("dead_letters_unrelayed", "Dead letters that are not on DLQ_TOPIC yet.", answer.unrelayed)
        yield from self._collect_upkeep()

    def _collect_upkeep(self) -> Iterator[GaugeMetricFamily]:
        upkeep = self._upkeep
        if upkeep is None:
            return
        at = upkeep.last_success
        if at is not None:
            yield _gauge("storage_partitions", "Partitions of events, the default one aside.", upkeep.partitions)
            yield _gauge(
                "storage_default_rows",
                "About how many events are of days that have no partition of their own.",
                upkeep.default_rows,
            )
        yield _gauge(
            "storage_maintenance_age_seconds",
            "Seconds since the partitions were last found in order (since the start, where never).",
            max(0.0, (self._clock() - (at or self._began)).total_seconds()),
        )


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=value)


def _by_partition(name: str, documentation: str, values: Mapping[TopicPartition, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=["topic", "partition"])
    for partition, value in values.items():
        family.add_metric([partition.topic, str(partition.partition)], value)
    return family
