"""Topic and header names, and which partition a key belongs to. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

HEADER_EVENT_ID = "event-id"
HEADER_CONTENT_TYPE = "content-type"
HEADER_SCHEMA = "schema"
HEADER_TRACEPARENT = "traceparent"

EVENT_SCHEMA = b"event/1"
"""Name and version of the message form; readers accept every older version (docs/wire-contract.md)."""

DLQ_MAX_MESSAGE_BYTES = 2 << 20
"""max.message.bytes of the dead letters' topic: a message that some topic took at its limit of 1 MiB fits with its headers."""


class TopicPartition(NamedTuple):
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class TopicSpec(NamedTuple):
    """A topic as the platform wants it: made where it is missing, a difference is logged.

    ``configs`` are Kafka's names of what differs from the broker's defaults; they count only where the topic is made.
    """

    name: str
    partitions: int
    replication_factor: int
    configs: Mapping[str, str] = MappingProxyType({})


def key_hash(key: bytes) -> int:
    """CRC-32: what decides the partition."""
    return zlib.crc32(key)


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of ``key``: CRC-32 modulo ``partitions``, as librdkafka's ``consistent`` partitioner does.

    Every writer of the platform must use it: one user's events stay in one partition, hence in order.
    """
    return zlib.crc32(key) % partitions
