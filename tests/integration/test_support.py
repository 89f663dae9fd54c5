"""The tests' own tools for breaking Kafka do what they say."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError, NotEnoughReplicasError

from tests.support.admin import alter_topic, in_sync, leaders, make_topic, topic_configs
from tests.support.backend import Backend
from tests.support.brokers import MovingBroker, ThreeBrokers
from tests.support.wait import until
from tools.stack.broker import ask

pytestmark = pytest.mark.integration


def new_topic(bootstrap: str, partitions: int = 1, replicas: int = 1, **configs: object) -> str:
    topic = f"t-{uuid.uuid4().hex[:8]}"
    make_topic(bootstrap, topic, partitions, replicas, **configs)
    return topic


def send(bootstrap: str, topic: str, value: bytes = b"x", seconds: float = 10.0, partition: int = 0) -> float:
    """How long the acknowledgement took. Raises KafkaError where there is none."""

    async def produce() -> float:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", request_timeout_ms=int(seconds * 1000))
        try:
            await producer.start()
            began = time.monotonic()
            await producer.send_and_wait(topic, value, partition=partition)
            return time.monotonic() - began
        finally:
            await producer.stop()

    return asyncio.run(produce())


def read(bootstrap: str, topic: str, least: int) -> list[bytes]:
    async def consume() -> list[bytes]:
        async with asyncio.timeout(30):
            async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
                return [(await consumer.getone()).value for _ in range(least)]

    return asyncio.run(consume())


def test_clients_behind_the_proxy_have_no_other_way_to_kafka(backend: Backend) -> None:
    with backend.kafka_behind() as proxy:
        topic = new_topic(proxy.address)
        assert send(proxy.address, topic) < 0.5
        proxy.delay(to_client=0.5)
        assert send(proxy.address, topic) > 0.5
        proxy.freeze()
        assert ask(proxy.address) is not None
        assert send(backend.kafka, topic) < 0.5, "the ordinary way is open"
        proxy.refuse()
        assert ask(proxy.address) is not None
    with backend.kafka_behind() as proxy:
        assert len(read(proxy.address, topic, 3)) == 3


def test_a_topics_configuration_can_be_changed_and_taken_back(backend: Backend) -> None:
    topic = new_topic(backend.kafka, max_message_bytes=100_000)
    send(backend.kafka, topic, b"x" * 10_000)
    alter_topic(backend.kafka, topic, min_insync_replicas=2)
    assert topic_configs(backend.kafka, topic) == {"max.message.bytes": "100000", "min.insync.replicas": "2"}
    alter_topic(backend.kafka, topic, min_insync_replicas=None, max_message_bytes=1_000)
    assert topic_configs(backend.kafka, topic) == {"max.message.bytes": "1000"}
    send(backend.kafka, topic)
    with pytest.raises(MessageSizeTooLargeError):
        send(backend.kafka, topic, b"x" * 10_000)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeBrokers]:
    with ThreeBrokers(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def test_a_cluster_survives_the_death_of_a_leader(cluster: ThreeBrokers) -> None:
    topic = new_topic(cluster.bootstrap, partitions=3, replicas=3, min_insync_replicas=2)
    send(cluster.bootstrap, topic, b"1")
    led_by = leaders(cluster.bootstrap, topic)[0]
    assert led_by in (1, 2, 3)
    cluster.kill(led_by)
    until("another leader", lambda: leaders(cluster.bootstrap, topic)[0] not in (None, led_by))
    send(cluster.bootstrap, topic, b"2", seconds=30)
    cluster.start(led_by)
    until("all in sync", lambda: in_sync(cluster.bootstrap, topic)[0] == {1, 2, 3})
    assert read(cluster.bootstrap, topic, 2) == [b"1", b"2"]


def test_a_topic_that_lacks_replicas_takes_nothing_until_they_are_back(cluster: ThreeBrokers) -> None:
    # Not on one broker: Kafka 4 asks for no more replicas in sync than a topic has.
    topic = new_topic(cluster.bootstrap, replicas=2, min_insync_replicas=2)
    send(cluster.bootstrap, topic)
    [follower] = in_sync(cluster.bootstrap, topic)[0] - {leaders(cluster.bootstrap, topic)[0]}
    cluster.kill(follower)
    until("one in sync", lambda: follower not in in_sync(cluster.bootstrap, topic)[0])
    with pytest.raises((NotEnoughReplicasError, KafkaTimeoutError)):
        send(cluster.bootstrap, topic, seconds=2.0)
    cluster.start(follower)
    until("two in sync", lambda: len(in_sync(cluster.bootstrap, topic)[0]) == 2)
    send(cluster.bootstrap, topic)


def test_a_partition_of_one_replica_has_no_leader_while_its_node_is_dead(cluster: ThreeBrokers) -> None:
    topic = new_topic(cluster.bootstrap, partitions=3)
    node = leaders(cluster.bootstrap, topic)[0]
    assert node is not None
    cluster.kill(node)
    until("no leader", lambda: leaders(cluster.bootstrap, topic)[0] is None)
    cluster.start(node)
    until("the leader again", lambda: leaders(cluster.bootstrap, topic)[0] == node)
    send(cluster.bootstrap, topic)


def test_a_broker_moves_with_its_data_and_the_bootstrap_address_leads_to_it(tmp_path: Path) -> None:
    with MovingBroker(tmp_path) as broker:
        topic = new_topic(broker.bootstrap)
        send(broker.bootstrap, topic, b"1")
        before = broker.address
        broker.move()
        assert broker.address != before
        send(broker.bootstrap, topic, b"2")
        assert read(broker.bootstrap, topic, 2) == [b"1", b"2"]
        assert ask(before) is not None, "nobody listens there any more"
