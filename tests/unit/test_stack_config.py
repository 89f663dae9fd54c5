"""Settings of the local stack: where ports and addresses come from, and what the programs are given."""

from pathlib import Path

import pytest

from tools.stack import LocalStack, SettingError, StackConfig
from tools.stack.config import read_stack_choice


def make(tmp_path: Path, environ: dict[str, str] | None = None, env_file: str = "") -> StackConfig:
    file = tmp_path / ".env"
    file.write_text(env_file)
    return StackConfig.for_home(tmp_path / "home", environ=environ or {}, env_file=file)


def test_defaults_are_the_documented_ports(tmp_path: Path) -> None:
    config = make(tmp_path)
    ports = {use.setting: use.port for use in config.port_uses() if use.setting != "INGESTION_PORTS"}
    assert ports == {
        "POSTGRES_PORT": 5432,
        "MONGO_PORT": 27017,
        "KAFKA_PORT": 9092,
        "KAFKA_CONTROLLER_PORT": 9093,
        "CONSUMER_PORT": 8003,
        "SALES_PORT": 8005,
        "SALES_METRICS_PORT": 8006,
        "ANALYTICS_PORT": 8002,
    }
    assert config.ingestion_ports == (8001, 8004, 8000)
    assert config.database_url == "postgresql://postgres:postgres@localhost:5432/events_db"
    assert config.kafka_bootstrap == "localhost:9092"
    assert config.mongodb_url == "mongodb://admin:password@localhost:27017/sales_db?authSource=admin"


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    config = make(tmp_path, {"POSTGRES_PORT": "6001"}, "POSTGRES_PORT=6002\nKAFKA_PORT=6003\n")
    assert (config.postgres_port, config.kafka_port, config.analytics_port) == (6001, 6003, 8002)


def test_an_empty_value_counts_as_unset(tmp_path: Path) -> None:
    assert make(tmp_path, {"POSTGRES_PORT": ""}, "KAFKA_PORT=\n").port_uses() == make(tmp_path).port_uses()


def test_a_moved_port_moves_the_addresses_of_the_services(tmp_path: Path) -> None:
    given = make(tmp_path, {"POSTGRES_PORT": "6001", "KAFKA_PORT": "6002", "MONGO_PORT": "6003"}).service_environment()
    assert given["DATABASE_URL"] == "postgresql://postgres:postgres@localhost:6001/events_db"
    assert given["KAFKA_BOOTSTRAP_SERVERS"] == "localhost:6002"
    assert given["MONGODB_URL"] == "mongodb://admin:password@localhost:6003/sales_db?authSource=admin"


def test_an_address_that_was_set_is_left_alone(tmp_path: Path) -> None:
    environ = {"POSTGRES_PORT": "6001", "DATABASE_URL": "postgresql://elsewhere/db"}
    file = "KAFKA_BOOTSTRAP_SERVERS=elsewhere:1\nMONGODB_URL=mongodb://elsewhere/\n"
    given = make(tmp_path, environ, file).service_environment()
    assert given["DATABASE_URL"] == "postgresql://elsewhere/db"
    assert given["KAFKA_BOOTSTRAP_SERVERS"] == "elsewhere:1"
    assert given["MONGODB_URL"] == "mongodb://elsewhere/"


@pytest.mark.parametrize(
    ("environ", "topic", "group"),
    [
        ({"KAFKA_TOPIC": "other", "KAFKA_GROUP_ID": "others"}, "sales_txn", "ingest_service"),
        ({"SALES_TOPIC": "tills", "SALES_GROUP_ID": "clerks"}, "tills", "clerks"),
    ],
)
def test_the_sales_have_a_topic_and_a_group_whatever_those_of_the_events_are(
    tmp_path: Path, environ: dict[str, str], topic: str, group: str
) -> None:
    given = make(tmp_path, environ).service_environment("sales")
    assert (given["SALES_TOPIC"], given["SALES_GROUP_ID"]) == (topic, group)
    assert given["KAFKA_GROUP_INSTANCE_ID"] != make(tmp_path).service_environment()["KAFKA_GROUP_INSTANCE_ID"]


def test_the_sales_pipelines_own_settings_are_passed_on(tmp_path: Path) -> None:
    environ = {"BATCH_SIZE": "7", "FLUSH_INTERVAL": "1.5", "MAX_RETRIES": "2", "MONGODB_COLLECTION": "other"}
    assert environ.items() <= make(tmp_path, environ).service_environment("sales").items()


def test_what_only_the_file_says_is_left_to_the_services_who_read_it_themselves(tmp_path: Path) -> None:
    given = make(
        tmp_path, {"LOG_LEVEL": "DEBUG"}, "LOG_LEVEL=ERROR\nSECRET=x\nINGESTION_MAX_BODY_BYTES=1\n"
    ).environment
    assert given == {"LOG_LEVEL": "DEBUG"}


