"""A real MongoDB server for the tests that ask for one, which they may kill: in Docker, or the local stack's own.

TEST_BACKEND=docker|local chooses; without it Docker is used where an engine answers and has the image.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Protocol

from testcontainers.core.container import DockerContainer

from tests.support.backend import READY_SECONDS, free_port, on_docker
from tools.stack import StackConfig, broker, mongod

IMAGE = "mongo:7"
USER, PASSWORD = "admin", "password"


class Mongo(Protocol):
    """One server, which keeps what it acknowledged. After ``kill`` it stays dead until ``start``, which returns once it serves
    again, at the same URL."""

    url: str
    """With its credentials, and the sales' database."""

    def kill(self) -> None: ...
    def start(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...


def _wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while problem := mongod.ask(url):
        if time.monotonic() > deadline:
            raise TimeoutError(f"MongoDB did not answer within {READY_SECONDS:g} s: {problem}")
        time.sleep(0.1)


class LocalMongo:
    """An ordinary process, with a free port; its data and its log are in ``home``."""

    def __init__(self, home: Path) -> None:
        config = StackConfig.for_home(home, programs=("mongo",), ephemeral=True)
        mongod.require_classes(config)
        config.mongo_data.parent.mkdir(parents=True, exist_ok=True)
        program = mongod.program(broker.find_java(os.environ), config)
        self._home = home
        self._launcher = home / "mongo.sh"
        self._launcher.write_text(program.launcher(home))
        self.url = config.mongodb_url
        self._process = self._launch()
        _wait_until_it_answers(self.url)

    def _launch(self) -> subprocess.Popen[bytes]:
        with (self._home / "mongo.log").open("ab") as log:
            return subprocess.Popen(["/bin/sh", str(self._launcher)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start(self) -> None:
        if self._process.poll() is not None:  # a second one could not open the first one's file
            self._process = self._launch()
        _wait_until_it_answers(self.url)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()


class DockerMongo:
    """A container with a fixed port, so that it comes back where it was."""

    def __init__(self) -> None:
        port = free_port()
        self.url = f"mongodb://{USER}:{PASSWORD}@localhost:{port}/sales_db?authSource=admin"
        self._container = (
            DockerContainer(IMAGE)
            .with_env("MONGO_INITDB_ROOT_USERNAME", USER)
            .with_env("MONGO_INITDB_ROOT_PASSWORD", PASSWORD)
            .with_bind_ports(27017, port)
        )
        self._container.start()
        _wait_until_it_answers(self.url)

    def start(self) -> None:
        self._container.get_wrapped_container().start()
        _wait_until_it_answers(self.url)

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def pause(self) -> None:
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        self._container.get_wrapped_container().unpause()

    def close(self) -> None:
        self._container.stop()


def open_mongo(home: Path) -> Mongo:
    """The server that TEST_BACKEND asks for, started. ``home`` is where the local one keeps its state."""
    return DockerMongo() if on_docker(IMAGE) else LocalMongo(home)
