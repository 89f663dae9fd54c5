"""Where a setting comes from, what a wrong one says, and that every list of settings agrees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analytics_service.settings import AnalyticsSettings
from event_consumer.sales.settings import SalesSettings
from event_consumer.settings import ConsumerSettings
from event_core.errors import ConfigurationError
from event_core.settings import (
    OFF_WHEN_EMPTY,
    PLATFORM_SETTINGS,
    KafkaSettings,
    ServiceSettings,
    describe,
    env_names,
    load,
    mask,
    unknown_settings,
)
from ingestion_service.settings import IngestionSettings
from tools.stack.config import OFF_WHEN_EMPTY as STACK_OFF_WHEN_EMPTY
from tools.stack.config import is_setting

ROOT = Path(__file__).parents[2]
SERVICES: list[type[ServiceSettings]] = [IngestionSettings, ConsumerSettings, SalesSettings, AnalyticsSettings]
# Read by the stack, Compose and the libraries, not by a service's own settings.
STACK_ONLY = set(
    """
    STACK KAFKA_PORT KAFKA_CONTROLLER_PORT POSTGRES_PORT POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB
    MONGO_PORT MONGO_USER MONGO_PASSWORD MONGO_CONTAINER
    PROMETHEUS_PORT OTLP_GRPC_PORT OTLP_HTTP_PORT OTEL_HEALTH_PORT OTEL_DEBUG_VERBOSITY
    OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG
    INGESTION_PORT_8001 INGESTION_PORT_8004 INGESTION_PORT_8000 KAFKA_CONTAINER POSTGRES_CONTAINER
    """.split()
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PLATFORM_SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The ``.env`` that the settings read in this test."""
    file = tmp_path / ".env"
    monkeypatch.setattr("event_core.settings.ENV_FILE", str(file))
    for service in SERVICES:
        monkeypatch.setitem(service.model_config, "env_file", str(file))
    return file


def origin(settings: ServiceSettings, variable: str) -> tuple[str, str]:
    """(value, origin) as --print-config shows them."""
    return next((value, where) for name, value, where in describe(settings) if name == variable)