def test_the_old_name_of_the_broker_address_is_heeded(tmp_path: Path) -> None:
    assert make(tmp_path, {"KAFKA_SERVER": "other:1"}).service_environment()["KAFKA_BOOTSTRAP_SERVERS"] == "other:1"


@pytest.mark.parametrize(
    ("environ", "env_file", "folder"),
    [
        ({}, "", "{home}/buffer"),
        ({"BUFFER_DIR": "/spool"}, "", "/spool"),
        ({}, "BUFFER_DIR=/spool\n", "/spool"),
        ({"BUFFER_DIR": "/other"}, "BUFFER_DIR=/spool\n", "/other"),
        # Set to nothing it turns the buffer off, so here an empty value is one.
        ({"BUFFER_DIR": ""}, "BUFFER_DIR=/spool\n", ""),
        ({}, "BUFFER_DIR=\n", ""),
        ({"BUFFER_DIR": "/spool"}, "BUFFER_DIR=\n", "/spool"),
    ],
)
def test_the_disk_buffer_lies_with_the_stacks_data_unless_its_folder_was_set(
    tmp_path: Path, environ: dict[str, str], env_file: str, folder: str
) -> None:
    config = make(tmp_path, environ, env_file)
    assert config.service_environment()["BUFFER_DIR"] == folder.format(home=config.home)


def test_clean_deletes_the_disk_buffer_and_the_sales_with_the_rest(tmp_path: Path) -> None:
    config = make(tmp_path)
    (config.buffer / "slot-0").mkdir(parents=True)
    config.mongo_data.parent.mkdir()
    config.mongo_data.touch()
    LocalStack(config).clean()
    assert not config.buffer.exists()
    assert not config.mongo_data.exists()


def test_a_password_with_special_characters_makes_a_valid_url(tmp_path: Path) -> None:
    config = make(tmp_path, {"POSTGRES_PASSWORD": "p@ss/w:rd", "MONGO_PASSWORD": "p@ss/w:rd"})
    assert config.mongodb_url == "mongodb://admin:p%40ss%2Fw%3Ard@localhost:27017/sales_db?authSource=admin"
    assert "ss%2F" not in config.mongodb_url_without_password
    assert config.database_url == "postgresql://postgres:p%40ss%2Fw%3Ard@localhost:5432/events_db"
    assert "w:rd" not in repr(config)
    assert "ss%2F" not in config.url_without_password


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"POSTGRES_PORT": "many"}, "POSTGRES_PORT"),
        ({"KAFKA_PORT": "70000"}, "KAFKA_PORT"),
        ({"INGESTION_PORTS": "8001,x"}, "INGESTION_PORTS"),
        ({"INGESTION_PORTS": ","}, "INGESTION_PORTS"),
    ],
)
def test_a_bad_port_is_refused_by_its_setting(tmp_path: Path, environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        make(tmp_path, environ)


def test_one_port_for_two_programs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"(?s)POSTGRES_PORT.*KAFKA_PORT"):
        make(tmp_path, {"POSTGRES_PORT": "9092"})


def test_an_unknown_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="redis"):
        StackConfig.for_home(tmp_path, programs=("redis",), environ={}, env_file=None)


def test_an_ephemeral_stack_heeds_no_setting_and_keeps_to_its_own_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://a-developers-own/db")
    monkeypatch.setenv("MONGODB_URL", "mongodb://a-developers-own/")
    monkeypatch.setenv("POSTGRES_PORT", "5432")
    config = StackConfig.for_home(tmp_path, ephemeral=True, environment={"LOG_LEVEL": "DEBUG"})
    ports = [use.port for use in config.port_uses()]
    assert len(set(ports)) == len(ports)
    assert not {5432, 9092, 9093, 27017, *range(8000, 8007)} & set(ports)
    given = config.service_environment()
    assert given["DATABASE_URL"] == config.database_url
    assert given["MONGODB_URL"] == config.mongodb_url
    assert str(config.postgres_port) in config.database_url
    assert str(config.mongo_port) in config.mongodb_url
    assert given["LOG_LEVEL"] == "DEBUG"


def test_only_the_chosen_programs_need_ports(tmp_path: Path) -> None:
    config = StackConfig.for_home(tmp_path, programs=("kafka",), environ={}, env_file=None)
    assert {use.program for use in config.port_uses()} == {"kafka"}


def test_which_stack_is_read_from_the_environment_then_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    assert read_stack_choice({}, file) is None
    file.write_text("STACK=compose\n")
    assert read_stack_choice({}, file) == "compose"
    assert read_stack_choice({"STACK": "local"}, file) == "local"
