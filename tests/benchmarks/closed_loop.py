"""Rounds of closed-loop load on one endpoint, by programs that take turns: per second, and per CPU-second of the program."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from tests.benchmarks.bodies import Bodies
from tests.benchmarks.counters import counters
from tests.benchmarks.figures import Comparison, Figures, Side
from tests.benchmarks.generator import Load, drive
from tests.benchmarks.machine import cpu_seconds, memory_peak_mib, reset_memory_peak
from tests.benchmarks.servers import Program, Servers
from tests.support.process import Service

Name = Literal["ours", "naive", "bare"]

WARM_UP_SECONDS = 1.0
BUSY_GENERATOR = 0.9
"""Share of its one core from which on the generator may be the limit."""
RATIOS = ("events_per_second", "events_per_cpu_second", "p50_ms", "p99_ms")
_MODULES = {"naive": "tests.benchmarks.naive_ingestion", "bare": "tests.benchmarks.bare_ingestion"}


class Case(NamedTuple):
    """What is posted where; ``sides`` are measured, in this order."""

    name: str
    path: str
    connections: int
    bodies: Bodies
    sides: Sequence[Name]


def run(
    servers: Servers, generator: str, cases: Sequence[Case], *, rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[str, Comparison]:
    """By the cases' names; ``generator`` as of ``generator.choose``.

    The first, short round is thrown away: it warms the broker for whoever comes first.
    """
    found = {case.name: Comparison() for case in cases}
    sides: list[Name] = list(dict.fromkeys(side for case in cases for side in case.sides))
    say(f"{cases[0].path}: a round that is not counted")
    for name in sides:
        _round(servers, generator, name, cases, 1.0)
    for number in range(1, rounds + 1):
        for name in sides:
            for title, figures in _round(servers, generator, name, cases, seconds).items():
                side: Side = getattr(found[title], name)
                side.rounds.append(figures)
                if figures["generator_cpu_share"] > BUSY_GENERATOR:
                    say("note: the generator used nearly all of its core; it may be what is measured")
                say(
                    f"{number}/{rounds} {name:5} {title:32} {figures['events_per_second']:7,.0f}/s  "
                    f"{figures['events_per_cpu_second']:7,.0f}/CPU-s  p99 {figures['p99_ms']:.1f} ms  "
                    f"peak {figures['memory_peak_mib']:.0f} MiB"
                )
    return found


def _round(
    servers: Servers, generator: str, name: Name, cases: Sequence[Case], seconds: float
) -> Mapping[str, Figures]:
    """One process, loaded with each of its cases in turn."""
    with servers.new_round() as own:
        log = servers.logs / f"{name}-{own.topic}.log"
        service: Service | Program
        if name == "ours":
            service = Service("ingestion_service", own.settings, log)
        else:
            service = Program(_MODULES[name], own.settings, log)
        try:
            if isinstance(service, Program):
                service.wait_ready()
            else:
                service.start()
            return {
                case.name: _measure(servers, generator, service, own.topic, case, seconds)
                for case in cases
                if name in case.sides
            }
        finally:
            service.stop()


def _measure(
    servers: Servers, generator: str, service: Service | Program, topic: str, case: Case, seconds: float
) -> Figures:
    """Raises RuntimeError where a request failed, or something else happened to an event than going straight to Kafka."""
    url, events = service.url + case.path, case.bodies.events
    before = servers.records_in(topic)
    counted = counters(service.url) if isinstance(service, Service) else None
    reset_memory_peak(service.pid)
    warm_up = drive(generator, url, case.bodies, connections=case.connections, seconds=WARM_UP_SECONDS)
    time.sleep(0.2)
    cpu = cpu_seconds(service.pid)
    # What was sent already comes again as late as possible: the platform would answer `duplicate` to it.
    start = warm_up.requests + case.connections
    load = drive(generator, url, case.bodies, connections=case.connections, seconds=seconds, start=start)
    cpu = cpu_seconds(service.pid) - cpu
    time.sleep(0.5)  # what was in flight when the generator left is acknowledged to nobody, but written
    acknowledged = (warm_up.requests + load.requests) * events
    most = acknowledged + 2 * case.connections * events
    _check(service, (warm_up, load))
    written = servers.records_in(topic) - before
    if not acknowledged <= written <= most:
        raise RuntimeError(f"{acknowledged} events were acknowledged, {written} are in the topic: {service.log}")
    spooled = 0.0
    if counted is not None:
        now = counters(service.url)
        accepted = now.accepted - counted.accepted
        spooled = now.spooled - counted.spooled
        if now.duplicates != counted.duplicates or not acknowledged <= accepted <= most:
            raise RuntimeError(f"{acknowledged} events were acknowledged, {accepted:.0f} of them as new: {service.log}")
    return {
        "events_per_second": round(load.requests * events / load.seconds, 1),
        "events_per_cpu_second": round(load.requests * events / cpu, 1),
        "cpu_share": round(cpu / load.seconds, 3),
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "p999_ms": load.p999_ms,
        "max_ms": load.max_ms,
        "generator_cpu_share": load.cpu_share,
        "acknowledged": acknowledged,
        "written": written,
        "spooled_share": round(spooled / written, 6),
        "memory_peak_mib": memory_peak_mib(service.pid),
    }


def _check(service: Service | Program, loads: Sequence[Load]) -> None:
    for one in loads:
        if one.refused or one.broken:
            raise RuntimeError(f"{one.refused} requests were refused, {one.broken} broke: {service.log}")
