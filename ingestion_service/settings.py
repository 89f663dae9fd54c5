"""Settings of the ingestion service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from event_core.kafka import Compression
from event_core.settings import KafkaSettings, Ports


class IngestionSettings(KafkaSettings):
    service_name: str = Field("ingestion_service", description="Name in traces and logs")
    ingestion_ports: Ports = Field(
        [8001, 8004, 8000], description="Ports of the API, comma-separated; the first is the one shown in messages"
    )
    ingestion_max_body_bytes: int = Field(1 << 20, ge=1024, description="Largest body of POST /events")
    ingestion_max_pending_bytes: int = Field(
        64 << 20, ge=1 << 20, description="Bytes that may wait for Kafka's acknowledgement; beyond, 503"
    )
    ingestion_body_timeout_seconds: float = Field(30.0, gt=0, description="Longest wait for the rest of a body")
    kafka_publish_timeout_seconds: float = Field(
        5.0, gt=0, description="Longest wait for Kafka's acknowledgement; then 503 and a new connection"
    )
    kafka_acks: Literal["all", "1", "0"] = Field(
        "all", description="Anything but all gives up durability, and idempotence with it"
    )
    kafka_compression_type: Compression = Field("lz4", description="none, gzip, snappy, lz4 or zstd")
