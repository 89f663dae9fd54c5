"""Apache Kafka, one node in KRaft mode: its properties, its storage, how it is started and asked."""

import asyncio
import base64
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from tools.stack.config import POM, StackConfig
from tools.stack.errors import NotInstalledError, StackError
from tools.stack.program import Program

PRIORITY = 20
OLDEST_JAVA = 17
# One small broker on a developer's machine: a serial collector and the quick compiler start it in a third of the time.
JVM_FLAGS = (
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    # The listeners are IPv4; with this the broker reaches itself as `localhost` whatever the resolver prefers.
    "-Djava.net.preferIPv4Stack=true",
    f"-Dlog4j2.configurationFile={POM.parent / 'log4j2.properties'}",
)


def server_properties(config: StackConfig, data: Path | None = None) -> dict[str, str]:
    """The broker's properties; `data` stands in for its log directory. Retention and message sizes are Kafka's own."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{config.controller_port}",
        "listeners": f"BROKER://127.0.0.1:{config.kafka_port},CONTROLLER://127.0.0.1:{config.controller_port}",
        "advertised.listeners": f"BROKER://localhost:{config.kafka_port}",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "BROKER",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data or config.kafka_data),
        "auto.create.topics.enable": "false",
        # There is one broker, so there is one copy.
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "4",
        # A small machine: few threads, small buffers and segments.
        "num.network.threads": "2",
        "num.io.threads": "4",
        "num.recovery.threads.per.data.dir": "1",
        "background.threads": "2",
        "log.cleaner.dedupe.buffer.size": "16777216",
        "log.cleaner.io.buffer.size": "131072",
        "log.segment.bytes": "67108864",
        "group.initial.rebalance.delay.ms": "0",
        # After a kill the broker has to wait until its former self has lapsed; 3 s instead of 9.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        **config.kafka_properties,
    }


def render_properties(properties: Mapping[str, str]) -> str:
    """Java's properties format: Latin-1 with escapes."""

    def escape(value: str) -> str:
        escaped = value.replace("\\", "\\\\").replace("\n", "\\n")
        units = escaped.encode("utf-16-be")
        pairs = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
        return "".join(chr(unit) if 32 <= unit < 127 else f"\\u{unit:04x}" for unit in pairs)

    return "".join(f"{name}={escape(value)}\n" for name, value in properties.items())


def java_major(version_text: str) -> int:
    """The major version in what `java -version` prints, or in a Java's `release` file; 0 when there is none."""
    match = re.search(r'(?:version |^JAVA_VERSION=)"(\d+)', version_text, re.MULTILINE)
    return int(match[1]) if match else 0


