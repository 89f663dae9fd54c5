"""Events in each form, and a load of them in the background."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tests.conftest import Platform
from tests.e2e.clients import Posted, post_batches, post_events
from tests.e2e.oracle import Ledger, out_of_order
from tests.e2e.sinks import Sinks, arrived, judge
from tests.support.process import Service
from tests.support.wait import count, until

Events = list[dict[str, Any]]

USERS = 30


def now() -> str:
    return datetime.now(UTC).isoformat()


def events(number: int, prefix: str = "user") -> Events:
    """In the ``event_name`` form, of users whose names begin with ``prefix``."""
    return [
        {
            "event_id": str(uuid.uuid4()),
            "user_id": f"{prefix}_{n % USERS}",
            "event_name": "page_view",
            "metadata": {"n": n, "price": n / 7, "text": "ü" * (n % 40)},
            "timestamp": now(),
        }
        for n in range(number)
    ]


def product_events(number: int) -> Events:
    """In the ``event_type`` form."""
    return [
        {
            "event_id": str(uuid.uuid4()),
            "user_id": f"user_{n % USERS}",
            "event_type": "page_view",
            "event_time": 1_710_000_000_000 + n,
            "experiment_id": f"exp_{n % 3}",
            "variant": "AB"[n % 2],
            "properties": {"page": "checkout", "n": n},
        }
        for n in range(number)
    ]


def learner_events(number: int, prefix: str = "learner") -> Events:
    """As the requirements' example shows them, but for random ids and many learners, whose names begin with ``prefix``."""
    return [
        {
            "event_id": str(uuid.UUID(int=random.getrandbits(128))),
            "learner_id": f"{prefix}_{n % 100:03d}",
            "tenant_id": "tenant_alpha",
            "event_type": "interaction",
            "timestamp": "2024-01-15T10:30:00Z",
            "source_service": "learning-app",
            "event_data": {"action": "click", "element": "next_button"},
            "metadata": {},
        }
        for n in range(number)
    ]


def mixed_events(number: int) -> Events:
    """In both forms of /events."""
    return [each for pair in zip(events(number // 2), product_events(number // 2), strict=True) for each in pair]


class Load:
    """Events posted in the background until ``finish``, by careful clients, which repeat what got a 503."""

    def __init__(self, post: Callable[[Ledger, Posted], object], ledger: Ledger | None = None) -> None:
        """``post`` is called again and again."""
        self.ledger = ledger or Ledger()
        self.posted = Posted()
        self.problem: BaseException | None = None
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(post,), daemon=True)
        self._thread.start()

    def _run(self, post: Callable[[Ledger, Posted], object]) -> None:
        try:
            for _ in range(20_000):  # bounded, however the test ends
                if self._enough.is_set():
                    return
                post(self.ledger, self.posted)
        except BaseException as error:
            self.problem = error

    def finish(self) -> None:
        self._enough.set()
        self._thread.join(240)
        assert not self._thread.is_alive(), "the load did not end"
        if self.problem is not None:
            raise self.problem


@contextmanager
def load(
    ingestion: Service,
    make: Callable[[int], Events] = events,
    *,
    batches_of: int = 0,
    ledger: Ledger | None = None,
    rate: float = 0.0,
    workers: int = 8,
) -> Iterator[Load]:
    """Load on ``ingestion`` for as long as the block runs: events that ``make`` makes, alone or in batches. ``rate``: about how
    many events per second at most, where it is given."""

    def post(ledger: Ledger, posted: Posted) -> None:
        began, number = time.monotonic(), int(rate / 2) or 500
        if batches_of:
            url = ingestion.url + "/api/v1/collect"
            post_batches(url, make(number), ledger, size=batches_of, workers=workers, within=120, posted=posted)
        else:
            post_events(ingestion.url + "/events", make(number), ledger, workers=workers, within=120, posted=posted)
        if rate:
            time.sleep(max(0.0, began + number / rate - time.monotonic()))

    made = Load(post, ledger)
    try:
        yield made
    finally:
        made.finish()


def events_flow(platform: Platform, more: int = 1) -> None:
    """Returns once ``more`` rows were stored from now on."""
    stored = count(platform.database_url)
    until("events flow", lambda: count(platform.database_url) >= stored + more)


def drained(platform: Platform, least: int) -> None:
    """Waits until the consumer has read all of the topics and ``least`` rows are stored."""
    until(f"{least} rows", lambda: count(platform.database_url) >= least, seconds=90)
    time.sleep(1.0)  # what comes after the last expected row would be a duplicate


def on_kafka(platform: Platform, bootstrap: str, **extra: str) -> Platform:
    """The same platform on another Kafka; ``extra`` settings for each of its services."""
    other = {"KAFKA_BOOTSTRAP_SERVERS": bootstrap, **extra}
    return replace(platform, settings={**platform.settings, **other}, start=partial(platform.start, **other))


def assert_each_once(platform: Platform, ledger: Ledger, *posted: Posted) -> int:
    """Every event was acknowledged, and is stored once; of each user they came first in the order in which they were sent.
    How many records the topics hold that are there already."""
    for each in posted:
        assert not each.undecided, each.undecided
        assert not each.rejected, each.rejected
    acknowledged = [event_id for each in posted for event_id in each.acknowledged]
    assert acknowledged, "nothing was sent"
    drained(platform, len(acknowledged))
    verdict = judge(ledger, Sinks.of(platform))
    verdict.assert_clean()
    assert verdict.stored == len(acknowledged) == len(set(acknowledged))
    assert (verdict.dead, verdict.quarantined) == (0, 0)
    return assert_in_order(platform, ledger)


def assert_in_order(platform: Platform, ledger: Ledger) -> int:
    """Of each user the events came first, within a topic, in the order in which they were sent. How many records are there
    already."""
    sent, repeated = ledger.order(), 0
    for topic in (platform.topic, platform.product_topic):
        found = arrived(platform.settings["KAFKA_BOOTSTRAP_SERVERS"], topic)
        assert out_of_order(sent, found.order) == {}, topic
        repeated += found.repeated
    return repeated
