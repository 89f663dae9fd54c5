"""Settings: environment variables, then ``.env``, then defaults. Built once in ``__main__`` and passed down.

``--print-config`` shows each setting with where it came from; a variable that looks like one of ours but is none is warned of.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, AliasChoices, AnyHttpUrl, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from event_core.errors import ConfigurationError

ENV_FILE = ".env"

# Everything that some part of the platform reads. A service warns of a variable with one of OUR_PREFIXES that is not here, and
# of a near miss of one of its own names. tests/unit/test_settings.py holds this list against the classes and .env.example.
PLATFORM_SETTINGS = frozenset(
    """
    ENVIRONMENT LOG_LEVEL SERVICE_NAME HOST METRICS_PORT OTEL_EXPORTER_OTLP_ENDPOINT
    KAFKA_BOOTSTRAP_SERVERS KAFKA_SERVER KAFKA_TOPIC KAFKA_PRODUCT_TOPIC KAFKA_TOPIC_PARTITIONS
    KAFKA_REPLICATION_FACTOR KAFKA_CLIENT_ID
    DLQ_TOPIC KAFKA_ACKS KAFKA_COMPRESSION_TYPE KAFKA_PUBLISH_TIMEOUT_SECONDS KAFKA_GROUP_ID KAFKA_GROUP_INSTANCE_ID
    INGESTION_PORTS INGESTION_MAX_BODY_BYTES INGESTION_MAX_PENDING_BYTES INGESTION_BODY_TIMEOUT_SECONDS
    INGESTION_MAX_BATCH_BYTES INGESTION_MAX_EVENT_BYTES INGESTION_MAX_DEPTH INGESTION_MAX_SEPARATORS INGESTION_MAX_INFLIGHT_BYTES
    INGESTION_DEDUPE_EVENTS INGESTION_DEDUPE_MINUTES INGESTION_CORS_ORIGINS INGESTION_CORS_CREDENTIALS
    KAFKA_MAX_RETRIES KAFKA_MAX_IN_FLIGHT BUFFER_DIR MAX_BUFFER_SIZE_MB
    DATABASE_URL DATABASE_TIMEOUT_SECONDS
    CONSUMER_PORT CONSUMER_BATCH_SIZE CONSUMER_BATCH_BYTES CONSUMER_BATCH_AGE_SECONDS CONSUMER_MAX_RETRIES
    CONSUMER_BREAKER_SHARE
    ADMIN_API_KEY INGESTION_URL
    ANALYTICS_PORT ANALYTICS_DATABASE_ROLE ANALYTICS_POOL_SIZE ANALYTICS_STATEMENT_TIMEOUT_SECONDS
    ANALYTICS_ROW_BUDGET ANALYTICS_CACHE_MB
    CONSUMER_PARTITION_DAYS_BACK CONSUMER_PARTITION_DAYS_AHEAD RETENTION_DAYS
    SALES_PORT SALES_METRICS_PORT SALES_TOPIC SALES_TOPIC_PARTITIONS SALES_DLQ_TOPIC SALES_GROUP_ID
    MONGODB_URL MONGODB_DATABASE MONGODB_COLLECTION MONGODB_TIMEOUT_SECONDS BATCH_SIZE FLUSH_INTERVAL MAX_RETRIES
    STACK KAFKA_PORT KAFKA_CONTROLLER_PORT POSTGRES_PORT POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB
    MONGO_PORT MONGO_USER MONGO_PASSWORD MONGO_CONTAINER
    PROMETHEUS_PORT OTLP_GRPC_PORT OTLP_HTTP_PORT OTEL_HEALTH_PORT OTEL_DEBUG_VERBOSITY
    OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG
    INGESTION_PORT_8001 INGESTION_PORT_8004 INGESTION_PORT_8000 KAFKA_CONTAINER POSTGRES_CONTAINER
    """.split()
)
OFF_WHEN_EMPTY = frozenset({"BUFFER_DIR"})
"""Set to nothing, such a setting turns something off; every other one counts as unset then."""
OUR_PREFIXES = ("KAFKA_", "INGESTION_", "CONSUMER_", "ANALYTICS_", "DATABASE_", "SALES_", "MONGODB_")

Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 lets the system choose (tests)."""


def split_list(value: object) -> object:
    """A comma- or space-separated text as a list; anything else as it is."""
    return [part for part in re.split(r"[,\s]+", value) if part] if isinstance(value, str) else value


Ports = Annotated[list[Port], NoDecode, BeforeValidator(split_list), Field(min_length=1)]
"""One or more ports, comma-separated in the environment."""


def _topic_name(name: str) -> str:
    if name in (".", "..") or not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name):
        raise ValueError("no name of a Kafka topic: use at most 249 letters, digits, dots, underscores and hyphens")
    return name


TopicName = Annotated[str, AfterValidator(_topic_name)]


