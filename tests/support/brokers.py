"""Brokers beside the backend's, that a test may kill and move: a cluster of three, and one whose address changes.

They are the local stack's (`make setup` fetches what they need), whichever backend the other tests use.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from tests.support.backend import free_port
from tests.support.proxy import Proxy
from tools.stack import StackConfig, broker

READY_SECONDS = 90.0
STOP_SECONDS = 30.0
NODES = (1, 2, 3)


class Broker:
    """One node as a process of ours, with its data in ``config.home``; restarted by nobody but the test."""

    def __init__(self, config: StackConfig, cluster: str) -> None:
        self.config = config
        self._java = broker.find_java(os.environ)
        self._process: subprocess.Popen[bytes] | None = None
        broker.require_jars(config)
        broker.format_storage(self._java, config, cluster)

    @property
    def address(self) -> str:
        return self.config.kafka_bootstrap

    @property
    def pid(self) -> int:
        assert self._process is not None, "the broker was not started"
        return self._process.pid

    def start(self) -> None:
        """Does not wait until it serves."""
        home = self.config.home
        properties = broker.render_properties(broker.server_properties(self.config))
        (home / "kafka" / "server.properties").write_text(properties)
        launcher = home / "kafka.sh"
        launcher.write_text(broker.program(self._java, self.config).launcher(home))
        with (home / "kafka.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", str(launcher)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL; returns once it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
            self._process = None

    def check(self) -> None:
        """Fails where it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            log = (self.config.home / "kafka.log").read_text(errors="replace")[-3000:]
            raise AssertionError(f"{self.address} ended with {self._process.returncode}:\n{log}")


class ThreeBrokers:
    """A cluster of the nodes 1, 2 and 3, up when made. They take about 0.6 GiB of memory; end them with ``close``."""

    def __init__(self, home: Path) -> None:
        configs = {
            node: StackConfig.for_home(home / f"node-{node}", programs=("kafka",), ephemeral=True) for node in NODES
        }
        voters = ",".join(f"{node}@127.0.0.1:{config.controller_port}" for node, config in configs.items())
        cluster = broker.new_cluster_id()
        self._nodes: dict[int, Broker] = {}
        for node, config in configs.items():
            properties = {
                "node.id": str(node),
                "controller.quorum.voters": voters,
                "offsets.topic.replication.factor": "3",
                "transaction.state.log.replication.factor": "3",
                "transaction.state.log.min.isr": "2",
                "share.coordinator.state.topic.replication.factor": "3",
                "share.coordinator.state.topic.min.isr": "2",
            }
            self._nodes[node] = Broker(dataclasses.replace(config, kafka_properties=properties), cluster)
        try:
            for each in self._nodes.values():
                each.start()
            self.wait(NODES)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bootstrap(self) -> str:
        return ",".join(each.address for each in self._nodes.values())

    def kill(self, node: int) -> None:
        """SIGKILL; it stays dead until ``start``."""
        self._nodes[node].kill()

    def start(self, node: int) -> None:
        """Starts it again where it was; returns once the cluster lists it."""
        self._nodes[node].start()
        self.wait((node,))

    def pause(self, node: int) -> None:
        self._nodes[node].signal(signal.SIGSTOP)

    def resume(self, node: int) -> None:
        self._nodes[node].signal(signal.SIGCONT)

    def wait(self, nodes: Iterable[int]) -> None:
        """Returns once the cluster lists these nodes."""
        _wait_for(self.bootstrap, set(nodes), self._nodes.values())

    def close(self) -> None:
        for each in self._nodes.values():
            each.kill()


class MovingBroker:
    """A broker, up when made, that ``move`` gives another address. ``bootstrap`` stays: a proxy that leads to where it is, for
    the first question only, because the broker advertises its own address."""

    def __init__(self, home: Path) -> None:
        config = StackConfig.for_home(home, programs=("kafka",), ephemeral=True)
        self._broker = Broker(config, broker.new_cluster_id())
        self._proxy = Proxy(("127.0.0.1", config.kafka_port))
        self.bootstrap = self._proxy.address
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Where it is now."""
        return self._broker.address

    def move(self) -> None:
        """Kills it and starts it with its data at another address; returns once it serves there."""
        self._broker.kill()
        self._broker.config = dataclasses.replace(self._broker.config, kafka_port=free_port())
        self._proxy.retarget("127.0.0.1", self._broker.config.kafka_port)
        self._start()

    def _start(self) -> None:
        self._broker.start()
        _wait_for(self.bootstrap, {1}, [self._broker])

    def close(self) -> None:
        self._broker.kill()
        self._proxy.close()


def _wait_for(bootstrap: str, nodes: set[int], brokers: Iterable[Broker]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not nodes <= (found := _listed(bootstrap)):
        for each in brokers:
            each.check()
        assert time.monotonic() < deadline, f"nodes {sorted(found)} of {sorted(nodes)} after {READY_SECONDS:g} s"
        time.sleep(0.1)


def _listed(bootstrap: str) -> set[int]:
    """The nodes that the cluster lists; none where nobody answers."""
    found: set[int] = set()

    async def ask() -> None:
        client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=2_000)
        try:
            await client.bootstrap()
            found.update(int(each.nodeId) for each in client.cluster.brokers())
        except (KafkaError, OSError):
            pass
        finally:
            await client.close()

    # A thread of its own: the caller's may already run a loop.
    thread = threading.Thread(target=lambda: asyncio.run(ask()), daemon=True)
    thread.start()
    thread.join(10)
    return found
