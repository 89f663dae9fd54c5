"""Clusters that lack a node, and a broker that moves: what can flow flows, the rest waits on disk and follows by itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Platform
from tests.e2e.clients import post_events
from tests.e2e.load import Load, assert_each_once, events, events_flow, load, mixed_events, on_kafka
from tests.e2e.oracle import Ledger
from tests.support.admin import in_sync, leaders, make_topic
from tests.support.brokers import MovingBroker, ThreeBrokers
from tests.support.process import Service
from tests.support.wait import until

pytestmark = pytest.mark.e2e

BREAKER_SECONDS = 8.0
"""The breaker opens within 5 s; so long a request may take at most."""
PARTITIONS = 6


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeBrokers]:
    with ThreeBrokers(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def flowing(service: Service) -> bool:
    """Whether nothing waits on disk, and new events go to Kafka at once."""
    return bool(service.get("/api/v1/health").json()["status"] == "healthy")


def in_kafka_at_once(service: Service) -> float:
    return service.metric("ingestion_events_accepted_total", stored="kafka")


def connected(platform: Platform) -> Service:
    """The collector, once it is connected, and a consumer beside it."""
    ingestion = platform.start("ingestion_service")
    platform.start("event_consumer")
    until("it is connected", lambda: flowing(ingestion))
    return ingestion


def events_reach_kafka(ingestion: Service, what: str) -> None:
    before = in_kafka_at_once(ingestion)
    until(what, lambda: in_kafka_at_once(ingestion) > before + 100)


def assert_taken(work: Load) -> None:
    assert work.posted.statuses() == {202}
    assert work.posted.seconds(share=1.0) < BREAKER_SECONDS


def test_row_4_too_few_replicas(platform: Platform, cluster: ThreeBrokers) -> None:
    # The controllers vote with two of three nodes, so two nodes are left: partitions on the third lack a replica.
    platform = on_kafka(platform, cluster.bootstrap, KAFKA_REPLICATION_FACTOR="2")
    for topic in (platform.topic, platform.product_topic):
        make_topic(cluster.bootstrap, topic, PARTITIONS, 2, min_insync_replicas=2)
    ingestion = connected(platform)
    with load(ingestion, mixed_events) as work:
        events_flow(platform, 100)
        cluster.kill(3)
        try:
            until(
                "one is missed",
                lambda: any(len(found) < 2 for found in in_sync(cluster.bootstrap, platform.topic).values()),
            )
            until("some wait on disk", lambda: not flowing(ingestion))
            events_reach_kafka(ingestion, "others flow")
            events_flow(platform, 100)
        finally:
            cluster.start(3)
        until(
            "all are in sync",
            lambda: all(len(found) == 2 for found in in_sync(cluster.bootstrap, platform.topic).values()),
        )
        until("all flow", lambda: flowing(ingestion), seconds=30)
    assert_taken(work)
    assert_each_once(platform, work.ledger, work.posted)


def test_row_5_a_partition_without_a_leader(platform: Platform, cluster: ThreeBrokers) -> None:
    platform = on_kafka(platform, cluster.bootstrap)
    make_topic(cluster.bootstrap, platform.topic, PARTITIONS)
    make_topic(cluster.bootstrap, platform.product_topic, PARTITIONS)
    make_topic(cluster.bootstrap, platform.dlq_topic, 1, 3)
    ingestion = connected(platform)
    with load(ingestion, mixed_events) as work:
        events_flow(platform, 100)
        cluster.kill(2)
        try:
            until("no leader", lambda: None in leaders(cluster.bootstrap, platform.topic).values())
            until("some wait on disk", lambda: not flowing(ingestion))
            events_reach_kafka(ingestion, "others flow")
        finally:
            cluster.start(2)
        until("all flow", lambda: flowing(ingestion), seconds=30)
    assert_taken(work)
    assert_each_once(platform, work.ledger, work.posted)


def test_row_7_the_brokers_address_changes(platform: Platform, tmp_path: Path) -> None:
    with MovingBroker(tmp_path / "broker") as broker:
        platform = on_kafka(platform, broker.bootstrap)
        ingestion = platform.start("ingestion_service")
        until("it is connected", lambda: flowing(ingestion))
        with load(ingestion, mixed_events, rate=200, workers=4) as work:
            events_reach_kafka(ingestion, "events flow")
            broker.move()
            before = in_kafka_at_once(ingestion)
            until(
                "they flow again", lambda: flowing(ingestion) and in_kafka_at_once(ingestion) > before + 100, seconds=30
            )
        assert_taken(work)
        late = Ledger()
        posted = post_events(ingestion.url + "/events", partial(events, prefix="late")(50), late)
        platform.start("event_consumer")
        assert_each_once(platform, Ledger.of(work.ledger, late), work.posted, posted)
