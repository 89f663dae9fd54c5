"""2,000 events per second, open-loop: while Kafka is up, while it is gone, and while what was kept on disk is sent to it.

One process and one load go through all of it. A backlog is added before Kafka comes back, so that draining takes a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from tests.benchmarks.counters import Counters, counters
from tests.benchmarks.figures import Figures, Side, quantiles
from tests.benchmarks.machine import cpu_seconds, memory_peak_mib, reset_memory_peak
from tests.benchmarks.paced import Paced, Report
from tests.benchmarks.servers import Round, Servers
from tests.support.process import Service

EVENTS_PER_SECOND = 2_000
BACKLOG = 120_000
WARM_UP_SECONDS = 2.0
BREAKER_SECONDS = 6.0
"""After the broker's end: the breaker opens within 5."""
GAP_SECONDS = 0.5
POLL_SECONDS = 0.5
LONGEST_SECONDS = 60.0
QUANTILES = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
PHASES = ("up", "down", "draining")


class Form(NamedTuple):
    """How the events come."""

    name: str
    form: str
    events: int
    connections: int


FORMS = (Form("singles", "single", 1, 512), Form("batches of 100", "learner", 100, 32))


def run(servers: Servers, *, rounds: int, seconds: float, say: Callable[[str], None]) -> dict[str, Side]:
    """By the forms' names. Each phase but draining takes ``seconds``, which takes as long as it takes."""
    found = {form.name: Side() for form in FORMS}
    for number in range(1, rounds + 1):
        for form in FORMS:
            with servers.new_round() as own:
                figures = _Scenario(servers, own, form, seconds).run()
            found[form.name].rounds.append(figures)
            say(
                f"steady {number}/{rounds} {form.name:14} p99 up {figures['up_p99_ms']:.1f}  down {figures['down_p99_ms']:.1f}  "
                f"draining {figures['draining_p99_ms']:.1f} ms  {figures['drained_per_second']:,.0f} drained/s  "
                f"peak {figures['memory_peak_mib']:.0f} MiB"
            )
    return found


class _Scenario:
    """One round."""

    def __init__(self, servers: Servers, own: Round, form: Form, seconds: float) -> None:
        self._servers = servers
        self._own = own
        self._form = form
        self._seconds = seconds
        self._service = Service("ingestion_service", own.settings, servers.logs / f"steady-{own.topic}.log")
        self._windows: dict[str, tuple[float, float]] = {}
        self._figures: Figures = {}

    def run(self) -> Figures:
        """Raises RuntimeError where an event was refused, or acknowledged and not in Kafka at the end."""
        servers, service, form = self._servers, self._service, self._form
        backend, samples = servers.backend, servers.logs / f"steady-{self._own.topic}.samples"
        alive = True
        try:
            service.start()
            load = Paced(
                service.url,
                samples,
                form=form.form,
                events=form.events,
                rate=EVENTS_PER_SECOND / form.events,
                connections=form.connections,
            )
            try:
                time.sleep(WARM_UP_SECONDS + 1.0)
                self._watch("up", self._seconds)
                time.sleep(GAP_SECONDS)  # what is in flight when Kafka goes belongs to no phase
                killed = time.perf_counter()
                backend.kill_kafka()
                alive = False
                time.sleep(BREAKER_SECONDS)
                before = counters(service.url)
                self._watch("down", self._seconds)
                if counters(service.url).in_kafka != before.in_kafka:
                    raise RuntimeError(f"events still went to Kafka {BREAKER_SECONDS:g} s after its end: {service.log}")
                self._windows["breaking"] = (killed - GAP_SECONDS / 2, self._windows["down"][0])
                self._add_backlog()
                returning = time.perf_counter()
                backend.start_kafka()
                alive = True
                self._drain()
                self._windows["returning"] = (returning, self._windows["draining"][0])
            finally:
                report = load.stop()
            return self._judge(report)
        finally:
            if not alive:
                backend.start_kafka()
            service.stop()

    def _watch(self, phase: str, seconds: float) -> None:
        reset_memory_peak(self._service.pid)
        cpu, start = cpu_seconds(self._service.pid), time.perf_counter()
        time.sleep(seconds)
        self._end(phase, cpu, start)

    def _end(self, phase: str, cpu: float, start: float) -> None:
        end = time.perf_counter()
        self._windows[phase] = (start, end)
        self._figures[f"{phase}_cpu_share"] = round((cpu_seconds(self._service.pid) - cpu) / (end - start), 3)
        self._figures[f"{phase}_memory_peak_mib"] = memory_peak_mib(self._service.pid)

    def _add_backlog(self) -> None:
        more = Paced(
            self._service.url,
            self._servers.logs / "backlog.samples",
            form="learner",
            events=100,
            total=BACKLOG,
            connections=4,
        ).stop()
        if more.refused:
            raise RuntimeError(f"a batch was refused {more.first_refusal}")

    def _drain(self) -> None:
        """From the first record that goes from disk to Kafka until new ones go straight to it."""
        service, deadline = self._service, time.perf_counter() + LONGEST_SECONDS
        first = last = self._look()
        while not last[1].drained:
            first = last = self._look(deadline)
        reset_memory_peak(service.pid)
        cpu, start = cpu_seconds(service.pid), time.perf_counter()
        first = last
        while last[1].spooling:
            last = self._look(deadline)
        self._end("draining", cpu, start)
        drained = last[1].drained - first[1].drained
        self._figures["drained_per_second"] = round(drained / (last[0] - first[0]), 1)
        self._figures["drained"] = drained
        self._figures["backlog"] = first[1].waiting

    def _look(self, deadline: float | None = None) -> tuple[float, Counters]:
        if deadline is not None:
            time.sleep(POLL_SECONDS)
        found = time.perf_counter(), counters(self._service.url)
        if deadline is not None and found[0] > deadline:
            raise RuntimeError(f"not drained after {LONGEST_SECONDS:g} s ({found[1]}): {self._service.log}")
        return found

    def _judge(self, report: Report) -> Figures:
        if report.refused:
            raise RuntimeError(f"{report.refused} requests were refused, the first {report.first_refusal}")
        end = counters(self._service.url)
        deadline = time.perf_counter() + LONGEST_SECONDS
        while end.waiting:
            _, end = self._look(deadline)
        written = self._servers.records_in(self._own.topic)
        if not report.acknowledged + BACKLOG == end.accepted <= written or end.duplicates:
            raise RuntimeError(
                f"{report.acknowledged + BACKLOG} events were acknowledged, {end.accepted:.0f} of them as new; "
                f"{written} are in the topic: {self._service.log}"
            )
        figures = self._figures
        for phase, (start, moment) in self._windows.items():
            for name, value in quantiles(report.latencies_ms(start, moment), QUANTILES).items():
                figures[f"{phase}_{name}"] = value
        for phase in PHASES[1:]:
            figures[f"{phase}_to_up_p99"] = round(figures[f"{phase}_p99_ms"] / figures["up_p99_ms"], 2)
        figures["memory_peak_mib"] = max(figures[f"{phase}_memory_peak_mib"] for phase in PHASES)
        figures["written_twice"] = written - end.accepted
        figures["generator_cpu_share"] = report.cpu_share
        return figures
