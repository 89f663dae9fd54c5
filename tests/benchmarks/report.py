"""The results as a table for people and as JSON for programs, beside the platform's targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks import consumer, ingestion
from tests.benchmarks.figures import Comparison, Side


@dataclass
class Results:
    """What was measured; None where it was not asked for."""

    ingestion: dict[int, Comparison] | None = None
    consumer: Comparison | None = None
    message_bytes: float = 0.0
    latency: Side | None = None

    def as_json(self) -> dict[str, object]:
        found: dict[str, object] = {"targets": self.targets()}
        if self.ingestion is not None:
            found["ingestion"] = {
                str(connections): one.as_json(ingestion.RATIOS) for connections, one in self.ingestion.items()
            }
        if self.consumer is not None:
            found["consumer"] = {
                "message_bytes": round(self.message_bytes, 1),
                **self.consumer.as_json(consumer.RATIOS),
            }
        if self.latency is not None:
            found["latency"] = self.latency.as_json()
        return found

    def targets(self) -> list[dict[str, object]]:
        """What the platform promises on two cores, and whether this run kept it. Information, never a verdict."""
        rows: list[tuple[str, float, float, bool]] = []
        if self.ingestion is not None:
            for connections, one in self.ingestion.items():
                value = one.ours.medians["events_per_cpu_second"]
                name = f"single POSTs per ingestion CPU-second, {connections} connections"
                rows.append((name, 8_000, value, value >= 8_000))
        if self.consumer is not None:
            value = self.consumer.ours.medians["rows_per_second"]
            rows.append(("rows consumed per second", 25_000, value, value >= 25_000))
        if self.latency is not None:
            value = self.latency.medians["p99_ms"]
            rows.append(("POST-to-visible p99 in ms at 500 events/s", 1_000, value, value <= 1_000))
        return [{"what": what, "target": target, "measured": value, "met": met} for what, target, value, met in rows]


def print_report(results: Results, machine: dict[str, Any], console: Console) -> None:
    """One table of comparisons, one of latencies, one of targets."""
    console.print(
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}\nLoad average {machine['load_average_start'][0]} at the start, "
        f"{machine['load_average_end'][0]} at the end, {machine['stolen_share']:.1%} of the CPU time stolen by the hypervisor. "
        "Medians of the rounds:",
        highlight=False,
    )
    if results.ingestion is not None or results.consumer is not None:
        console.print(_comparisons(results))
    if results.latency is not None:
        console.print(_latency(results.latency))
    targets = _table("target", "at", "measured", "")
    for row in results.targets():
        verdict = "met" if row["met"] else "not met"
        targets.add_row(str(row["what"]), _number(row["target"]), _number(row["measured"]), verdict)
    console.print(targets)


def _comparisons(results: Results) -> Table:
    table = _table("", "ours", "least–most", "baseline", "least–most", "ratio")

    def add(title: str, one: Comparison, name: str) -> None:
        ours, naive = one.ours.medians[name], one.naive.medians[name]
        table.add_row(
            title,
            _number(ours),
            _spread(one.ours, name),
            _number(naive),
            _spread(one.naive, name),
            f"{one.ratio(name):.2f}",
        )

    for connections, one in (results.ingestion or {}).items():
        add(f"POSTs/s, {connections} connections", one, "events_per_second")
        add("  per service CPU-second", one, "events_per_cpu_second")
        add("  latency p50, ms", one, "p50_ms")
        add("  latency p99, ms", one, "p99_ms")
    if results.consumer is not None:
        add("rows consumed/s", results.consumer, "rows_per_second")
        add("  per consumer CPU-second", results.consumer, "rows_per_cpu_second")
        add("  per PostgreSQL CPU-second", results.consumer, "rows_per_postgres_cpu_second")
        add("  memory peak, MiB", results.consumer, "memory_peak_mib")
    table.caption = "baseline: FastAPI body model and send_and_wait; json.loads and executemany per 100 rows"
    return table


def _spread(side: Side, name: str) -> str:
    least, most = side.spread(name)
    return f"{_number(least)}–{_number(most)}"


def _latency(side: Side) -> Table:
    table = _table("at 500 events per second, ms", "p50", "p95", "p99", "max")
    for title, prefix in (
        ("POST to acknowledged", "acknowledged_"),
        ("POST to visible in PostgreSQL", ""),
        ("POST to counted by the analytics API", "analytics_"),
    ):
        table.add_row(title, *(_number(side.medians[f"{prefix}{name}_ms"]) for name in ("p50", "p95", "p99", "max")))
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def _number(value: object) -> str:
    number = float(str(value))
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:,.1f}"
