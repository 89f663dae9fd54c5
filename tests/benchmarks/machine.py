"""What a figure was measured on, and what processes used while it was measured."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psycopg

_TICK = os.sysconf("SC_CLK_TCK")
_PACKAGES = (
    "aiokafka asyncpg cramjam fastapi httptools msgspec orjson pydantic pydantic_core starlette uvicorn uvloop".split()
)


def facts() -> dict[str, object]:
    """Cores, memory, system and versions as JSON values."""
    memory = _field(Path("/proc/meminfo"), "MemTotal")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _field(Path("/proc/cpuinfo"), "model name"),
        "memory_gib": round(int(memory.split()[0]) / 2**20, 1),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "packages": {package: version(package) for package in _PACKAGES},
    }


def loop_ms(times_over: int = 7) -> float:
    """The CPU time that a fixed pure Python loop takes now: some machines' speed changes from minute to minute."""
    times = []
    for _ in range(times_over):
        start = time.thread_time()
        sum(i * i for i in range(200_000))
        times.append(time.thread_time() - start)
    return round(median(times) * 1000, 2)


def load_average() -> list[float]:
    """Over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def stolen_seconds() -> float:
    """CPU time that a hypervisor gave to others although this machine wanted it, since the machine's start."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / _TICK


def cpu_seconds(pid: int) -> float:
    """User and system time of one process with its threads, without its children; in steps of 10 ms on Linux."""
    user, system, _, _ = _times(Path(f"/proc/{pid}/stat").read_text())
    return user + system


def memory_peak_mib(pid: int) -> float:
    """The most memory the process had resident, ever or since ``reset_memory_peak``."""
    return round(int(_field(Path(f"/proc/{pid}/status"), "VmHWM").split()[0]) / 1024, 1)


def reset_memory_peak(pid: int) -> None:
    """From now on ``memory_peak_mib`` tells of what comes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def postgres_cpu_seconds(connection: psycopg.Connection[tuple[object, ...]]) -> float:
    """User and system time of the whole server, asked of itself, so that it is the same in a container.

    The postmaster's account holds what its ended children used; the living ones are in pg_stat_activity.
    """
    row = connection.execute("select split_part(pg_read_file('postmaster.pid'), E'\\n', 1)").fetchone()
    assert row is not None
    postmaster = int(str(row[0]))
    rows = connection.execute(
        "select pid, pg_read_file('/proc/' || pid || '/stat', 0, 10000, true) from"
        " (select pid from pg_stat_activity union select %s) as processes (pid)",
        [postmaster],
    ).fetchall()
    total = 0.0
    for pid, stat in rows:
        if stat:
            times = _times(str(stat))
            total += sum(times) if pid == postmaster else times[0] + times[1]
    return total


def wal_bytes(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    """How much write-ahead log the server has written since it was made."""
    row = connection.execute("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
    assert row is not None
    return int(str(row[0]))


def server_versions(connection: psycopg.Connection[tuple[object, ...]]) -> dict[str, str]:
    """What decides how durable a commit is, too."""
    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size")
    found = {}
    for name in names:
        row = connection.execute("select current_setting(%s)", [name]).fetchone()
        assert row is not None
        found[name] = str(row[0])
    return found


def _times(stat: str) -> tuple[float, float, float, float]:
    """utime, stime, cutime, cstime in seconds; the second field of ``stat`` may hold blanks and parentheses."""
    fields = stat.rpartition(")")[2].split()
    user, system, children_user, children_system = (int(field) / _TICK for field in fields[11:15])
    return user, system, children_user, children_system


def _field(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "0"
