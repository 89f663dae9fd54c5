"""Settings of the event consumer."""

from __future__ import annotations

from pydantic import Field

from event_core.settings import KafkaSettings, Port, PostgresSettings


class ConsumerSettings(KafkaSettings, PostgresSettings):
    service_name: str = Field("event_consumer", description="Name in traces and logs")
    consumer_port: Port = Field(8003, description="Port of health and metrics")
    kafka_group_id: str = Field("event_consumer", description="Consumer group; the stored offsets belong to it")
    kafka_group_instance_id: str | None = Field(
        None, description="Unique per process: a restart then takes its partitions back at once"
    )
    consumer_batch_size: int = Field(5_000, ge=1, le=50_000, description="Messages per transaction at most")
    consumer_batch_bytes: int = Field(
        16 << 20, ge=1 << 20, description="Bytes of messages per transaction, about at most"
    )
    consumer_batch_age_seconds: float = Field(
        0.2, ge=0, description="A smaller batch is written once its first message is this old"
    )
