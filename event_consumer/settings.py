"""Settings of the event consumer."""

from __future__ import annotations

from pydantic import AnyHttpUrl, Field, SecretStr

from event_core.settings import BrokerSettings, KafkaSettings, Port, PostgresSettings, RetentionSettings


class PipelineSettings(BrokerSettings):
    """What every pipeline reads."""

    kafka_group_instance_id: str | None = Field(
        None, description="Unique per process: a restart then takes its partitions back at once"
    )
    consumer_batch_bytes: int = Field(16 << 20, ge=1 << 20, description="Bytes of messages per write, about at most")
    consumer_breaker_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Stop where this share of the last 1,000 messages is bad: the fault is ours. 1: never",
    )


class ConsumerSettings(PipelineSettings, KafkaSettings, PostgresSettings, RetentionSettings):
    service_name: str = Field("event_consumer", description="Name in traces and logs")
    consumer_port: Port = Field(8003, description="Port of health and metrics")
    kafka_group_id: str = Field("event_consumer", description="Consumer group; the stored offsets belong to it")
    consumer_batch_size: int = Field(5_000, ge=1, le=50_000, description="Messages per transaction at most")
    consumer_batch_age_seconds: float = Field(
        0.2, ge=0, description="A smaller batch is written once its first message is this old"
    )
    consumer_max_retries: int = Field(
        3, ge=1, description="Failures of one event by its own fault before it is set aside; an outage never counts"
    )
    admin_api_key: SecretStr | None = Field(
        None, min_length=16, description="Opens /dead-letters on the consumer's port; unset, those routes are closed"
    )
    ingestion_url: AnyHttpUrl = Field(
        AnyHttpUrl("http://localhost:8001"), description="Where replays go whose bytes are a client's"
    )
    consumer_partition_days_back: int = Field(
        7, ge=0, le=366, description="Days before today that have a partition of their own"
    )
    consumer_partition_days_ahead: int = Field(
        3, ge=1, le=31, description="Days after today whose partitions are made ahead"
    )
