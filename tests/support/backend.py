"""A real Kafka and a real Postgres for one test run, that tests may kill: in Docker, or the local stack's own.

TEST_BACKEND=docker|local chooses; without it Docker is used where an engine answers and has the images.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Protocol

import psycopg
from testcontainers.core.container import DockerContainer

from tests.support.proxy import Proxy
from tools.stack import LocalStack, StackConfig
from tools.stack.broker import ask, server_properties
from tools.stack.supervision import Supervisor

KAFKA_IMAGE = "apache/kafka:4.3.1"
POSTGRES_IMAGE = "postgres:17"
READY_SECONDS = 90.0
SMALL_DISK_MIB = 48


class NoSmallDisk(Exception):
    """None can be mounted here."""


class Backend(Protocol):
    """Two servers. After ``kill_…`` a server stays dead until ``start_…``, which returns once it serves again."""

    kafka: str
    """Bootstrap servers."""
    postgres: str
    """URL of the cluster, without a database's name."""

    def kill_kafka(self) -> None: ...
    def start_kafka(self) -> None: ...
    def kill_postgres(self) -> None: ...
    def start_postgres(self) -> None: ...
    def pause_kafka(self) -> None: ...
    def resume_kafka(self) -> None: ...
    def pause_postgres(self) -> None: ...
    def resume_postgres(self) -> None: ...
    def kafka_behind(self) -> AbstractContextManager[Proxy]:
        """A proxy before Kafka, whose address is the bootstrap server: a listener of its own advertises that address, so
        clients have no other way. It begins whole, and is whole again at the end."""

    def small_disk(self) -> AbstractContextManager[str]:
        """A disk of ``SMALL_DISK_MIB`` for Postgres: the path, as the server sees it, of an empty folder that it owns, for a
        tablespace, which must be dropped before the end. Raises NoSmallDisk."""

    def close(self) -> None: ...


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _whole(proxy: Proxy) -> Iterator[Proxy]:
    proxy.heal()
    try:
        yield proxy
    finally:
        proxy.heal()
        proxy.drop()