def _major_of(java: Path) -> int:
    release = java.parent.parent / "release"  # much quicker to read than the program is to run
    found = java_major(release.read_text(errors="replace")) if release.is_file() else 0
    if found:
        return found
    result = subprocess.run(
        [str(java), "-version"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    return java_major(result.stdout + result.stderr)


def find_java(environ: Mapping[str, str]) -> Path:
    """The Java to run: the first that is new enough of JAVA_HOME's, the PATH's, and the installed ones.

    Raises NotInstalledError.
    """
    candidates = [Path(environ["JAVA_HOME"]) / "bin" / "java"] if environ.get("JAVA_HOME") else []
    on_path = shutil.which("java", path=environ.get("PATH"))
    candidates += [Path(on_path)] if on_path else []
    candidates += sorted(Path("/usr/lib/jvm").glob("*/bin/java"), reverse=True)
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and _major_of(candidate.resolve()) >= OLDEST_JAVA:
            return candidate.resolve()
    raise NotInstalledError(
        f"Java {OLDEST_JAVA} or later is needed, and none was found.", "Run `make setup`, which installs it."
    )


def _java(java: Path, config: StackConfig) -> list[str]:
    return [str(java), *JVM_FLAGS, "-cp", f"{config.jars}/*"]


def class_archive(java: Path, config: StackConfig) -> Path:
    """The class-data archive that makes later starts quicker: one per Java and set of jars, shared by all stacks."""
    key = f"{java}:{java.stat().st_mtime_ns}:{JVM_FLAGS}:{config.jars}"
    return config.jars.parent / f"kafka-{config.jars.name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.jsa"


def new_archive(java: Path, config: StackConfig) -> Path:
    """Where this stack's broker writes the archive when it stops; `keep_archive` then puts it in its place."""
    return config.home / "kafka" / class_archive(java, config).name


def keep_archive(java: Path, config: StackConfig) -> None:
    """Takes the archive into use. Call it only after the broker ended by itself: a killed one leaves half a file."""
    written, archive = new_archive(java, config), class_archive(java, config)
    if written.is_file() and not archive.exists():
        partial = archive.with_suffix(f".{config.kafka_port}.part")
        shutil.move(written, partial)
        partial.rename(archive)
    written.unlink(missing_ok=True)


def require_jars(config: StackConfig) -> None:
    """Raises NotInstalledError when Kafka's jars have not been fetched."""
    if not config.jars.is_dir():
        raise NotInstalledError("Kafka's jars are not there.", "Run `make setup`, which fetches them with Maven.")


def new_cluster_id() -> str:
    """As Kafka makes one: a UUID in base64."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def format_storage(java: Path, config: StackConfig, cluster: str | None = None) -> bool:
    """Prepares the log directory of a new broker of `cluster`, by default one of its own; says whether it had to.
    Half-made storage never gets its name."""
    if (config.kafka_data / "meta.properties").is_file():
        return False
    making = config.kafka_data.with_name("data.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    properties = making.with_name("format.properties")
    properties.write_text(render_properties(server_properties(config, making)))
    archive = class_archive(java, config)
    shared = [f"-XX:SharedArchiveFile={archive}"] if archive.is_file() else []
    # "=": an id may begin with a dash.
    arguments = [
        "kafka.tools.StorageTool",
        "format",
        f"--cluster-id={cluster or new_cluster_id()}",
        "--config",
        str(properties),
    ]
    result = subprocess.run(
        [*_java(java, config), *shared, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if result.returncode:
        raise StackError(
            f"Kafka's storage could not be made:\n{(result.stdout + result.stderr)[-2000:]}", "See the lines above."
        )
    properties.unlink()
    making.rename(config.kafka_data)
    return True


def program(java: Path, config: StackConfig) -> Program:
    """The broker as a supervised program."""
    properties = config.home / "kafka" / "server.properties"
    archive, written = shlex.quote(str(class_archive(java, config))), shlex.quote(str(new_archive(java, config)))
    pick = (
        f"if [ -s {archive} ]; then set -- -XX:SharedArchiveFile={archive}; "
        f"else set -- -XX:ArchiveClassesAtExit={written}; fi"
    )
    start = f'exec {shlex.join(_java(java, config))} "$@" kafka.Kafka {shlex.quote(str(properties))}'
    return Program(
        name="kafka",
        command=f"{pick}\n{start}",
        directory=config.home,
        priority=PRIORITY,
        watched=render_properties(server_properties(config)),
        probe=lambda: ask(config.kafka_bootstrap),
    )


def ask(bootstrap: str) -> str | None:
    """None when the broker answers with metadata that lists it, else why not. May be called within an event loop."""
    result: list[str | None] = ["no answer"]
    # A thread of its own, because the caller may already run a loop, and a thread can run only one.
    thread = threading.Thread(target=lambda: result.append(asyncio.run(_ask(bootstrap))), daemon=True)
    thread.start()
    thread.join(5.0)
    return result[-1]


async def _ask(bootstrap: str) -> str | None:
    host, _, port = bootstrap.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=2000)
        try:
            await client.bootstrap()
            # A broker that has not been let in yet (after a kill: up to its session timeout) is not listed.
            return None if client.cluster.brokers() else "not registered yet"
        finally:
            await client.close()
    except OSError:
        return f"nobody answers at {bootstrap}"
    except KafkaError as error:
        return f"{bootstrap}: {error}"
