"""The MongoDB server that sales are measured on: what it is, what it holds, what it uses."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from event_consumer.sales.collection import INDEXES
from tests.benchmarks.machine import cpu_seconds

COLLECTION = "raw_sales"
ENGINES = ("wiredTiger", "inMemory")
"""MongoDB's own storage engines."""
_LISTENING = "0A"

Documents = Database[dict[str, Any]]


class Server(NamedTuple):
    """``real``: it is MongoDB and not a stand-in, whatever version it claims."""

    name: str
    real: bool


def server(client: MongoClient[dict[str, Any]]) -> Server:
    """Who answers. A stand-in claims a version too, but has none of MongoDB's storage engines to tell of."""
    version = client.server_info()["version"]
    try:
        engine = client.admin.command("serverStatus").get("storageEngine", {}).get("name")
    except PyMongoError:
        engine = None
    if engine in ENGINES:
        return Server(f"MongoDB {version} ({engine})", True)
    return Server(f"a stand-in for MongoDB (it claims {version})", False)


def prepared(client: MongoClient[dict[str, Any]], name: str) -> Documents:
    """A database whose collection has the pipeline's indexes and whose writes are durable when they are acknowledged."""
    database = client.get_database(name, write_concern=WriteConcern(w="majority", j=True))
    database[COLLECTION].create_indexes(list(INDEXES))
    return database


def stored(database: Documents) -> int:
    """How many documents there are, without looking at each."""
    return database[COLLECTION].estimated_document_count()


def check(database: Documents, ids: frozenset[str]) -> None:
    """The collection holds exactly ``ids``.

    Raises:
        RuntimeError: how many are missing or too many.
    """
    found = [one["_id"] for one in database[COLLECTION].find({}, {"_id": 1}, batch_size=10_000)]
    missing, strange = len(ids.difference(found)), len(set(found) - ids)
    if missing or strange or len(found) != len(ids):
        raise RuntimeError(
            f"{len(found):,} documents are stored, not {len(ids):,}: {missing:,} are missing, {strange:,} unknown"
        )


def server_pids(port: int) -> list[int]:
    """The process that listens on ``port``, or that of the container which publishes it, and its children.

    Raises:
        RuntimeError: there is none on this machine.
    """
    pid = _container_pid(port) or _listening_pid(port)
    if pid is None:
        raise RuntimeError(f"no process of this machine that may be looked at listens on port {port}")
    return [pid, *_children(pid)]


def cpu_of(pids: list[int]) -> float:
    """User and system seconds of all of them."""
    return sum(cpu_seconds(pid) for pid in pids)


def _container_pid(port: int) -> int | None:
    def told(*command: str) -> str:
        try:
            return subprocess.run(["docker", *command], capture_output=True, text=True, check=False).stdout.strip()
        except OSError:
            return ""

    container = told("ps", "-q", "--filter", f"publish={port}")
    return int(told("inspect", "-f", "{{.State.Pid}}", container)) if container else None


def _listening_pid(port: int) -> int | None:
    sockets = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(handle.readlink()) in sockets for handle in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue  # ended meanwhile, or somebody else's
    return None


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            yield child
            yield from _children(child)
