"""The platform's topics: made where they are missing, and how large a message each takes."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import stamina
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from event_core.errors import BrokerUnavailable
from event_core.kafka import REQUEST_TIMEOUT_MS
from event_core.settings import BrokerSettings, KafkaSettings
from event_core.telemetry import get_logger
from event_core.topics import DLQ_MAX_MESSAGE_BYTES, TopicSpec

log = get_logger(__name__)

T = TypeVar("T")

TOPIC_EXISTS = 36
"""Kafka's error code TOPIC_ALREADY_EXISTS."""


def platform_topics(settings: KafkaSettings) -> tuple[TopicSpec, ...]:
    """The topics of the platform as the settings want them."""
    partitions, replicas = settings.kafka_topic_partitions, settings.kafka_replication_factor
    return (
        TopicSpec(settings.kafka_topic, partitions, replicas),
        TopicSpec(settings.kafka_product_topic, partitions, replicas),
        letters_topic(settings.dlq_topic, replicas),
    )


def letters_topic(name: str, replicas: int) -> TopicSpec:
    """A topic of dead letters."""
    return TopicSpec(name, 1, replicas, {"max.message.bytes": str(DLQ_MAX_MESSAGE_BYTES)})


async def connected(connect: Callable[[], Awaitable[T]], on_problem: Callable[[str], None]) -> T:
    """What ``connect`` returns, once it no longer raises BrokerUnavailable; ``on_problem`` is told of each that it raised."""
    async for attempt in stamina.retry_context(
        on=BrokerUnavailable, attempts=None, timeout=None, wait_initial=0.2, wait_max=2.0, wait_jitter=0.2
    ):
        with attempt:
            try:
                return await connect()
            except BrokerUnavailable as error:
                if attempt.num == 1:
                    log.warning("Kafka is away; trying again until it is back", problem=error.message)
                on_problem(error.message)
                raise
    raise AssertionError("unreachable: there is no limit to the attempts")


async def ensure_topics(settings: BrokerSettings, specs: Iterable[TopicSpec]) -> dict[str, int]:
    """Makes the topics that are missing; logs where one differs from what the platform wants, and leaves it.

    Returns the largest batch in bytes (max.message.bytes) that each takes; a topic whose limit Kafka does not tell is absent.

    Raises:
        BrokerUnavailable: Kafka does not answer, or refuses to make a topic.
    """
    wanted = {spec.name: spec for spec in specs}
    admin = AIOKafkaAdminClient(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        client_id=settings.kafka_client_id,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    try:
        await admin.start()
        missing = wanted.keys() - set(await admin.list_topics())
        if missing:  # asked only then: a service without the right to make topics can work with those that are there
            response = await admin.create_topics(
                [
                    NewTopic(
                        name,
                        wanted[name].partitions,
                        wanted[name].replication_factor,
                        topic_configs=dict(wanted[name].configs),
                    )
                    for name in sorted(missing)
                ]
            )
            # The admin client does not raise for a single topic: its errors are in the reply.
            for name, code, *message in response.topic_errors:
                if code == 0:
                    log.info("topic made", topic=name, partitions=wanted[name].partitions)
                elif code != TOPIC_EXISTS:
                    raise BrokerUnavailable(f"Kafka would not make the topic {name}: error {code} {message}")
        for found in await admin.describe_topics(list(wanted)):
            spec = wanted[found["topic"]]
            partitions = found["partitions"]
            replicas = min((len(partition["replicas"]) for partition in partitions), default=0)
            if partitions and (len(partitions), replicas) != (spec.partitions, spec.replication_factor):
                log.warning(
                    "a topic differs from the settings; it is left as it is",
                    topic=spec.name,
                    partitions=len(partitions),
                    wanted_partitions=spec.partitions,
                    replicas=replicas,
                    wanted_replicas=spec.replication_factor,
                )
        return await _message_limits(admin, wanted)
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"Kafka at {settings.kafka_bootstrap_servers} does not answer: {error!r}") from error
    finally:
        with contextlib.suppress(KafkaError, OSError):
            await admin.close()


async def _message_limits(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> dict[str, int]:
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": None}) for topic in topics]
    limits = {}
    for response in await admin.describe_configs(asked):
        for code, _, _, topic, entries, *_ in response.resources:
            for name, value, *_ in entries if code == 0 else ():  # without the right to ask, the broker's refusals tell
                if name == "max.message.bytes" and str(value).isdecimal():
                    limits[topic] = int(value)
    return limits
