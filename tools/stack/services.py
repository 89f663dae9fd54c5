"""The platform's own programs: the migration and the services."""

import hashlib
import http.client
import json
import shlex
import sys
from collections.abc import Sequence

from tools.stack.config import SERVICES, StackConfig
from tools.stack.program import Probe, Program

MODULES = {
    "migrate": ("tools.migrate",),
    "ingestion": ("ingestion_service",),
    "consumer": ("event_consumer", "events"),
    "sales": ("event_consumer", "sales"),
    "analytics": ("analytics_service",),
}
PRIORITY = 40
MIGRATE_PRIORITY = 30


def programs(config: StackConfig) -> list[Program]:
    """The migration and services among the stack's programs. They run with this very Python, from the repository."""
    env_file = config.repository / ".env"
    # The services read .env themselves, so a change of it must restart them.
    watched = hashlib.sha256(env_file.read_bytes()).hexdigest() if env_file.is_file() else ""
    return [
        Program(
            name=name,
            command="exec " + shlex.join([sys.executable, "-m", *MODULES[name]]),
            directory=config.repository,
            priority=MIGRATE_PRIORITY if name == "migrate" else PRIORITY,
            environment=config.service_environment("sales" if name == "sales" else "consumer"),
            watched=watched,
            one_shot=name == "migrate",
            may_end=name == "sales",
            probe=None if name == "migrate" else _http_probe(config.reach, ports_of(config, name)),
        )
        for name in ("migrate", *SERVICES)
        if name in config.programs
    ]


def ports_of(config: StackConfig, service: str) -> list[int]:
    """The ports on which a service answers /health/ready."""
    metrics_only = ("SALES_METRICS_PORT",)
    uses = [use for use in config.port_uses() if use.program == service]
    return [use.port for use in uses if use.setting not in metrics_only]


def _http_probe(host: str, ports: Sequence[int]) -> Probe:
    def probe() -> str | None:
        return next((reason for port in ports if (reason := readiness(host, port))), None)

    return probe


def readiness(host: str, port: int) -> str | None:
    """None when `/health/ready` answers 200, else what it said."""
    connection = http.client.HTTPConnection(host, port, timeout=2.0)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = answer.read(2000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"port {port}: {error}"
    finally:
        connection.close()
    if answer.status == 200:
        return None
    return f"port {port}: /health/ready says {answer.status} {_compact(body)}"


def _compact(body: str) -> str:
    try:
        return json.dumps(json.loads(body))[:300]
    except ValueError:
        return body.strip()[:300]