class ServiceSettings(BaseSettings):
    """What every service reads."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, extra="ignore", frozen=True, env_ignore_empty=True, populate_by_name=True
    )

    service_name: str = Field("event-platform", description="Name in traces and logs")
    environment: Literal["development", "test", "production"] = Field("development", description="Where this runs")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe log line written")
    host: str = Field("127.0.0.1", description="Address that the service listens on (0.0.0.0 in a container)")
    metrics_port: Port | None = Field(
        None, description="Another value than the API's port opens a metrics-only listener"
    )
    otel_exporter_otlp_endpoint: AnyHttpUrl | None = Field(
        None, description="OTLP/HTTP collector, e.g. http://localhost:4318; unset turns tracing off"
    )


class BrokerSettings(ServiceSettings):
    """What every service that talks to Kafka reads."""

    kafka_bootstrap_servers: str = Field(
        "localhost:9092",
        validation_alias=AliasChoices("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_SERVER"),
        description="Brokers, comma-separated (also KAFKA_SERVER; this name wins)",
    )
    kafka_client_id: str = Field("event-platform", description="Client id shown in the broker's logs")
    kafka_replication_factor: int = Field(
        1, ge=1, description="Replicas of topics that have to be made; 3 in a cluster"
    )


class KafkaSettings(BrokerSettings):
    """The topics of the events."""

    kafka_topic: TopicName = Field("events", description="Topic of the events")
    kafka_product_topic: TopicName = Field("product_events", description="Topic of the events in the event_type form")
    kafka_topic_partitions: int = Field(
        6, ge=1, description="Partitions of both event topics where they have to be made"
    )
    dlq_topic: TopicName = Field("events-dlq", description="Topic of the dead letters")

    @model_validator(mode="after")
    def _dead_letters_of_their_own(self) -> Self:
        if self.dlq_topic in (self.kafka_topic, self.kafka_product_topic):
            raise ValueError("DLQ_TOPIC must be another topic than KAFKA_TOPIC and KAFKA_PRODUCT_TOPIC")
        return self


class RetentionSettings(ServiceSettings):
    """What must be known both where old events are refused and where they are dropped."""

    retention_days: int | None = Field(
        None, ge=1, description="Whole days (UTC) older than so many are dropped, and refused; unset: all is kept"
    )


class PostgresSettings(ServiceSettings):
    """What every service that talks to Postgres reads."""

    database_url: str = Field(
        "postgresql://postgres:postgres@localhost:5432/events_db", description="PostgreSQL connection URI"
    )
    database_timeout_seconds: float = Field(30.0, gt=0, description="Longest wait for one answer of the database")

    @model_validator(mode="after")
    def _postgres_uri(self) -> Self:
        try:
            parts = urlsplit(self.database_url)
            # Several hosts, and a socket's folder as the query's host, are asyncpg's to read.
            scheme, host = parts.scheme, parts.netloc or parts.query
            if "," not in parts.netloc:
                _ = parts.port  # raises where it is no number
        except ValueError:
            # Python's own message would quote the address, the password with it.
            raise ValueError(
                "DATABASE_URL is no URI: percent-encode what is special in the user's name and password"
            ) from None
        if scheme not in ("postgresql", "postgres") or not host:
            raise ValueError("DATABASE_URL must have the form postgresql://user:password@host:port/database")
        return self


S = TypeVar("S", bound=ServiceSettings)


def load(settings: type[S], **overrides: Any) -> S:
    """The settings of a service.

    Raises:
        ConfigurationError: naming every variable that is wrong, what it must be, and nothing secret.
    """
    try:
        return settings(**overrides)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        raise ConfigurationError(
            "; ".join(_explained(problem["loc"], problem["msg"]) for problem in problems)
        ) from None


def _explained(place: tuple[int | str, ...], problem: str) -> str:
    # What concerns several settings has no place of its own: its message names them.
    name = ".".join(map(str, place)).upper()
    return ": ".join(filter(None, [name, problem.removeprefix("Value error, ")]))


def env_names(settings: type[ServiceSettings]) -> dict[str, tuple[str, ...]]:
    """Field name -> the environment variables that set it, the strongest first."""
    names = {}
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        names[name] = tuple(str(a) for a in alias.choices) if isinstance(alias, AliasChoices) else (name.upper(),)
    return names


def describe(settings: ServiceSettings, environ: Mapping[str, str] | None = None) -> list[tuple[str, str, str]]:
    """(variable, value, origin) per setting, for ``--print-config``; passwords in URLs are masked."""
    # Case does not matter in the names: pydantic-settings reads them so.
    environ = {name.upper(): value for name, value in (os.environ if environ is None else environ).items()}
    in_file = {name.upper(): value for name, value in dotenv_values(ENV_FILE).items()}
    rows = []
    for name, variables in env_names(type(settings)).items():
        found = [f"environment ({variable})" for variable in variables if _set(variable, environ)]
        found += [f"{ENV_FILE} ({variable})" for variable in variables if _set(variable, in_file)]
        origin = found[0] if found else "default"
        value = getattr(settings, name)
        shown = ",".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
        rows.append((variables[0], mask(shown), origin))
    return rows


def _set(variable: str, values: Mapping[str, str | None]) -> bool:
    return bool(values.get(variable)) or (variable in OFF_WHEN_EMPTY and values.get(variable) == "")


def mask(text: str) -> str:
    """``text`` with the password of every URL in it replaced."""
    text = re.sub(
        r"://([^:/?#\s]*):[^\s,]*@", r"://\1:***@", text
    )  # up to the last @: it may not be encoded as it should
    return re.sub(r"([?&]password=)[^&\s]*", r"\1***", text)


def unknown_settings(settings: type[ServiceSettings], names: Iterable[str] | None = None) -> list[str]:
    """A warning per variable that looks meant for the platform but that no part of it reads."""
    if names is None:
        names = {*os.environ, *dotenv_values(ENV_FILE)}
    own = {variable for variables in env_names(settings).values() for variable in variables}
    warnings = []
    for name in sorted(set(names) - PLATFORM_SETTINGS - own):
        close = difflib.get_close_matches(name, own, n=1, cutoff=0.85)
        if close:
            warnings.append(f"unknown setting {name}: did you mean {close[0]}?")
        elif name.startswith(OUR_PREFIXES):
            warnings.append(f"unknown setting {name}: no part of the platform reads it")
    return warnings
