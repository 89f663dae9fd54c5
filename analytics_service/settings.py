"""Settings of the analytics service."""

from __future__ import annotations

from pydantic import Field

from event_core.settings import Port, PostgresSettings


class AnalyticsSettings(PostgresSettings):
    service_name: str = Field("analytics_service", description="Name in traces and logs")
    analytics_port: Port = Field(8002, description="Port of the API")
    analytics_database_role: str = Field(
        "analytics_reader", description="Role that every connection takes on; it may only read the schema analytics"
    )
    analytics_pool_size: int = Field(
        8, ge=1, description="Questions that are worked on at a time, each with a connection"
    )
    analytics_statement_timeout_seconds: float = Field(
        15.0, ge=0.002, description="Longest run of one query in the database"
    )
    analytics_row_budget: int = Field(
        20_000_000, ge=1, description="Events that one question may read one by one; what needs more is refused"
    )
    analytics_cache_mb: int = Field(64, ge=0, description="Memory for answers (MiB); 0 keeps none")
