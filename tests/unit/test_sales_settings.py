"""The names of S3's settings, and how they live beside those of the platform's other services."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import Counter

from event_consumer.sales.collection import MongoCollection
from event_consumer.sales.settings import SalesSettings
from event_core.errors import ConfigurationError
from event_core.settings import describe, load


def settings(monkeypatch: pytest.MonkeyPatch, **environment: str) -> SalesSettings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load(SalesSettings)


def test_the_names_and_defaults_are_those_of_the_sales_ingest_service(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch)
    assert (found.sales_topic, found.dlq_topic, found.kafka_group_id) == (
        "sales_txn",
        "sales_txn-dlq",
        "ingest_service",
    )
    assert (found.batch_size, found.flush_interval, found.max_retries) == (100, 5.0, 3)
    assert (found.mongodb_database, found.mongodb_collection) == ("sales_db", "raw_sales")
    found = settings(monkeypatch, KAFKA_TOPIC="a", KAFKA_GROUP_ID="b", MONGODB_DATABASE="c", BATCH_SIZE="7")
    assert (found.sales_topic, found.dlq_topic, found.kafka_group_id) == ("a", "a-dlq", "b")
    assert (found.mongodb_database, found.batch_size) == ("c", 7)


def test_a_name_of_its_own_wins_over_one_that_others_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(
        monkeypatch,
        KAFKA_TOPIC="events",
        SALES_TOPIC="sold",
        KAFKA_GROUP_ID="event_consumer",
        SALES_GROUP_ID="sellers",
        METRICS_PORT="9001",
        SALES_METRICS_PORT="9002",
    )
    assert (found.sales_topic, found.kafka_group_id, found.metrics_port) == ("sold", "sellers", 9002)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"KAFKA_TOPIC": "events"}, "SALES_TOPIC"),
        ({"SALES_DLQ_TOPIC": "sales_txn"}, "SALES_DLQ_TOPIC"),
        ({"MONGODB_URL": "postgresql://localhost"}, "MONGODB_URL must have the form mongodb://"),
        ({"MONGODB_URL": "mongodb://user:hunter2@[::1/db"}, "percent-encode"),
        ({"SALES_DLQ_TOPIC": "events-dlq"}, "SALES_DLQ_TOPIC"),
        ({"SALES_TOPIC": "x" * 249}, "SALES_DLQ_TOPIC"),
        ({"KAFKA_GROUP_ID": "event_consumer"}, "SALES_GROUP_ID"),
        ({"MONGODB_TIMEOUT_SECONDS": "0.0005"}, "MONGODB_TIMEOUT_SECONDS"),
        ({"BATCH_SIZE": "0"}, "BATCH_SIZE"),
        ({"ADMIN_API_KEY": "short"}, "ADMIN_API_KEY"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_secret_is(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        settings(monkeypatch, **environment)
    assert "hunter2" not in caught.value.message


def test_the_password_is_masked_where_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for password in ("hunter2", "hun@ter2", "hun/ter2"):
        shown = str(describe(settings(monkeypatch, MONGODB_URL=f"mongodb://admin:{password}@db:27017/sales_db")))
        assert "ter2" not in shown
        assert "mongodb://admin:***@db:27017/sales_db" in shown


@pytest.mark.parametrize(
    "wrong",
    [
        {"MONGODB_URL": "mongodb://admin:pa@ss:hunter2@h/db"},
        {"MONGODB_URL": "mongodb://admin:pa/hunter2@h/db"},
        {"MONGODB_URL": "mongodb://h:99999/db"},
        {"MONGODB_URL": "mongodb://h/db?tlsCAFile=/nowhere"},
        {"MONGODB_DATABASE": "a.b"},
        {"MONGODB_COLLECTION": "$x"},
    ],
    ids=str,
)
def test_what_the_driver_cannot_use_is_told_without_a_password(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]
) -> None:
    with pytest.raises(ConfigurationError, match="MONGODB_URL") as caught:
        MongoCollection(settings(monkeypatch, **wrong), Counter("writes", "x", ["status"], registry=None))
    assert "hunter2" not in caught.value.message


def test_where_a_value_comes_from_is_told_as_it_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment over .env, whichever of the two names is used."""
    file = tmp_path / "env"
    file.write_text("SALES_TOPIC=in_file\n")
    monkeypatch.setattr("event_core.settings.ENV_FILE", str(file))
    monkeypatch.setitem(SalesSettings.model_config, "env_file", str(file))
    [row] = [row for row in describe(settings(monkeypatch, KAFKA_TOPIC="plain")) if row[0] == "SALES_TOPIC"]
    assert row == ("SALES_TOPIC", "plain", "environment (KAFKA_TOPIC)")