class LocalBackend:
    """Kafka and Postgres as ordinary processes, with free ports and a folder of their own."""

    def __init__(self, home: Path) -> None:
        behind = free_port()
        self._proxy = Proxy(("127.0.0.1", behind))
        config = StackConfig.for_home(home, programs=("kafka", "postgres"), ephemeral=True)
        listeners = server_properties(config)
        proxied = {
            "listeners": f"{listeners['listeners']},PROXIED://127.0.0.1:{behind}",
            "advertised.listeners": f"{listeners['advertised.listeners']},PROXIED://{self._proxy.address}",
            "listener.security.protocol.map": f"{listeners['listener.security.protocol.map']},PROXIED:PLAINTEXT",
        }
        self._stack = LocalStack(dataclasses.replace(config, kafka_properties=proxied))
        self._stack.up()
        self._home = home
        self._supervisor = Supervisor(home)
        self.kafka = self._stack.kafka_bootstrap
        self.postgres = self._stack.database_url.rpartition("/")[0]

    def _signal(self, program: str, number: signal.Signals) -> None:
        pid = self._stack.pid(program)
        assert pid is not None, f"{program} does not run"
        os.kill(pid, number)

    def _kill(self, program: str) -> None:
        # Its supervisor would start it again at once. So it is told to stop it, which a frozen program cannot hear.
        self._signal(program, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(self._supervisor.stop, [program])
            while not stopping.done() and self._supervisor.states()[program].state == "RUNNING":
                time.sleep(0.02)
            self._signal(program, signal.SIGKILL)
            stopping.result()

    def _start(self, program: str) -> None:
        self._stack.start(program)
        self._stack.wait_ready(program)

    def kill_kafka(self) -> None:
        self._kill("kafka")

    def start_kafka(self) -> None:
        self._start("kafka")

    def kill_postgres(self) -> None:
        self._kill("postgres")

    def start_postgres(self) -> None:
        self._start("postgres")

    def pause_kafka(self) -> None:
        self._signal("kafka", signal.SIGSTOP)

    def resume_kafka(self) -> None:
        self._signal("kafka", signal.SIGCONT)

    def _signal_all_of_postgres(self, number: signal.Signals) -> None:
        # Every connection is served by a child: frozen are they all, or the server goes on.
        postmaster = self._stack.pid("postgres")
        assert postmaster is not None, "postgres does not run"
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in [postmaster, *map(int, children)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def pause_postgres(self) -> None:
        self._signal_all_of_postgres(signal.SIGSTOP)

    def resume_postgres(self) -> None:
        self._signal_all_of_postgres(signal.SIGCONT)

    def kafka_behind(self) -> AbstractContextManager[Proxy]:
        return _whole(self._proxy)

    @contextlib.contextmanager
    def small_disk(self) -> Iterator[str]:
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        owner = self._home.joinpath("postgres", "data").stat()
        # Not below the state's folder: the server asks with access(2), which ignores the rights that let it through there.
        path = Path(tempfile.mkdtemp(prefix="small-disk-"))
        options = f"size={SMALL_DISK_MIB}m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
        try:
            done = subprocess.run(
                [*sudo, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True
            )
            problem = done.stderr.strip() if done.returncode else ""
        except FileNotFoundError as error:
            problem = str(error)
        if problem:
            path.rmdir()
            raise NoSmallDisk(problem)
        try:
            yield str(path)
        finally:
            subprocess.run([*sudo, "umount", "-l", str(path)], check=True)
            path.rmdir()

    def close(self) -> None:
        self._stack.clean()
        self._proxy.close()


class DockerBackend:
    """Kafka and Postgres in containers with fixed ports, so that they come back where they were."""

    def __init__(self) -> None:
        self._kafka_port, behind, self._postgres_port = free_port(), free_port(), free_port()
        self._proxy = Proxy(("127.0.0.1", behind))
        self.kafka = f"localhost:{self._kafka_port}"
        self.postgres = f"postgresql://postgres:postgres@localhost:{self._postgres_port}"
        listeners = f"EXTERNAL://:{self._kafka_port},PROXIED://:{behind},INTERNAL://:9092,CONTROLLER://:9093"
        advertised = (
            f"EXTERNAL://localhost:{self._kafka_port},PROXIED://{self._proxy.address},INTERNAL://localhost:9092"
        )
        protocols = ",".join(f"{name}:PLAINTEXT" for name in ("CONTROLLER", "INTERNAL", "EXTERNAL", "PROXIED"))
        kafka = {
            "NODE_ID": "1",
            "PROCESS_ROLES": "broker,controller",
            "LISTENERS": listeners,
            "ADVERTISED_LISTENERS": advertised,
            "LISTENER_SECURITY_PROTOCOL_MAP": protocols,
            "INTER_BROKER_LISTENER_NAME": "INTERNAL",
            "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
            "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "OFFSETS_TOPIC_NUM_PARTITIONS": "4",
            "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
            "BROKER_SESSION_TIMEOUT_MS": "3000",
            "BROKER_HEARTBEAT_INTERVAL_MS": "500",
            "AUTO_CREATE_TOPICS_ENABLE": "false",
            "LOG_DIRS": "/var/lib/kafka/data",
            "HEAP_OPTS": "-Xms256m -Xmx512m",
        }
        self._kafka = DockerContainer(KAFKA_IMAGE)
        for port in (self._kafka_port, behind):
            self._kafka = self._kafka.with_bind_ports(port, port)
        for name, value in kafka.items():
            self._kafka = self._kafka.with_env(f"KAFKA_{name}", value)
        self._postgres = (
            DockerContainer(POSTGRES_IMAGE)
            .with_env("POSTGRES_PASSWORD", "postgres")
            .with_bind_ports(5432, self._postgres_port)
            .with_tmpfs_mount("/small_disk", f"size={SMALL_DISK_MIB}m,mode=0777")
        )
        self._kafka.start()
        self._postgres.start()
        self._wait_for_postgres()
        self._wait_until_kafka_answers()

    def _wait_until_kafka_answers(self) -> None:
        # A published port answers long before the broker behind it does.
        deadline = time.monotonic() + READY_SECONDS
        while problem := ask(self.kafka):
            if time.monotonic() > deadline:
                raise TimeoutError(f"Kafka at {self.kafka} did not answer within {READY_SECONDS:g} s: {problem}")
            time.sleep(0.2)

    def _wait_for_postgres(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                psycopg.connect(f"{self.postgres}/postgres", connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def kill_kafka(self) -> None:
        self._kafka.get_wrapped_container().kill()

    def start_kafka(self) -> None:
        self._kafka.get_wrapped_container().start()
        self._wait_until_kafka_answers()

    def kill_postgres(self) -> None:
        self._postgres.get_wrapped_container().kill()

    def start_postgres(self) -> None:
        self._postgres.get_wrapped_container().start()
        self._wait_for_postgres()

    def pause_kafka(self) -> None:
        self._kafka.get_wrapped_container().pause()

    def resume_kafka(self) -> None:
        self._kafka.get_wrapped_container().unpause()

    def pause_postgres(self) -> None:
        self._postgres.get_wrapped_container().pause()

    def resume_postgres(self) -> None:
        self._postgres.get_wrapped_container().unpause()

    def kafka_behind(self) -> AbstractContextManager[Proxy]:
        return _whole(self._proxy)

    @contextlib.contextmanager
    def small_disk(self) -> Iterator[str]:
        for command in (
            "rm -rf /small_disk/tablespace",
            "install -d -m 0700 -o postgres -g postgres /small_disk/tablespace",
        ):
            code, output = self._postgres.get_wrapped_container().exec_run(command, user="root")
            assert code == 0, output
        yield "/small_disk/tablespace"

    def close(self) -> None:
        self._kafka.stop()
        self._postgres.stop()
        self._proxy.close()


def on_docker(*images: str) -> bool:
    """Whether TEST_BACKEND asks for Docker or, where it is unset, an engine answers and has ``images``, or can pull them."""
    wanted = os.environ.get("TEST_BACKEND", "")
    if wanted not in ("", "docker", "local"):
        raise ValueError(f"TEST_BACKEND={wanted}: docker, local, or unset")
    chosen = wanted == "docker" or (not wanted and _docker_has(images))
    if chosen:
        os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    return chosen


def _docker_has(images: Sequence[str]) -> bool:
    def runs(*command: str, seconds: float) -> bool:
        try:
            return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False

    if not runs("docker", "info", seconds=10):
        return False
    return all(
        runs("docker", "image", "inspect", image, seconds=10) or runs("docker", "pull", "-q", image, seconds=180)
        for image in images
    )


def open_backend(home: Path) -> Backend:
    """The backend that TEST_BACKEND asks for, started. ``home`` is where the local one keeps its state."""
    return DockerBackend() if on_docker(KAFKA_IMAGE, POSTGRES_IMAGE) else LocalBackend(home)
