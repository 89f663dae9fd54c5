"""One real Kafka and Postgres for the run; a database and topics of its own for each test that asks."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from event_core.settings import PLATFORM_SETTINGS, ServiceSettings
from tests.support.backend import Backend, open_backend
from tests.support.mongo import Mongo, open_mongo
from tests.support.process import Service
from tests.support.selling import Sales, Server, open_sales
from tools.migrate.__main__ import create_database, upgrade

TEMPLATE = "platform_template"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the long forms to `make test-exhaustive`, which asks for them by name."""
    if "exhaustive" in config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("exhaustive")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def _settings_classes(base: type[ServiceSettings]) -> Iterator[type[ServiceSettings]]:
    yield base
    for derived in base.__subclasses__():
        yield from _settings_classes(derived)


@pytest.fixture(autouse=True, scope="session")
def _own_settings_only() -> Iterator[None]:
    """A developer's own settings and .env must not change what the tests find."""
    with pytest.MonkeyPatch.context() as patch:
        for name in PLATFORM_SETTINGS & set(os.environ):
            patch.delenv(name)
        patch.setattr("event_core.settings.ENV_FILE", os.devnull)
        for settings in _settings_classes(ServiceSettings):
            patch.setitem(settings.model_config, "env_file", None)
        yield


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Real servers. A test that kills one starts it again."""
    servers = open_backend(tmp_path_factory.mktemp("stack"))
    try:
        create_database(f"{servers.postgres}/{TEMPLATE}")
        upgrade(f"{servers.postgres}/{TEMPLATE}")
        yield servers
    finally:
        servers.close()


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    """A real MongoDB server. A test that kills it starts it again."""
    server = open_mongo(tmp_path_factory.mktemp("mongo"))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def empty_database(backend: Backend) -> Iterator[str]:
    """URL of a new database without any table."""
    yield from _database(backend, None)


@pytest.fixture
def database_url(backend: Backend) -> Iterator[str]:
    """URL of a new, migrated database."""
    yield from _database(backend, TEMPLATE)


def _database(backend: Backend, template: str | None) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    maintenance = f"{backend.postgres}/postgres"
    made = sql.SQL("create database {}").format(sql.Identifier(name))
    if template:
        made += sql.SQL(" template {}").format(sql.Identifier(template))
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(made)
    yield f"{backend.postgres}/{name}"
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@dataclass(frozen=True)
class Platform:
    """The settings of a platform that belongs to one test, and its services as processes.

    A service that ended by a failure of its own, or that had an unexpected error, fails the test, unless the test emptied
    ``must_stay_sound``.
    """

    settings: Mapping[str, str]
    start: Callable[..., Service]
    must_stay_sound: list[Service]

    @property
    def database_url(self) -> str:
        return self.settings["DATABASE_URL"]

    @property
    def topic(self) -> str:
        return self.settings["KAFKA_TOPIC"]

    @property
    def product_topic(self) -> str:
        return self.settings["KAFKA_PRODUCT_TOPIC"]

    @property
    def dlq_topic(self) -> str:
        return self.settings["DLQ_TOPIC"]

    @property
    def buffer_dir(self) -> Path:
        return Path(self.settings["BUFFER_DIR"])


@pytest.fixture
def platform(backend: Backend, database_url: str, tmp_path: Path) -> Iterator[Platform]:
    """Topics, a disk buffer, a consumer group and a database that only this test uses; services that end with it."""
    unique = uuid.uuid4().hex[:8]
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": backend.kafka,
        "KAFKA_TOPIC": f"events-{unique}",
        "KAFKA_PRODUCT_TOPIC": f"product-events-{unique}",
        "DLQ_TOPIC": f"events-dlq-{unique}",
        "KAFKA_GROUP_ID": f"group-{unique}",
        "KAFKA_GROUP_INSTANCE_ID": f"consumer-{unique}",
        "DATABASE_URL": database_url,
        "BUFFER_DIR": str(tmp_path / "buffer"),
        "ENVIRONMENT": "test",
    }
    services: list[Service] = []
    sound: list[Service] = []

    def start(name: str, *, ready: bool = True, **extra: str) -> Service:
        service = Service(name, {**settings, **extra}, tmp_path / f"{name}-{len(services)}.log")
        services.append(service)
        sound.append(service)
        return service.start(ready=ready)

    yield Platform(settings, start, sound)
    for service in services:
        if service.running():
            service.stop()
    for service in sound:
        for sign in ("ends after a failure", "failed unexpectedly", "Traceback"):
            assert sign not in service.log.read_text(errors="replace"), f"{service.name}:\n{service.tail()}"


@pytest.fixture
def sales(backend: Backend, mongo: Server, tmp_path: Path) -> Iterator[Sales]:
    """A sales pipeline that only this test uses."""
    selling = open_sales(backend.kafka, mongo, tmp_path)
    selling.make_topics()
    try:
        yield selling
    finally:
        selling.end()
