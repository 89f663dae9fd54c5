"""Kafka away, slow, frozen, back: the collector takes events all the while, and none of them is lost, doubled or out of order.

The numbers are the fault matrix's rows in the design. Times are bounds that only a fault reaches; what is promised is measured by
`make bench`.
"""

from __future__ import annotations

import random
import time
import uuid
from array import array
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest

from tests.conftest import Platform
from tests.e2e.clients import Posted, post_batches, post_events
from tests.e2e.load import (
    assert_each_once,
    assert_in_order,
    drained,
    events,
    events_flow,
    learner_events,
    load,
    mixed_events,
)
from tests.e2e.oracle import Ledger, compare
from tests.e2e.sinks import Sinks, arrived, judge
from tests.support.backend import Backend
from tests.support.process import Service
from tests.support.topics import scan
from tests.support.wait import count, until

pytestmark = pytest.mark.e2e

BREAKER_SECONDS = 8.0
"""The breaker opens within 5 s; so long a request may take at most."""


def waiting(service: Service) -> int:
    """Events on disk."""
    return int(service.get("/api/v1/metrics").json()["buffer_events_count"])


def drained_to_kafka(service: Service) -> bool:
    return waiting(service) == 0 and service.get("/api/v1/health").json()["status"] == "healthy"


def test_row_1_the_broker_comes_after_the_collector(platform: Platform, backend: Backend) -> None:
    ledger = Ledger()
    backend.kill_kafka()
    try:
        ingestion = platform.start("ingestion_service")
        reply = httpx.post(ingestion.url + "/events", json={"user_id": "u", "event_name": "e"})
        assert reply.status_code == 202
        assert reply.json()["warnings"]
        one_by_one = post_events(ingestion.url + "/events", mixed_events(200), ledger)
        batches = post_batches(ingestion.url + "/api/v1/collect", learner_events(500), ledger)
        assert ingestion.get("/health/ready").status_code == 200
        health = ingestion.get("/api/v1/health").json()
        assert (health["status"], health["kafka_connected"]) == ("degraded", False)
        assert health["buffer_status"]["buffered_batches"] > 0
        assert waiting(ingestion) == 701
        assert ingestion.metric("ingestion_spooling") == 1
    finally:
        backend.start_kafka()
    until("all are in Kafka", lambda: drained_to_kafka(ingestion), seconds=20)
    platform.start("event_consumer")
    until("the first event is stored", lambda: count(platform.database_url) == 701)
    assert_in_order(platform, ledger)
    assert {*one_by_one.statuses(), *batches.statuses()} == {200, 202}
    missing = compare(ledger.entries(), arrived(backend.kafka, platform.topic, platform.product_topic).copies, []).lost
    assert not missing


@pytest.mark.parametrize(
    "seconds",
    [5, *(pytest.param(long, marks=[pytest.mark.exhaustive, pytest.mark.timeout(600)]) for long in (45, 120))],
)
def test_row_3_a_frozen_broker(platform: Platform, backend: Backend, seconds: int) -> None:
    ingestion = platform.start("ingestion_service")
    consumer = platform.start("event_consumer")
    with (
        load(ingestion, mixed_events, rate=300) as single,
        load(ingestion, learner_events, batches_of=50, rate=1_000, workers=2) as batched,
    ):
        events_flow(platform, 100)
        backend.pause_kafka()
        try:
            time.sleep(seconds)
        finally:
            backend.resume_kafka()
        until("Kafka takes all again", lambda: drained_to_kafka(ingestion))
    for work in (single, batched):
        assert work.posted.statuses() <= {200, 202}
        assert work.posted.seconds(share=1.0) < BREAKER_SECONDS
    both = Ledger.of(single.ledger, batched.ledger)
    assert_each_once(platform, both, single.posted, batched.posted)
    if seconds > 5:
        platform.must_stay_sound.remove(consumer)  # aiokafka reports a commit that it gave up on, with a traceback


