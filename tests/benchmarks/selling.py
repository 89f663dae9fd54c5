"""One start of the sales pipeline beside a filled topic, of the bare writers, or of the baseline, watched from outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pymongo import MongoClient

from tests.benchmarks.figures import Figures
from tests.benchmarks.machine import cpu_seconds, memory_peak_mib
from tests.benchmarks.mongo import Documents, check, cpu_of, server_pids, stored
from tests.benchmarks.sales_topic import PARTITIONS, PreloadedSales
from tests.benchmarks.servers import Program, Servers
from tests.support.backend import free_port
from tests.support.process import ROOT, Service

LONGEST_SECONDS = 300.0
"""Of one start; the documents of a run that is slower are an error."""
POLL_SECONDS = 0.05
LANES = 2
"""The pipeline's, each with a batch in hand: at the topic's end these are not full and wait for their age (FLUSH_INTERVAL)."""


class Mongo:
    """The server, and what it has used."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client: MongoClient[dict[str, Any]] = MongoClient(url)
        self.pids = server_pids(urlsplit(url).port or 27017)

    @contextlib.contextmanager
    def database(self) -> Iterator[Documents]:
        """One for a single run."""
        name = f"bench_{uuid.uuid4().hex[:8]}"
        try:
            yield self.client.get_database(name)
        finally:
            self.client.drop_database(name)

    def cpu(self) -> float:
        return cpu_of(self.pids)


class _Point(NamedTuple):
    """A moment: documents seen so far, and CPU seconds used until then."""

    seen: int
    moment: float
    cpu: float
    server_cpu: float


def ours(servers: Servers, mongo: Mongo, preloaded: PreloadedSales, batch_size: int) -> Figures:
    """``python -m event_consumer sales``. The documents of the first look are not counted: their beginning was not seen. Nor are
    those of the last batches, which wait for their age.

    Raises:
        RuntimeError: it ended, took too long, or what is stored is not what was preloaded.
        AssertionError: it did not start.
    """
    with mongo.database() as database:
        settings = {**_settings(servers, mongo, preloaded, database.name), "BATCH_SIZE": str(batch_size)}
        service = Service("event_consumer sales", settings, servers.logs / f"sales-{database.name}.log")
        try:
            service.start(ready=False)
            figures = _watched(mongo, database, preloaded, service.pid, lambda: _running(service), LANES * batch_size)
        finally:
            if service.running():
                service.stop()
        check(database, preloaded.ids)
    return figures


def naive(servers: Servers, mongo: Mongo, preloaded: PreloadedSales) -> Figures:
    """The baseline, which validates and batches nothing. Raises RuntimeError as ``ours`` does."""
    with mongo.database() as database:
        settings = _settings(servers, mongo, preloaded, database.name)
        program = Program("tests.benchmarks.naive_sales", settings, servers.logs / f"naive-{database.name}.log")
        try:
            figures = _watched(mongo, database, preloaded, program.pid, program.check, 0)
        finally:
            program.stop()
        check(database, preloaded.ids)
    return figures


def bare(mongo: Mongo, preloaded: PreloadedSales, batch_size: int) -> Figures:
    """What the server takes from two writers that do nothing but insert the same documents.

    Raises:
        RuntimeError: they failed, took too long, or what is stored is not what was preloaded.
    """
    with mongo.database() as database:
        settings = {"MONGODB_URL": mongo.url, "MONGODB_DATABASE": database.name}
        sizes = {"BATCH_SIZE": str(batch_size), "SALES": str(preloaded.records)}
        used = mongo.cpu()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.bare_sales"],
                cwd=ROOT,
                env={**os.environ, **settings, **sizes},
                capture_output=True,
                text=True,
                timeout=2 * LONGEST_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not within {2 * LONGEST_SECONDS:g} s") from None
        server = mongo.cpu() - used
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        told = json.loads(done.stdout)
        check(database, preloaded.ids)
    return _figures(preloaded.records, told["seconds"], told["cpu_seconds"], server)


def _settings(servers: Servers, mongo: Mongo, preloaded: PreloadedSales, database: str) -> dict[str, str]:
    port = str(free_port())
    return {
        "ENVIRONMENT": "test",
        "KAFKA_BOOTSTRAP_SERVERS": servers.backend.kafka,
        "SALES_TOPIC": preloaded.topic,
        "SALES_TOPIC_PARTITIONS": str(PARTITIONS),
        "SALES_DLQ_TOPIC": f"{database}-dlq",
        "SALES_GROUP_ID": database,
        "SALES_PORT": port,
        "SALES_METRICS_PORT": port,
        "MONGODB_URL": mongo.url,
        "MONGODB_DATABASE": database,
    }


def _watched(
    mongo: Mongo, database: Documents, preloaded: PreloadedSales, pid: int, require_alive: Callable[[], None], rest: int
) -> Figures:
    """Returns once everything is stored; the clock has stopped when all but ``rest`` was."""
    deadline = time.monotonic() + LONGEST_SECONDS
    wanted = len(preloaded.ids)

    def until(least: int) -> _Point:
        while (seen := stored(database)) < least:
            require_alive()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{seen:,} of {wanted:,} documents were stored after {LONGEST_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
        return _Point(seen, time.perf_counter(), cpu_seconds(pid), mongo.cpu())

    first, last = until(1), until(wanted - rest)
    if last.seen == first.seen:
        raise RuntimeError(f"{last.seen:,} documents were stored at once: give more of them")
    until(wanted)
    return {
        **_figures(
            last.seen - first.seen,
            last.moment - first.moment,
            last.cpu - first.cpu,
            last.server_cpu - first.server_cpu,
        ),
        "memory_peak_mib": memory_peak_mib(pid),
    }


def _figures(documents: int, seconds: float, cpu: float, server_cpu: float) -> Figures:
    cpu, server_cpu = max(cpu, 0.01), max(server_cpu, 0.01)
    return {
        "documents_per_second": round(documents / seconds, 1),
        "documents_per_cpu_second": round(documents / cpu, 1),
        "cpu_us_per_document": round(cpu / documents * 1e6, 2),
        "server_cpu_us_per_document": round(server_cpu / documents * 1e6, 2),
        "cpu_share": round(cpu / seconds, 3),
        "server_cpu_share": round(server_cpu / seconds, 3),
        "seconds": round(seconds, 3),
        "documents_measured": documents,
    }


def _running(service: Service) -> None:
    if not service.running():
        raise RuntimeError(f"the sales pipeline has ended:\n{service.tail()}")
