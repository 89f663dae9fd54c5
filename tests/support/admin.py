"""What tests change and ask about topics, with a client of their own. May be called within an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

T = TypeVar("T")

SECONDS = 30.0
SET_ON_THE_TOPIC = 1
"""Kafka's ConfigSource DYNAMIC_TOPIC_CONFIG."""


def make_topic(bootstrap: str, topic: str, partitions: int = 1, replicas: int = 1, **configs: object) -> None:
    """Returns once every partition has a leader. ``configs`` as in `alter_topic`."""

    async def make(admin: AIOKafkaAdminClient) -> None:
        wanted = NewTopic(topic, partitions, replicas, topic_configs=_configs(configs))
        [(_, code, *message)] = (await admin.create_topics([wanted])).topic_errors
        assert code == 0, f"{topic} was not made: error {code} {message}"

    _with_admin(bootstrap, make)
    deadline = time.monotonic() + SECONDS
    while (found := leaders(bootstrap, topic)).keys() != set(range(partitions)) or None in found.values():
        assert time.monotonic() < deadline, f"{topic} has no leader after {SECONDS:g} s: {found}"
        time.sleep(0.1)


def alter_topic(bootstrap: str, topic: str, **configs: object) -> None:
    """Sets configurations of a topic, e.g. ``min_insync_replicas=2`` (dots as underscores); None takes one back."""

    async def alter(admin: AIOKafkaAdminClient) -> None:
        # Kafka's request replaces all of them, so those that are set already have to be said again.
        kept = {**await _set_configs(admin, topic), **_configs(configs)}
        wanted = {name: value for name, value in kept.items() if configs.get(name.replace(".", "_"), "") is not None}
        for response in await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, wanted)]):
            for code, message, *_ in response.resources:
                assert code == 0, f"{topic} was not altered: error {code} {message}"

    _with_admin(bootstrap, alter)


def truncate(bootstrap: str, topic: str, partition: int, begin: int) -> None:
    """Drops the records before the offset ``begin``, as retention does."""

    async def drop(admin: AIOKafkaAdminClient) -> None:
        await admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(begin)})

    _with_admin(bootstrap, drop)


def remake_topic(bootstrap: str, topic: str, partitions: int = 1) -> None:
    """Deletes the topic and makes it again, empty."""

    async def delete(admin: AIOKafkaAdminClient) -> None:
        [(_, code)] = (await admin.delete_topics([topic])).topic_error_codes
        assert code == 0, f"{topic} was not deleted: error {code}"
        while topic in await admin.list_topics():
            await asyncio.sleep(0.1)

    _with_admin(bootstrap, delete)
    make_topic(bootstrap, topic, partitions)


def topic_configs(bootstrap: str, topic: str) -> dict[str, str]:
    """What is set on the topic itself."""
    return _with_admin(bootstrap, lambda admin: _set_configs(admin, topic))


def leaders(bootstrap: str, topic: str) -> dict[int, int | None]:
    """Partition -> the node that leads it, None where none does."""

    async def describe(admin: AIOKafkaAdminClient) -> dict[int, int | None]:
        [found] = await admin.describe_topics([topic])
        return {each["partition"]: each["leader"] if each["leader"] >= 0 else None for each in found["partitions"]}

    return _with_admin(bootstrap, describe)


def in_sync(bootstrap: str, topic: str) -> dict[int, set[int]]:
    """Partition -> the nodes whose replicas are in sync."""

    async def describe(admin: AIOKafkaAdminClient) -> dict[int, set[int]]:
        [found] = await admin.describe_topics([topic])
        return {each["partition"]: set(each["isr"]) for each in found["partitions"]}

    return _with_admin(bootstrap, describe)


def _configs(given: dict[str, Any]) -> dict[str, str]:
    return {name.replace("_", "."): str(value) for name, value in given.items()}


async def _set_configs(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    [response] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    [(code, message, _, _, entries)] = response.resources
    assert code == 0, f"{topic} was not described: error {code} {message}"
    return {name: value for name, value, _, source, *_ in entries if source == SET_ON_THE_TOPIC}


def _with_admin(bootstrap: str, work: Callable[[AIOKafkaAdminClient], Awaitable[T]]) -> T:
    """What ``work`` returns; tried again while Kafka answers with an error that passes."""

    async def once() -> T:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5_000)
        try:
            await admin.start()
            return await work(admin)
        finally:
            await admin.close()

    async def until_it_works() -> T:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return await once()
            except (KafkaError, OSError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    with ThreadPoolExecutor(1) as pool:  # the caller's thread may already run a loop
        return pool.submit(lambda: asyncio.run(until_it_works())).result()