def test_row_3_a_slow_network(platform: Platform, backend: Backend) -> None:
    with backend.kafka_behind() as proxy:
        ingestion = platform.start("ingestion_service", KAFKA_BOOTSTRAP_SERVERS=proxy.address)
        platform.start("event_consumer")
        with load(ingestion, mixed_events) as work:
            events_flow(platform, 100)
            proxy.delay(to_client=2.0)
            time.sleep(6)
            proxy.heal()
            until("Kafka takes all again", lambda: drained_to_kafka(ingestion))
        assert work.posted.statuses() == {202}
        assert work.posted.seconds(share=1.0) < BREAKER_SECONDS
        assert_each_once(platform, work.ledger, work.posted)


def test_rows_2_and_14_half_an_hour_of_events_drains_beside_new_ones(platform: Platform, backend: Backend) -> None:
    preloaded = 60_000
    ingestion = platform.start("ingestion_service")
    until("it is connected", lambda: drained_to_kafka(ingestion))
    ledger = Ledger()
    with load(ingestion, partial(events, prefix="fresh"), rate=200, workers=4) as fresh:
        time.sleep(2)
        steady_until = time.monotonic() - 0.5
        backend.kill_kafka()
        preload = post_batches(
            ingestion.url + "/api/v1/collect", learner_events(preloaded), ledger, size=1_000, workers=2
        )
        assert waiting(ingestion) >= preloaded
        until("the journals are compacted", lambda: bytes_per_event(ingestion) < 60)
        backend.start_kafka()
        back = time.monotonic()
        until("all is in Kafka", lambda: drained_to_kafka(ingestion))
        ended = time.monotonic()
    assert preload.statuses() == {200}
    assert fresh.posted.statuses() == {202}
    assert fresh.posted.seconds(share=1.0) < BREAKER_SECONDS
    steady, draining = fresh.posted.seconds(0, steady_until), fresh.posted.seconds(back, ended)
    assert draining < 5 * steady + 0.5, "new events do not suffer from the old ones"
    assert preloaded / (ended - back) > 1_000
    both = Ledger.of(ledger, fresh.ledger)
    assert_in_order(platform, both)
    found = arrived(backend.kafka, platform.topic)
    compare(both.entries(), found.copies, []).assert_clean()
    assert len(found.copies) == preloaded + len(fresh.posted.acknowledged)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_rows_2_and_14_half_an_hour_at_2000_a_second_fits_and_drains(platform: Platform, backend: Backend) -> None:
    """3.6 million of the requirements' example events within MAX_BUFFER_SIZE_MB=100, sent in an eighth of the time."""
    backend.kill_kafka()
    try:
        ingestion = platform.start("ingestion_service", MAX_BUFFER_SIZE_MB="100")
        old, new = ExampleEvents("learner"), ExampleEvents("new")
        assert old.post(ingestion, 3_600, of=1_000, rate=15_000) == {200}, "all are taken"
        assert waiting(ingestion) == 3_600_000
        until("compacted", lambda: bytes_per_event(ingestion) < 29)
    finally:
        backend.start_kafka()
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(until, "all is in Kafka", lambda: drained_to_kafka(ingestion), 1_200)
        statuses = set()
        while not ended.done():
            statuses |= new.post(ingestion, 40, of=100, rate=2_000)
        ended.result()
    assert 3_600_000 / (time.monotonic() - began) > 2_000
    assert statuses == {200}
    arrived: defaultdict[str, array[int]] = defaultdict(lambda: array("Q"))
    scan(
        backend.kafka,
        platform.topic,
        lambda record: arrived[(record.key or b"").decode()].append(first_half(record.headers["event-id"].decode())),
    )
    sent = {**old.sent, **new.sent}
    assert arrived.keys() == sent.keys()
    for learner, ids in sent.items():
        assert list(dict.fromkeys(arrived[learner])) == list(ids), learner


