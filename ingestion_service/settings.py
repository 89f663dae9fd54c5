"""Settings of the ingestion service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from event_core import settings as shared
from event_core.event import MAX_DEPTH, MAX_EVENT_BYTES
from event_core.kafka import Compression
from event_core.settings import KafkaSettings, Ports, RetentionSettings, split_list
from ingestion_service.limits import Limits

DEFAULT_BUFFER_DIR = Path("./data/buffer")


def _buffer_dir() -> Path | None:
    """None where BUFFER_DIR is set to nothing, which turns the buffer off; everywhere else an empty setting is an unset one."""
    given = os.environ.get("BUFFER_DIR", dotenv_values(shared.ENV_FILE).get("BUFFER_DIR", "unset"))
    return None if given == "" else DEFAULT_BUFFER_DIR


Origins = Annotated[list[str], NoDecode, BeforeValidator(split_list)]


class IngestionSettings(KafkaSettings, RetentionSettings):
    service_name: str = Field("ingestion_service", description="Name in traces and logs")
    ingestion_ports: Ports = Field(
        [8001, 8004, 8000], description="Ports of the API, comma-separated; the first is the one shown in messages"
    )
    ingestion_max_body_bytes: int = Field(
        1 << 20, ge=1024, description="Largest body of POST /events, after decompression"
    )
    ingestion_max_batch_bytes: int = Field(
        10 << 20, ge=1024, description="Largest body of POST /api/v1/collect, after decompression"
    )
    ingestion_max_event_bytes: int = Field(
        MAX_EVENT_BYTES, ge=1024, le=MAX_EVENT_BYTES, description="Largest event once encoded"
    )
    ingestion_max_depth: int = Field(MAX_DEPTH, ge=2, le=MAX_DEPTH, description="Deepest nesting of a body")
    ingestion_max_separators: int = Field(
        100_000, ge=100, description="Most commas, colons and brackets in a body: they cost memory, not bytes"
    )
    ingestion_max_inflight_bytes: int = Field(
        64 << 20, ge=1 << 20, description="Bytes of bodies that may be worked on at once; beyond, 503"
    )
    ingestion_max_pending_bytes: int = Field(
        64 << 20, ge=1 << 20, description="Bytes that may wait for Kafka's or the disk's acknowledgement; beyond, 503"
    )
    ingestion_body_timeout_seconds: float = Field(30.0, gt=0, description="Longest wait for the rest of a body")
    ingestion_dedupe_events: int = Field(
        100_000, ge=0, description="Event ids remembered to answer `duplicate`; 0 turns that off"
    )
    ingestion_dedupe_minutes: float = Field(10.0, gt=0, description="How long an event id is remembered")
    ingestion_cors_origins: Origins = Field(
        [], description="Origins whose pages may call the API, comma-separated, or *; empty turns CORS off"
    )
    ingestion_cors_credentials: bool = Field(
        False, description="Whether such pages may send cookies (sendBeacon does); not with *"
    )
    kafka_publish_timeout_seconds: float = Field(
        4.0, gt=0, description="Longest wait for Kafka's acknowledgement; then the breaker opens"
    )
    kafka_max_retries: int = Field(
        3, ge=0, description="Failures of one event (never an outage) before it is quarantined"
    )
    kafka_max_in_flight: int = Field(
        1, ge=1, le=1, description="Batches in flight per partition; only 1 keeps the order through a failure"
    )
    kafka_acks: Literal["all", "1", "0"] = Field(
        "all", description="Anything but all gives up durability, and idempotence with it"
    )
    kafka_compression_type: Compression = Field("lz4", description="none, gzip, snappy, lz4 or zstd")
    buffer_dir: Path | None = Field(
        default_factory=_buffer_dir, description="Folder of the disk buffer; set to nothing it turns the buffer off"
    )
    max_buffer_size_mb: int = Field(
        100, ge=8, description="Most disk space of the buffer, in MiB, of all processes together"
    )

    @model_validator(mode="before")
    @classmethod
    def _off_in_the_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        # An empty variable was skipped by now, so that the file's value would stand in its place.
        return {**given, "buffer_dir": None} if os.environ.get("BUFFER_DIR") == "" else given

    @model_validator(mode="after")
    def _no_credentials_for_everybody(self) -> Self:
        if self.ingestion_cors_credentials and "*" in self.ingestion_cors_origins:
            raise ValueError(
                "INGESTION_CORS_CREDENTIALS needs the origins by name: * would let any page act for a user"
            )
        return self

    @property
    def limits(self) -> Limits:
        return Limits(
            self.ingestion_max_event_bytes,
            self.ingestion_max_depth,
            self.ingestion_max_separators,
            retention_days=self.retention_days,
        )