def example() -> dict[str, str]:
    """Name -> default of .env.example: ``NAME=default`` lines, commented out or not."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    return {match[1]: match[2] for line in lines if (match := re.fullmatch(r"(?:#\s*)?([A-Z][A-Z0-9_]*)=(.*)", line))}


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    monkeypatch: pytest.MonkeyPatch, env_file: Path
) -> None:
    env_file.write_text("KAFKA_TOPIC=from_file\nKAFKA_CLIENT_ID=from_file\n")
    monkeypatch.setenv("KAFKA_TOPIC", "from_environment")
    settings = load(IngestionSettings)
    assert origin(settings, "KAFKA_TOPIC") == ("from_environment", "environment (KAFKA_TOPIC)")
    assert origin(settings, "KAFKA_CLIENT_ID") == ("from_file", f"{env_file} (KAFKA_CLIENT_ID)")
    assert origin(settings, "LOG_LEVEL") == ("INFO", "default")


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_is_shown_with_its_origin(service: type[ServiceSettings]) -> None:
    rows = describe(load(service))
    assert {name for name, _, _ in rows} == {variables[0] for variables in env_names(service).values()}
    assert {where for _, _, where in rows} == {"default"}


def test_a_variable_in_lower_case_is_shown_as_the_origin_of_what_it_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("kafka_topic", "other")
    value, where = origin(load(IngestionSettings), "KAFKA_TOPIC")
    assert (value == "other") == where.startswith("environment")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, env_file: Path) -> None:
    env_file.write_text("METRICS_PORT=\nKAFKA_TOPIC=\n")
    monkeypatch.setenv("INGESTION_PORTS", "")
    settings = load(IngestionSettings)
    assert (settings.metrics_port, settings.kafka_topic) == (None, "events")
    assert origin(settings, "INGESTION_PORTS") == ("8001,8004,8000", "default")


@pytest.mark.parametrize(
    ("environment", "file", "expected"),
    [
        ({"KAFKA_SERVER": "a:1"}, "", ("a:1", "environment (KAFKA_SERVER)")),
        ({"KAFKA_BOOTSTRAP_SERVERS": "b:1"}, "", ("b:1", "environment (KAFKA_BOOTSTRAP_SERVERS)")),
        (
            {"KAFKA_SERVER": "a:1", "KAFKA_BOOTSTRAP_SERVERS": "b:1"},
            "",
            ("b:1", "environment (KAFKA_BOOTSTRAP_SERVERS)"),
        ),
        ({}, "KAFKA_SERVER=a:1", ("a:1", ".env (KAFKA_SERVER)")),
        ({}, "KAFKA_SERVER=a:1\nKAFKA_BOOTSTRAP_SERVERS=b:1", ("b:1", ".env (KAFKA_BOOTSTRAP_SERVERS)")),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "b:1"},
            "KAFKA_SERVER=a:1",
            ("b:1", "environment (KAFKA_BOOTSTRAP_SERVERS)"),
        ),
        ({"KAFKA_SERVER": "a:1", "KAFKA_BOOTSTRAP_SERVERS": ""}, "", ("a:1", "environment (KAFKA_SERVER)")),
    ],
)
def test_kafka_server_is_another_name_and_kafka_bootstrap_servers_wins(
    monkeypatch: pytest.MonkeyPatch,
    env_file: Path,
    environment: dict[str, str],
    file: str,
    expected: tuple[str, str],
) -> None:
    env_file.write_text(file)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for service in (IngestionSettings, ConsumerSettings):
        settings = load(service)
        assert settings.kafka_bootstrap_servers == expected[0]
        value, where = origin(settings, "KAFKA_BOOTSTRAP_SERVERS")
        assert (value, where.replace(str(env_file), ".env")) == expected


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("8001", [8001]),
        ("8001,8004,8000", [8001, 8004, 8000]),
        ("8001, 8004", [8001, 8004]),
        (" 8001  8004 ", [8001, 8004]),
        ("8001,8004,", [8001, 8004]),
        ("0", [0]),
        ("65535", [65535]),
    ],
)
def test_ports_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch, text: str, ports: list[int]) -> None:
    monkeypatch.setenv("INGESTION_PORTS", text)
    assert load(IngestionSettings).ingestion_ports == ports


@pytest.mark.parametrize(
    ("service", "name", "value"),
    [
        (IngestionSettings, "INGESTION_PORTS", "eighty"),
        (IngestionSettings, "INGESTION_PORTS", "65536"),
        (IngestionSettings, "INGESTION_PORTS", "-1"),
        (IngestionSettings, "INGESTION_PORTS", "8001;8004"),
        (IngestionSettings, "INGESTION_PORTS", ","),
        (IngestionSettings, "INGESTION_MAX_BODY_BYTES", "1 MiB"),
        (IngestionSettings, "INGESTION_MAX_BODY_BYTES", "0"),
        (IngestionSettings, "INGESTION_BODY_TIMEOUT_SECONDS", "0"),
        (IngestionSettings, "INGESTION_MAX_EVENT_BYTES", "1000000"),
        (IngestionSettings, "INGESTION_MAX_DEPTH", "65"),
        (IngestionSettings, "INGESTION_DEDUPE_MINUTES", "0"),
        (IngestionSettings, "MAX_BUFFER_SIZE_MB", "1"),
        (IngestionSettings, "KAFKA_MAX_RETRIES", "-1"),
        (IngestionSettings, "KAFKA_MAX_IN_FLIGHT", "5"),
        (IngestionSettings, "KAFKA_ACKS", "2"),
        (IngestionSettings, "KAFKA_COMPRESSION_TYPE", "brotli"),
        (IngestionSettings, "KAFKA_TOPIC_PARTITIONS", "0"),
        (IngestionSettings, "METRICS_PORT", "x"),
        (IngestionSettings, "LOG_LEVEL", "LOUD"),
        (IngestionSettings, "ENVIRONMENT", "staging"),
        (IngestionSettings, "OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        (ConsumerSettings, "CONSUMER_BATCH_SIZE", "0"),
        (ConsumerSettings, "CONSUMER_BATCH_AGE_SECONDS", "-1"),
        (ConsumerSettings, "CONSUMER_PORT", "70000"),
        (ConsumerSettings, "DATABASE_URL", "mysql://u:hunter2@h/db"),
        (ConsumerSettings, "DATABASE_URL", "u:hunter2@h/db"),
        (AnalyticsSettings, "DATABASE_URL", "postgresql+asyncpg://u:hunter2@h/db"),
        (AnalyticsSettings, "DATABASE_URL", "postgresql://u:hunter2@[h/db"),
        # A character that is a slash once normalised makes Python's own message quote the address.
        (AnalyticsSettings, "DATABASE_URL", "postgresql://u:hunter2\u2100@h/db"),
        # A password that ends the address early.
        (AnalyticsSettings, "DATABASE_URL", "postgresql://u:hunter2/x@h/db"),
        (AnalyticsSettings, "DATABASE_URL", "postgresql://u:hunter2@h:port/db"),
        (AnalyticsSettings, "ANALYTICS_POOL_SIZE", "none"),
        (AnalyticsSettings, "ANALYTICS_STATEMENT_TIMEOUT_SECONDS", "nan"),
    ],
)
def test_a_wrong_value_names_the_variable_and_keeps_the_secret(
    monkeypatch: pytest.MonkeyPatch, service: type[ServiceSettings], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load(service)
    assert name in caught.value.message
    assert "hunter2" not in caught.value.message


BUFFER_DIRS = [
    # the environment, .env, the folder, where it comes from
    ({}, "", "data/buffer", "default"),
    ({}, "BUFFER_DIR=", None, ".env (BUFFER_DIR)"),
    ({}, "BUFFER_DIR=/spool", "/spool", ".env (BUFFER_DIR)"),
    ({"BUFFER_DIR": ""}, "", None, "environment (BUFFER_DIR)"),
    ({"BUFFER_DIR": ""}, "BUFFER_DIR=/spool", None, "environment (BUFFER_DIR)"),
    ({"BUFFER_DIR": "/spool"}, "", "/spool", "environment (BUFFER_DIR)"),
    ({"BUFFER_DIR": "/spool"}, "BUFFER_DIR=", "/spool", "environment (BUFFER_DIR)"),
]


@pytest.mark.parametrize(("environment", "file", "folder", "where"), BUFFER_DIRS)
def test_an_empty_buffer_dir_turns_the_buffer_off_and_an_unset_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
    env_file: Path,
    environment: dict[str, str],
    file: str,
    folder: str | None,
    where: str,
) -> None:
    env_file.write_text(file)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load(IngestionSettings)
    assert settings.buffer_dir == (None if folder is None else Path(folder))
    shown = origin(settings, "BUFFER_DIR")
    assert (shown[0], shown[1].replace(str(env_file), ".env")) == (folder or "", where)


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", []),
        ("*", ["*"]),
        ("https://a.example", ["https://a.example"]),
        ("https://a.example, http://localhost:3000", ["https://a.example", "http://localhost:3000"]),
    ],
)
def test_origins_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch, text: str, origins: list[str]) -> None:
    monkeypatch.setenv("INGESTION_CORS_ORIGINS", text)
    assert load(IngestionSettings).ingestion_cors_origins == origins


@pytest.mark.parametrize("origins", ["*", "https://a.example,*"])
def test_cookies_of_every_page_are_never_taken(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
    monkeypatch.setenv("INGESTION_CORS_ORIGINS", origins)
    monkeypatch.setenv("INGESTION_CORS_CREDENTIALS", "true")
    with pytest.raises(ConfigurationError, match=r"^INGESTION_CORS_CREDENTIALS"):
        load(IngestionSettings)
    monkeypatch.setenv("INGESTION_CORS_ORIGINS", "https://a.example")
    assert load(IngestionSettings).ingestion_cors_credentials is True


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_ACKS", "some")
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    with pytest.raises(ConfigurationError, match=r"(?s)LOG_LEVEL.*KAFKA_ACKS|KAFKA_ACKS.*LOG_LEVEL"):
        load(IngestionSettings)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://postgres:hunter2@localhost:5432/events_db",
        "postgresql://:hunter2@localhost/events_db",
        "postgresql://u:hunter2%40@localhost/events_db",
        "postgresql://u:@hunter2@localhost/events_db",
        "postgresql://u:x@hunter2@localhost/events_db",
        "postgresql://u:a:hunter2@localhost/events_db",
        "postgresql://localhost/events_db?user=u&password=hunter2",
        "http://u:hunter2@a/,http://u:hunter2@b/",
    ],
)
def test_passwords_are_masked(text: str) -> None:
    assert "hunter2" not in mask(text)


@pytest.mark.parametrize(
    "text", ["postgresql://localhost:5432/db", "postgresql://u@localhost/db", "a:1,b:2", "INFO", ""]
)
def test_what_holds_no_password_is_shown_as_it_is(text: str) -> None:
    assert mask(text) == text


def test_the_database_password_is_masked_where_settings_are_shown() -> None:
    shown, _ = origin(load(ConsumerSettings, database_url="postgresql://u:hunter2@db:5432/events_db"), "DATABASE_URL")
    assert shown == "postgresql://u:***@db:5432/events_db"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("KAFKA_BOOTSTRAP_SERVER", ["did you mean", "KAFKA_BOOTSTRAP_SERVERS"]),
        ("INGESTION_PORT", ["did you mean", "INGESTION_PORTS"]),
        ("LOGLEVEL", ["did you mean", "LOG_LEVEL"]),
        ("METRIC_PORT", ["did you mean", "METRICS_PORT"]),
        ("KAFKA_SOMETHING_ELSE", ["no part of the platform reads it"]),
        ("INGESTION_X", ["no part of the platform reads it"]),
    ],
)
def test_an_unknown_setting_is_warned_of(name: str, words: list[str]) -> None:
    (warning,) = unknown_settings(IngestionSettings, [name, "PATH", "HOME", "LANG"])
    assert all(word in warning for word in [name, *words])


@pytest.mark.parametrize("service", SERVICES)
def test_other_parts_settings_and_foreign_variables_are_not_warned_of(service: type[ServiceSettings]) -> None:
    foreign = ["PATH", "HOME", "HOSTNAME", "PORT", "PGPASSWORD", "PYTHONPATH", "OTEL_TRACES_SAMPLER", "CI"]
    assert unknown_settings(service, [*PLATFORM_SETTINGS, *foreign]) == []


def test_an_unknown_setting_in_the_file_is_warned_of(env_file: Path) -> None:
    env_file.write_text("KAFKA_TOPICS=x\n")
    assert any("KAFKA_TOPICS" in warning for warning in unknown_settings(IngestionSettings))


def test_the_list_of_all_settings_is_what_the_services_and_the_stack_read() -> None:
    read = {variable for service in SERVICES for variables in env_names(service).values() for variable in variables}
    assert read | STACK_ONLY == PLATFORM_SETTINGS
    assert not read & STACK_ONLY


def test_the_example_file_names_every_setting_and_no_other() -> None:
    assert set(example()) == PLATFORM_SETTINGS


@pytest.mark.parametrize("service", SERVICES)
def test_the_stack_gives_every_setting_of_a_service_to_it(service: type[ServiceSettings]) -> None:
    names = {variable for variables in env_names(service).values() for variable in variables}
    assert [name for name in sorted(names) if not is_setting(name)] == []


def test_the_stack_knows_which_settings_are_turned_off_by_an_empty_value() -> None:
    assert set(STACK_OFF_WHEN_EMPTY) == OFF_WHEN_EMPTY


def test_the_compose_files_read_no_setting_that_is_not_in_the_list() -> None:
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "docker").glob("*.yml")]
    read = {name for text in texts for name in re.findall(r"(?<!\$)\$\{?([A-Z][A-Z0-9_]*)", text)}
    assert "KAFKA_PORT" in read
    assert read <= PLATFORM_SETTINGS


@pytest.mark.parametrize("service", SERVICES)
def test_the_example_file_shows_the_defaults(monkeypatch: pytest.MonkeyPatch, service: type[ServiceSettings]) -> None:
    usual = load(service)
    for name, value in example().items():
        monkeypatch.setenv(name, value)
    assert load(service) == usual


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_says_what_it_is_for(service: type[ServiceSettings]) -> None:
    assert [name for name, field in service.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("name", ["bad topic!", "", ".", "x" * 250, "a/b"])
@pytest.mark.parametrize("variable", ["KAFKA_TOPIC", "KAFKA_PRODUCT_TOPIC", "DLQ_TOPIC"])
def test_what_can_never_be_a_topic_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, variable: str, name: str
) -> None:
    monkeypatch.setenv(variable, name)
    if not name:
        load(KafkaSettings)  # unset
        return
    with pytest.raises(ConfigurationError, match=f"{variable}: no name of a Kafka topic"):
        load(KafkaSettings)


def test_dead_letters_never_go_where_they_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLQ_TOPIC", "events")
    with pytest.raises(ConfigurationError, match=r"^DLQ_TOPIC must be another topic"):
        load(KafkaSettings)
