"""The disk buffer with Kafka gone: bytes per event, events per CPU-second, and how fast it drains when nothing else happens."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.counters import counters
from tests.benchmarks.figures import Figures
from tests.benchmarks.machine import cpu_seconds, memory_peak_mib, reset_memory_peak
from tests.benchmarks.paced import Paced
from tests.benchmarks.servers import Round, Servers
from tests.support.process import Service

HALF_AN_HOUR = 30 * 60 * 2_000
"""Events that the collector's requirements want to be kept."""
CODEC = "journal: records grouped by lane, zstd level 1; segments after compaction: columns, zstd level 9"
MAX_MEBIBYTES = 100
FILES_OF_ITS_OWN = {"ballast", "lock"}
CALM_SECONDS = 4.0
LONGEST_SECONDS = 600.0
POLL_SECONDS = 0.25
DRAIN_POLL_SECONDS = 0.05


class Kind(NamedTuple):
    """How the events come; the share of ``--spool-events`` that is sent so."""

    name: str
    events: int
    connections: int
    share: float


KINDS = (Kind("batches of 100", 100, 8, 1.0), Kind("batches of 1", 1, 64, 0.15))


def run(servers: Servers, *, events: int, say: Callable[[str], None]) -> dict[str, Figures]:
    """By the kinds' names; ``events`` learner events in batches of 100, fewer one by one."""
    found = {}
    for kind in KINDS:
        total = round(events * kind.share / kind.events) * kind.events
        if kind.events == 1:
            total = min(total, 100_000)
        with servers.new_round() as own:
            found[kind.name] = figures = _measure(servers, own, kind, total)
        say(
            f"spool {kind.name:14} {figures['kept']:,.0f} events: {figures['bytes_per_event']:.1f} bytes/event  "
            f"{figures['events_per_second']:,.0f}/s  {figures['events_per_cpu_second']:,.0f}/CPU-s  "
            f"drains {figures['drained_per_second']:,.0f}/s  peak {figures['memory_peak_mib']:.0f} MiB"
        )
    return found


def _measure(servers: Servers, own: Round, kind: Kind, total: int) -> Figures:
    """Raises RuntimeError where an event was refused before the buffer was full, or did not come out again."""
    directory = Path(own.settings["BUFFER_DIR"])
    settings = {**own.settings, "MAX_BUFFER_SIZE_MB": str(MAX_MEBIBYTES)}
    service = Service("ingestion_service", settings, servers.logs / f"spool-{own.topic}.log")
    servers.backend.kill_kafka()
    alive = False
    try:
        service.start()
        empty = _size(directory)
        cpu = cpu_seconds(service.pid)
        load = Paced(
            service.url,
            servers.logs / f"spool-{own.topic}.samples",
            form="learner",
            events=kind.events,
            total=total,
            connections=kind.connections,
        ).stop(LONGEST_SECONDS)
        written = cpu_seconds(service.pid) - cpu
        commits = counters(service.url).commits
        apparent, allocated = _calm(directory)
        cpu = cpu_seconds(service.pid) - cpu
        kept = counters(service.url)
        if kept.waiting != load.acknowledged or kept.accepted != load.acknowledged:
            raise RuntimeError(
                f"{load.acknowledged} events were acknowledged, {kept.waiting:.0f} are kept: {service.log}"
            )
        peak = memory_peak_mib(service.pid)
        reset_memory_peak(service.pid)
        servers.backend.start_kafka()
        alive = True
        drain = _drain(service, load.acknowledged)
        if servers.records_in(own.topic) < load.acknowledged:
            raise RuntimeError(f"of {load.acknowledged} events not all are in the topic: {service.log}")
        size = apparent - empty[0]
        return {
            "sent": total,
            "kept": load.acknowledged,
            "refused_requests": load.refused,
            "bytes_per_event": round(size / load.acknowledged, 2),
            "allocated_bytes_per_event": round((allocated - empty[1]) / load.acknowledged, 2),
            "limited_bytes": kept.buffer_bytes,
            "minutes_in_100_mib": round((MAX_MEBIBYTES << 20) / (size / load.acknowledged) / 2_000 / 60, 1),
            "events_per_commit": round(load.acknowledged / max(commits, 1), 1),
            "events_per_second": round(load.acknowledged / load.seconds, 1),
            "events_per_cpu_second": round(load.acknowledged / written, 1),
            "events_per_cpu_second_compacted": round(load.acknowledged / cpu, 1),
            "generator_cpu_share": load.cpu_share,
            "memory_peak_mib": peak,
            **drain,
        }
    finally:
        if not alive:
            servers.backend.start_kafka()
        service.stop()


def _size(directory: Path) -> tuple[int, int]:
    """(bytes in files, bytes of blocks) without what it always has."""
    stats = []
    for path in directory.rglob("*"):
        try:
            if path.is_file() and path.name not in FILES_OF_ITS_OWN:
                stats.append(path.stat())
        except FileNotFoundError:  # compacted in between
            continue
    return sum(one.st_size for one in stats), sum(one.st_blocks * 512 for one in stats)


def _calm(directory: Path) -> tuple[int, int]:
    """The size once compaction is done: nothing changed for a while."""
    deadline = time.monotonic() + LONGEST_SECONDS
    seen, since = _size(directory), time.monotonic()
    while time.monotonic() - since < CALM_SECONDS and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        now = _size(directory)
        if now != seen:
            seen, since = now, time.monotonic()
    return seen


def _drain(service: Service, total: int) -> Figures:
    """From just before the first record goes to Kafka to the last."""
    deadline = time.monotonic() + LONGEST_SECONDS
    cpu, began, ended = cpu_seconds(service.pid), time.perf_counter(), 0.0
    first = last = counters(service.url).drained
    while last < total:
        time.sleep(DRAIN_POLL_SECONDS)
        now = cpu_seconds(service.pid), time.perf_counter()
        last, ended = counters(service.url).drained, time.perf_counter()
        if not last:
            cpu, began = now
        if time.monotonic() > deadline:
            raise RuntimeError(f"not drained after {LONGEST_SECONDS:g} s: {service.log}")
    cpu = max(cpu_seconds(service.pid) - cpu, 0.01)
    drained = last - first
    return {
        "drained_per_second": round(drained / (ended - began), 1),
        "drained_per_cpu_second": round(drained / cpu, 1),
        "draining_memory_peak_mib": memory_peak_mib(service.pid),
    }
