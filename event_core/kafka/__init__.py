"""Kafka: topics, the producer's connection, the consumer's source. The only importer of aiokafka.

What aiokafka 0.14 needs to be handled with care is written where it is handled: a producer whose batch failed for good is
thrown away, never stopped; topics' errors are read, not raised; nobody consumes before its stored offset is known.
"""

from typing import Literal

REQUEST_TIMEOUT_MS = 10_000
METADATA_MAX_AGE_MS = 30_000
"""How soon new partitions are noticed."""

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
