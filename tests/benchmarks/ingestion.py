"""Single POSTs with durable acknowledgements: per second, and per CPU-second of the ingestion process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.bodies import bodies
from tests.benchmarks.figures import Comparison, Figures
from tests.benchmarks.generator import drive
from tests.benchmarks.machine import cpu_seconds, memory_peak_mib
from tests.benchmarks.servers import Program, Servers
from tests.support.process import Service

CONNECTIONS = (64, 256)
WARM_UP_SECONDS = 2.0
BUSY_GENERATOR = 0.9
"""Share of its one core from which on the generator may be the limit."""
RATIOS = ("events_per_second", "events_per_cpu_second", "p50_ms", "p99_ms")


def run(
    servers: Servers, generator: str, *, rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[int, Comparison]:
    """By number of connections; ``generator`` as of ``generator.choose``.

    The first, short round is thrown away: it warms the broker for whoever comes first.
    """
    found = {connections: Comparison() for connections in CONNECTIONS}
    lines = servers.logs / "bodies.txt"
    lines.write_bytes(b"\n".join(bodies(4096)) + b"\n")
    say("ingestion: a round that is not counted")
    for ours in (True, False):
        _round(servers, generator, lines, ours, 2.0)
    for number in range(1, rounds + 1):
        for ours in (True, False):
            name = "ours" if ours else "naive"
            for connections, figures in _round(servers, generator, lines, ours, seconds).items():
                side = found[connections].ours if ours else found[connections].naive
                side.rounds.append(figures)
                if figures["generator_cpu_share"] > BUSY_GENERATOR:
                    say("note: the generator used nearly all of its core; it may be what is measured")
                say(
                    f"ingestion {number}/{rounds} {name:5} {connections:3} connections: "
                    f"{figures['events_per_second']:7,.0f}/s  {figures['events_per_cpu_second']:7,.0f}/CPU-s  "
                    f"p99 {figures['p99_ms']:.1f} ms"
                )
    return found


def _round(servers: Servers, generator: str, lines: Path, ours: bool, seconds: float) -> dict[int, Figures]:
    """One process, loaded with each number of connections in turn."""
    with servers.new_round() as own:
        log = servers.logs / f"{'ours' if ours else 'naive'}-{own.topic}.log"
        service: Service | Program
        if ours:
            service = Service("ingestion_service", own.settings, log)
        else:
            service = Program("tests.benchmarks.naive_ingestion", own.settings, log)
        try:
            if isinstance(service, Program):
                service.wait_ready()
            else:
                service.start()
            return {
                connections: _measure(servers, generator, service, own.topic, lines, connections, seconds)
                for connections in CONNECTIONS
            }
        finally:
            service.stop()


def _measure(
    servers: Servers,
    generator: str,
    service: Service | Program,
    topic: str,
    lines: Path,
    connections: int,
    seconds: float,
) -> Figures:
    """Raises RuntimeError where a request failed or an acknowledged event is not in the topic."""
    url = f"{service.url}/events"
    before = servers.records_in(topic)
    warm_up = drive(generator, url, lines, connections=connections, seconds=WARM_UP_SECONDS)
    time.sleep(0.2)
    cpu = cpu_seconds(service.pid)
    load = drive(generator, url, lines, connections=connections, seconds=seconds)
    cpu = cpu_seconds(service.pid) - cpu
    time.sleep(0.5)  # what was in flight when the generator left is acknowledged to nobody, but written
    written = servers.records_in(topic) - before
    acknowledged = warm_up.requests + load.requests
    for one in (warm_up, load):
        if one.refused or one.broken:
            raise RuntimeError(f"{one.refused} requests were refused, {one.broken} broke: {service.log}")
    if not acknowledged <= written <= acknowledged + 2 * connections:
        raise RuntimeError(f"{acknowledged} events were acknowledged, {written} are in the topic")
    return {
        "events_per_second": round(load.requests / load.seconds, 1),
        "events_per_cpu_second": round(load.requests / cpu, 1),
        "cpu_share": round(cpu / load.seconds, 3),
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "max_ms": load.max_ms,
        "generator_cpu_share": load.cpu_share,
        "acknowledged": acknowledged,
        "written": written,
        "memory_peak_mib": memory_peak_mib(service.pid),
    }
