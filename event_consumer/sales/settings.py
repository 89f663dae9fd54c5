"""Settings of the sales pipeline. Names and defaults are those of the Sales Ingest Service; a ``SALES_`` name wins where the
platform's other services read the plain one too (and, as ever, the environment over ``.env``)."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, model_validator

from event_consumer.settings import PipelineSettings
from event_core.settings import Port, TopicName


class SalesSettings(PipelineSettings):
    service_name: str = Field("sales_ingest", description="Name in traces and logs")
    sales_port: Port = Field(8005, description="Port of the API")
    metrics_port: Port | None = Field(
        8006,
        validation_alias=AliasChoices("SALES_METRICS_PORT", "METRICS_PORT"),
        description="Port of the metrics, besides the API's (also METRICS_PORT)",
    )
    sales_topic: TopicName = Field(
        "sales_txn",
        validation_alias=AliasChoices("SALES_TOPIC", "KAFKA_TOPIC"),
        description="Topic of the sales (also KAFKA_TOPIC)",
    )
    sales_topic_partitions: int = Field(3, ge=1, description="Partitions of the sales' topic where it has to be made")
    sales_dlq_topic: TopicName | None = Field(
        None, description="Topic of the sales that are set aside; unset: the sales' topic with -dlq behind it"
    )
    kafka_group_id: str = Field(
        "ingest_service",
        validation_alias=AliasChoices("SALES_GROUP_ID", "KAFKA_GROUP_ID"),
        description="Consumer group; its offsets are Kafka's (also KAFKA_GROUP_ID)",
    )
    mongodb_url: str = Field(
        "mongodb://admin:password@localhost:27017/sales_db?authSource=admin",
        description="MongoDB connection string",
    )
    mongodb_database: str = Field("sales_db", min_length=1, description="Database of the sales")
    mongodb_collection: str = Field("raw_sales", min_length=1, description="Collection of the sales")
    mongodb_timeout_seconds: float = Field(30.0, ge=0.1, le=3600, description="Longest wait for one answer of MongoDB")
    batch_size: int = Field(100, ge=1, le=50_000, description="Sales per write at most")
    flush_interval: float = Field(5.0, ge=0, description="Seconds after its first sale that a smaller batch is written")
    max_retries: int = Field(
        3, ge=1, description="Refusals of one sale by its own fault before it is set aside; an outage never counts"
    )
    admin_api_key: SecretStr | None = Field(
        None, min_length=16, description="Opens POST /shutdown; unset, that route is closed"
    )

    @property
    def dlq_topic(self) -> str:
        """Where sales are set aside."""
        return self.sales_dlq_topic or f"{self.sales_topic}-dlq"

    @model_validator(mode="after")
    def _a_topic_of_its_own(self) -> Self:
        if self.sales_topic in ("events", "product_events", "events-dlq"):
            raise ValueError(
                f"KAFKA_TOPIC={self.sales_topic} is a topic of the events; sales have one of their own: set SALES_TOPIC"
            )
        if self.dlq_topic in (self.sales_topic, "events", "product_events", "events-dlq") or len(self.dlq_topic) > 249:
            raise ValueError("SALES_DLQ_TOPIC must be a topic of its own, of at most 249 characters")
        if self.kafka_group_id == "event_consumer":
            raise ValueError("KAFKA_GROUP_ID=event_consumer is the events' group: set SALES_GROUP_ID")
        return self

    @model_validator(mode="after")
    def _mongodb_uri(self) -> Self:
        try:
            parts = urlsplit(self.mongodb_url)
        except ValueError:
            raise ValueError(
                "MONGODB_URL is no URI: percent-encode what is special in the user's name and password"
            ) from None
        if parts.scheme not in ("mongodb", "mongodb+srv") or not parts.netloc:
            raise ValueError(
                "MONGODB_URL must have the form mongodb://user:password@host:port/database?authSource=admin"
            )
        return self
