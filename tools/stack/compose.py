"""The same platform under Docker Compose: whether it can run here, and the commands that run it."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tools.stack.errors import StackError
from tools.stack.ports import PortUse

FILE = Path("docker/docker-compose.yml")
QUICK_SECONDS = 10.0
PULL_SECONDS = 600.0
# The variables of the compose file, in the order of each service's published ports.
PORT_SETTINGS = {
    "kafka": ("KAFKA_PORT",),
    "postgres": ("POSTGRES_PORT",),
    "mongo": ("MONGO_PORT",),
    "ingestion": ("INGESTION_PORT_8001", "INGESTION_PORT_8004", "INGESTION_PORT_8000"),
    "consumer": ("CONSUMER_PORT",),
    "sales": ("SALES_PORT", "SALES_METRICS_PORT"),
    "analytics": ("ANALYTICS_PORT",),
    "prometheus": ("PROMETHEUS_PORT",),
    "otel-collector": ("OTLP_GRPC_PORT", "OTLP_HTTP_PORT", "OTEL_HEALTH_PORT"),
}


def run(command: Sequence[str], timeout: float, cwd: Path | None = None) -> str | None:
    """What a command prints; None when it is missing, fails, or takes longer than `timeout` seconds."""
    try:
        result = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def engine_version() -> str | None:
    """The version of the Docker engine that answers, None when none does."""
    return run(["docker", "version", "--format", "{{.Server.Version}}"], QUICK_SECONDS) or None


def compose_version() -> str | None:
    """The version of `docker compose` (v2), None when there is none."""
    return run(["docker", "compose", "version", "--short"], QUICK_SECONDS) or None


def base_images(dockerfile: str) -> list[str]:
    """The images that a Dockerfile starts from, without its own stages and those that an argument names."""
    found, stages = [], {"scratch"}
    for line in dockerfile.splitlines():
        match = re.match(r"FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", line.strip(), re.IGNORECASE)
        if match:
            if match[1].lower() not in stages and "$" not in match[1]:
                found.append(match[1])
            stages |= {match[2].lower()} if match[2] else set()
    return list(dict.fromkeys(found))


class Compose:
    """The compose project of this repository."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository

    def command(self, *arguments: str) -> list[str]:
        """A `docker compose` command line."""
        return ["docker", "compose", "-f", str(FILE), *arguments]

    def call(self, *arguments: str) -> int:
        """Runs `docker compose ...` in the open: its output is the person's to read. Returns its exit code."""
        try:
            return subprocess.run(self.command(*arguments), cwd=self.repository, check=False).returncode
        except FileNotFoundError:
            raise StackError(
                "There is no docker command.", "Install Docker, or use the local stack: STACK=local."
            ) from None

    @cached_property
    def services(self) -> dict[str, Any]:
        """The services as Compose itself reads the file, settings filled in; empty when it cannot."""
        text = run(self.command("config", "--format", "json"), QUICK_SECONDS, self.repository)
        return dict(json.loads(text)["services"]) if text else {}

    def images(self) -> list[str]:
        """The public images that the project needs: its services' own, and those that its Dockerfiles start from."""
        found: list[str] = []
        for service in self.services.values():
            build = service.get("build")
            if not build:
                found.append(str(service["image"]))
                continue
            path = Path(build["context"]) / build.get("dockerfile", "Dockerfile")
            found += base_images(path.read_text()) if path.is_file() else []
        return list(dict.fromkeys(found))

    def missing_images(self) -> list[str]:
        """Those of `images` that the engine does not have yet."""
        return [name for name in self.images() if run(["docker", "image", "inspect", name], QUICK_SECONDS) is None]

    def published(self, service: str) -> list[int]:
        """The ports of this machine that lead to a service, in the order of the compose file."""
        ports = self.services.get(service, {}).get("ports", [])
        return [int(port["published"]) for port in ports if port.get("published")]

    def port_uses(self) -> list[PortUse]:
        """Every port of this machine that the project publishes, with the setting that moves it."""
        return [
            PortUse(port, service, setting)
            for service, settings in PORT_SETTINGS.items()
            for port, setting in zip(self.published(service), settings, strict=False)
        ]

    def running(self) -> bool:
        """Whether any of the project's containers runs."""
        return bool(run(self.command("ps", "--quiet"), QUICK_SECONDS, self.repository))


@dataclass(frozen=True, slots=True)
class Choice:
    """Which stack to use, "compose" or "local", and why."""

    stack: str
    reason: str


def choose(compose: Compose, *, local_is_up: bool, report: Callable[[str], None]) -> Choice:
    """The stack for STACK=auto: Compose where an engine answers and has the images, or can pull them; else local."""
    if local_is_up:
        return Choice("local", "it is up already")
    engine = engine_version()
    if engine is None:
        return Choice("local", "no Docker engine answers")
    if compose_version() is None:
        return Choice("local", "docker has no compose plugin")
    if not compose.services:
        return Choice("local", f"docker compose cannot read {FILE}")
    missing = compose.missing_images()
    for image in missing:
        # A registry that cannot be reached is recognised by this small question; a pull might hang for minutes.
        report(f"asking the registry for {image}")
        if run(["docker", "manifest", "inspect", image], QUICK_SECONDS) is None:
            return Choice("local", f"Docker has no image {image}, and its registry does not answer")
    for image in missing:
        report(f"pulling {image} (up to {PULL_SECONDS:.0f} s)")
        if run(["docker", "pull", "--quiet", image], PULL_SECONDS) is None:
            return Choice("local", f"{image} could not be pulled")
    return Choice("compose", f"Docker {engine} answers and has the images")


def requested(environ_value: str | None, *, remembered: str | None, default: str) -> str:
    """ "compose", "local" or "auto": what STACK says, else what is up, else `default`. Raises StackError."""
    value = (environ_value or remembered or default).strip().lower()
    if value not in ("compose", "local", "auto"):
        raise StackError(f"STACK={value} means nothing.", "Give STACK=compose, STACK=local or STACK=auto.")
    return value


class Memory:
    """Remembers in the home directory which stack was brought up, so that `make down` stops that one."""

    def __init__(self, home: Path) -> None:
        self._path = home / "stack"

    def read(self) -> str | None:
        """What was brought up last and not taken down since."""
        try:
            return self._path.read_text().strip() or None
        except OSError:
            return None

    def write(self, stack: str | None) -> None:
        """Remembers a stack, or with None that there is none."""
        if stack is None:
            self._path.unlink(missing_ok=True)
        else:
            os.makedirs(self._path.parent, exist_ok=True)
            self._path.write_text(stack + "\n")
