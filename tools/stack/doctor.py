"""What this machine has and lacks to run the platform. The judgements are pure; `examine` gathers the facts."""

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.stack import broker, database, ports
from tools.stack.compose import Compose, compose_version, engine_version
from tools.stack.errors import NotInstalledError
from tools.stack.stack import LocalStack

SETUP = "make setup (installs it when root on Debian or Ubuntu, else says how)"
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Check:
    """One row: what was looked at, what was found, and, when `ok` is false, how to get it right."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    needed_by: frozenset[str] = frozenset()
    """The stacks that cannot run without it; empty when it is only a warning."""


LOCAL, COMPOSE, BOTH = frozenset({"local"}), frozenset({"compose"}), frozenset({"local", "compose"})


def verdict(checks: Sequence[Check], stack: str) -> tuple[bool, str]:
    """Whether the chosen stack can run, with "auto" any of them, and a sentence that says so."""
    fails = {s: [c.name for c in checks if not c.ok and s in c.needed_by] for s in ("local", "compose")}
    wanted = ["local", "compose"] if stack == "auto" else [stack]
    able = [s for s in wanted if not fails[s]]
    words = [
        f"the {s} stack can run" if not fails[s] else f"the {s} stack lacks: {', '.join(fails[s])}" for s in wanted
    ]
    sentence = "; ".join(words)
    return bool(able), sentence[:1].upper() + sentence[1:] + "."


def python_check(version: tuple[int, int], text: str) -> Check:
    """Python itself."""
    return Check("Python >= 3.11", version >= (3, 11), text, "Install Python 3.11 or later; then make setup.", BOTH)


def java_check(version_text: str) -> Check:
    """`version_text` is what `java -version` printed, "" without java."""
    major = broker.java_major(version_text)
    found = version_text.splitlines()[0] if version_text else "none"
    return Check("Java >= 17", major >= broker.OLDEST_JAVA, found, SETUP, LOCAL)


def jars_check(*, kafka: bool, mongo: bool, maven: str) -> list[Check]:
    """Kafka's and the MongoDB server's jars, and Maven, which is only needed to fetch them."""

    def jars(whose: str, there: bool) -> Check:
        return Check(f"{whose} jars", there, "fetched" if there else "not fetched", "make setup", LOCAL)

    return [
        Check("Maven", bool(maven), maven or "none", SETUP, frozenset() if kafka and mongo else LOCAL),
        jars("Kafka's", kafka),
        jars("MongoDB server's", mongo),
    ]


def postgres_check(found: Sequence[database.Installation], data_version: str) -> Check:
    """PostgreSQL's server, of the version that the data of this stack needs."""
    text = ", ".join(f"{f.major} ({f.bindir})" for f in found) or "none"
    name = f"PostgreSQL {data_version}" if data_version else f"PostgreSQL >= {database.OLDEST}"
    try:
        database.choose(found, data_version)
    except NotInstalledError as error:
        return Check(name, False, text, error.remedy, LOCAL)
    return Check(name, True, text, needed_by=LOCAL)


def docker_checks(engine: str | None, compose: str | None, missing: Sequence[str] | None) -> list[Check]:
    """The engine, Compose v2, and the images; `missing` is None when there was nobody to ask."""
    install = "Install Docker Engine with its compose plugin, and start it; or use the local stack."
    rows = [
        Check("Docker engine", engine is not None, engine or "does not answer", install, COMPOSE),
        Check("docker compose v2", compose is not None, compose or "none", install, COMPOSE),
    ]
    if missing is not None:
        found = f"not yet pulled: {', '.join(missing)}" if missing else "all there"
        # Not a lack: `up` pulls them, where a registry answers.
        rows.append(Check("Docker images", not missing, found, "docker compose -f docker/docker-compose.yml pull"))
    return rows


def port_checks(uses: Sequence[ports.PortUse], taken: Sequence[ports.TakenPort]) -> list[Check]:
    """One row for all that are free, and one for each that is not."""
    bad = {t.use.port for t in taken}
    free = [str(use.port) for use in uses if use.port not in bad]
    rows = [Check("Ports", True, f"free or this stack's own: {', '.join(free)}")] if free else []
    for t in taken:
        remedy = f"End that process, or set {t.use.setting} (environment or .env)."
        rows.append(Check(f"Port {t.use.port}", False, t.describe(), remedy, BOTH))
    return rows


def disk_check(free_bytes: int) -> Check:
    """Space for the data; a fresh stack takes about 0.2 GiB."""
    text = f"{free_bytes / GIB:.1f} GiB free"
    return Check("Disk", free_bytes >= 2 * GIB, text, "Free some space: Kafka keeps a week of events.")


def memory_check(meminfo: str) -> Check:
    """`meminfo` is the text of /proc/meminfo; the local stack takes about 0.9 GiB."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    if not match:
        return Check("Memory", True, "unknown")
    available = int(match[1]) * 1024
    return Check(
        "Memory", available >= GIB, f"{available / GIB:.1f} GiB available", "End other programs: 1 GiB is wanted."
    )


def descriptor_check(hard_limit: int) -> Check:
    """Every client holds a file descriptor of the ingestion service."""
    unlimited = hard_limit == resource.RLIM_INFINITY
    found = "unlimited" if unlimited else f"up to {hard_limit}"
    return Check("File descriptors", unlimited or hard_limit >= 4096, found, "Raise the hard limit: ulimit -Hn")


def examine(stack: LocalStack) -> list[Check]:
    """Looks at this machine, as the place for this stack or for Compose."""
    config = stack.config
    try:
        java_text = _text([str(broker.find_java(os.environ)), "-version"])
    except NotInstalledError:
        java_text = ""
    maven = _text(["mvn", "-v"])
    maven_line = re.sub(r"\x1b\[[0-9;]*m", "", maven.splitlines()[0]) if maven else ""
    version = config.postgres_data / "PG_VERSION"
    data_version = version.read_text().strip() if version.is_file() else ""
    uses = config.port_uses()
    compose = Compose(config.repository)
    # Where Compose is what runs, its published ports are not somebody else's.
    foreign = [] if compose.running() else stack.taken_ports()
    engine, plugin = engine_version(), compose_version()
    existing = next(folder for folder in (config.home, *config.home.parents) if folder.is_dir())
    meminfo = Path("/proc/meminfo")
    return [
        python_check(
            (int(platform.python_version_tuple()[0]), int(platform.python_version_tuple()[1])),
            platform.python_version(),
        ),
        Check("uv", True, importlib.metadata.version("uv")),
        java_check(java_text),
        *jars_check(kafka=config.jars.is_dir(), mongo=config.mongo_classes.is_dir(), maven=maven_line),
        postgres_check(database.installations(os.environ), data_version),
        *docker_checks(engine, plugin, compose.missing_images() if engine and plugin else None),
        *port_checks(uses, foreign),
        disk_check(shutil.disk_usage(existing).free),
        memory_check(meminfo.read_text() if meminfo.is_file() else ""),
        descriptor_check(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
    ]


def _text(command: Sequence[str]) -> str:
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (result.stdout + result.stderr).strip() if result.returncode == 0 else ""