class ExampleEvents:
    """The requirements' example event with random ids, of a thousand learners; the order of each learner's events is known."""

    TEXT = (
        '{"event_id":"%s","learner_id":"%s","tenant_id":"tenant_alpha","event_type":"interaction",'
        '"timestamp":"2024-01-15T10:30:00Z","source_service":"learning-app",'
        '"event_data":{"action":"click","element":"next_button"},"metadata":{}}'
    )

    def __init__(self, name: str) -> None:
        self.sent: dict[str, array[int]] = {f"{name}_{number:03d}": array("Q") for number in range(1_000)}
        self._learners = list(self.sent)

    def post(self, service: Service, batches: int, *, of: int, rate: float) -> set[int]:
        """The statuses that came back, one batch after the other, at ``rate`` events per second at most."""
        statuses, began = set(), time.monotonic()
        with httpx.Client(timeout=60, trust_env=False) as client:
            for number in range(1, batches + 1):
                texts = []
                for learner in random.choices(self._learners, k=of):
                    event_id = str(uuid.uuid4())
                    self.sent[learner].append(first_half(event_id))
                    texts.append(self.TEXT % (event_id, learner))
                body = f"[{','.join(texts)}]".encode()
                statuses.add(client.post(service.url + "/api/v1/collect", content=body).status_code)
                time.sleep(max(0.0, began + number * of / rate - time.monotonic()))
        return statuses


def first_half(event_id: str) -> int:
    """64 random bits are enough to tell some million ids apart."""
    return int(event_id[:8] + event_id[9:13] + event_id[14:18], 16)


def bytes_per_event(service: Service) -> float:
    """Disk space of the buffer per event on it, without what it always takes."""
    fixed = 2 << 20
    size = float(service.get("/api/v1/health").json()["buffer_status"]["buffer_size_mb"]) * (1 << 20)
    return (size - fixed) / max(1, waiting(service))


def test_a_full_buffer_answers_503_with_a_time_to_wait_and_takes_again_after(
    platform: Platform, backend: Backend
) -> None:
    def large(number: int, user: str = "early") -> list[dict[str, Any]]:
        return [{**event, "metadata": {"noise": random.randbytes(25_000).hex()}} for event in events(number, user)]

    ledger, posted = Ledger(), Posted()
    backend.kill_kafka()
    try:
        ingestion = platform.start("ingestion_service", MAX_BUFFER_SIZE_MB="8")
        url = ingestion.url + "/events"

        def only_refusals() -> bool:
            """Of some events; those that are taken are noted."""
            before = len(posted.acknowledged)
            post_events(url, large(60), ledger, workers=4, within=0.5, posted=posted)
            return len(posted.acknowledged) == before

        until("the buffer is full", only_refusals)
        assert posted.statuses() == {202, 503}
        reply = httpx.post(url, json=large(1)[0], timeout=20)
        assert (reply.status_code, reply.json()["error_code"], reply.json()["retryable"]) == (503, "buffer_full", True)
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        batch = [{**event, "event_data": large(1)[0]["metadata"]} for event in learner_events(10)]
        assert httpx.post(ingestion.url + "/api/v1/collect", json=batch, timeout=20).status_code == 503
        assert ingestion.get("/health/ready").status_code == 503
        assert ingestion.get("/api/v1/health").json()["buffer_status"]["buffer_size_mb"] <= 8
        with load(ingestion, lambda _: large(50, "late"), workers=4) as work:
            backend.start_kafka()
            until("Kafka takes all again", lambda: drained_to_kafka(ingestion))
    finally:
        backend.start_kafka()
    platform.start("event_consumer")
    acknowledged = len(posted.acknowledged) + len(work.posted.acknowledged)
    drained(platform, acknowledged)
    judge(Ledger.of(ledger, work.ledger), Sinks.of(platform)).assert_clean()
    assert count(platform.database_url) == acknowledged, "what was refused is nowhere"
