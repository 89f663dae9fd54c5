"""A Compose stack of the tests' own: other project, container names and ports, to run beside whatever else is up."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "docker" / "docker-compose.yml"
PROJECT = "event-platform-e2e"

# Each is interpolated in docker/docker-compose.platform.yml as a port of the host.
PORT_VARIABLES = (
    "KAFKA_PORT",
    "POSTGRES_PORT",
    "MONGO_PORT",
    "INGESTION_PORT_8001",
    "INGESTION_PORT_8004",
    "INGESTION_PORT_8000",
    "ANALYTICS_PORT",
    "CONSUMER_PORT",
    "SALES_PORT",
    "SALES_METRICS_PORT",
    "PROMETHEUS_PORT",
    "OTLP_GRPC_PORT",
    "OTLP_HTTP_PORT",
    "OTEL_HEALTH_PORT",
)
ADMIN_API_KEY = "a key of the tests only"
BUILD_SECONDS = 1200
READY_SECONDS = 300

T = TypeVar("T")


class ComposeError(AssertionError):
    """A Docker command failed; the message holds its output."""


def run(*command: str, env: dict[str, str] | None = None, cwd: Path = ROOT, timeout: float = 120) -> str:
    """Standard output of ``command``.

    Raises:
        ComposeError: it exited with anything but 0.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode != 0:
        raise ComposeError(f"{' '.join(command)} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def engine_problem() -> str | None:
    """Why Compose cannot be used here, or None where it can."""
    try:
        run("docker", "version", timeout=30)
        run("docker", "compose", "version", timeout=30)
    except FileNotFoundError:
        return "the docker command is not installed"
    except (ComposeError, subprocess.TimeoutExpired) as error:
        return f"no Docker engine with Compose answers: {error}"
    return None


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    """A free TCP port of 127.0.0.1 per name, all different."""
    with ExitStack() as stack:
        ports = {}
        for name in names:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            ports[name] = listener.getsockname()[1]
    return ports


def wait_for(what: str, probe: Callable[[], T | None], timeout: float, pause: float = 0.5) -> T:
    """The first answer of ``probe`` that is neither None nor False.

    Raises:
        AssertionError: none within ``timeout`` seconds; it names ``what`` was waited for and the probe's last error.
    """
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            answer = probe()
        except Exception as error:  # whatever keeps a probe from answering may pass; the last one is reported
            last = error
        else:
            if answer is not None and answer is not False:
                return answer
        time.sleep(pause)
    raise AssertionError(f"not within {timeout:g} s: {what}" + (f" (last error: {last!r})" if last else ""))


@dataclass(frozen=True)
class Stack:
    """The running stack. ``ports``: variable name -> port on 127.0.0.1."""

    ports: dict[str, int]
    environment: dict[str, str]
    kafka: str = f"{PROJECT}-kafka"
    postgres: str = f"{PROJECT}-postgres"
    mongo: str = f"{PROJECT}-mongo"

    @classmethod
    def reserve(cls) -> Stack:
        """A stack that is not started yet, with free ports."""
        ports = free_ports(PORT_VARIABLES)
        environment = {
            **os.environ,
            **{name: str(port) for name, port in ports.items()},
            "KAFKA_CONTAINER": cls.kafka,
            "POSTGRES_CONTAINER": cls.postgres,
            "MONGO_CONTAINER": cls.mongo,
            # A developer's .env must not change what the tests see.
            "POSTGRES_USER": "postgres",
            "POSTGRES_PASSWORD": "postgres",
            "POSTGRES_DB": "events_db",
            "MONGO_USER": "admin",
            "MONGO_PASSWORD": "password",
            "KAFKA_TOPIC": "events",
            "KAFKA_PRODUCT_TOPIC": "product_events",
            "SALES_TOPIC": "sales_txn",
            "SALES_GROUP_ID": "ingest_service",
            "BUFFER_DIR": "./data/buffer",
            "ADMIN_API_KEY": ADMIN_API_KEY,
            # A line per span, so that a trace can be looked for by its id.
            "OTEL_DEBUG_VERBOSITY": "normal",
        }
        return cls(ports, environment)

    def url(self, variable: str, path: str = "") -> str:
        return f"http://127.0.0.1:{self.ports[variable]}{path}"

    def compose(self, *arguments: str, timeout: float = 120) -> str:
        command = (
            "docker",
            "compose",
            "-p",
            PROJECT,
            "-f",
            str(COMPOSE_FILE),
            "--ansi",
            "never",
            "--progress",
            "plain",
        )
        return run(*command, *arguments, env=self.environment, timeout=timeout)

    def up(self) -> None:
        """Builds the images, starts everything, and returns when every container is healthy."""
        self.compose("build", timeout=BUILD_SECONDS)
        self.compose("up", "-d", "--wait", "--wait-timeout", str(READY_SECONDS), timeout=READY_SECONDS + 60)

    def down(self) -> None:
        """Removes the containers, volumes, network and images of this project."""
        self.compose("down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "40", timeout=300)

    def logs(self, service: str, tail: str = "all") -> str:
        text = self.compose("logs", "--no-color", "--no-log-prefix", "--tail", tail, service)
        return text.replace("\x1b[2K", "")  # some versions of Compose print this "clear line" before each line

    def services(self) -> list[str]:
        return self.compose("config", "--services").split()

    def container(self, service: str) -> str:
        """Id of the service's container, running or not."""
        return self.compose("ps", "--all", "--quiet", service).strip()

    def state(self, service: str) -> dict[str, Any]:
        """Docker's ``State`` of the service's container, and its ``RestartCount``."""
        container = json.loads(run("docker", "inspect", self.container(service)))[0]
        return {**container["State"], "RestartCount": container["RestartCount"]}

    def sql(self, query: str) -> list[str]:
        """The rows of ``query`` as psql prints them inside the database's container; nothing of ours is used."""
        command = ("psql", "-U", "postgres", "-d", "events_db", "-v", "ON_ERROR_STOP=1", "-At", "-c", query)
        return run("docker", "exec", self.postgres, *command).splitlines()

    def kill_broker(self) -> None:
        """Ends the broker's process as a crash would; unlike ``docker kill`` this leaves the restart to the policy."""
        script = 'for p in /proc/[0-9]*; do read -r name <"$p/comm"; [ "$name" != java ] || kill -9 "${p#/proc/}"; done'
        # The container ends under the command, so its exit code says nothing; RestartCount tells whether it worked.
        subprocess.run(("docker", "exec", self.kafka, "sh", "-c", script), capture_output=True, timeout=60, check=False)

    def spans(self, trace_id: str) -> list[tuple[str, str]]:
        """(service.name, span name) of every span of the trace that the collector received, from its log."""
        found = []
        service = ""
        for line in self.logs("otel-collector").splitlines():
            if resource := re.search(r"ResourceTraces #\d+ .*\bservice\.name=(\S+)", line):
                service = resource[1]
            elif span := re.match(rf"(.+) {trace_id} [0-9a-f]{{16}}\b", line):
                found.append((service, span[1]))
        return found
