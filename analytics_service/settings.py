"""Settings of the analytics service."""

from __future__ import annotations

from pydantic import Field

from event_core.settings import Port, PostgresSettings


class AnalyticsSettings(PostgresSettings):
    service_name: str = Field("analytics_service", description="Name in traces and logs")
    analytics_port: Port = Field(8002, description="Port of the API")
    analytics_pool_size: int = Field(8, ge=1, description="Database connections at most")
    analytics_statement_timeout_seconds: float = Field(
        15.0, gt=0, description="Longest run of one query in the database"
    )
