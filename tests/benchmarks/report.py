"""The results as a table for people and as JSON for programs, beside the platform's targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import analytics_tables, closed_loop, spool
from tests.benchmarks.analytics import Analysed
from tests.benchmarks.consumer import Consumed
from tests.benchmarks.figures import Comparison, Figures, Side
from tests.benchmarks.sales import Sold
from tests.benchmarks.tables import number as _number
from tests.benchmarks.tables import table as _table

_Judge = Callable[[str, float, float], None]


@dataclass
class Results:
    """What was measured; None where it was not asked for."""

    ingestion: dict[str, Comparison] | None = None
    collect: dict[str, Comparison] | None = None
    steady: dict[str, Side] | None = None
    spool: dict[str, Figures] | None = None
    consumer: Consumed | None = None
    sales: Sold | None = None
    latency: Side | None = None
    analytics: Analysed | None = None

    def as_json(self) -> dict[str, object]:
        found: dict[str, object] = {"targets": self.targets()}
        for part, cases in (("ingestion", self.ingestion), ("collect", self.collect)):
            if cases is not None:
                found[part] = {name: one.as_json(closed_loop.RATIOS) for name, one in cases.items()}
        if self.steady is not None:
            found["steady"] = {name: side.as_json() for name, side in self.steady.items()}
        if self.spool is not None:
            found["spool"] = {"codec": spool.CODEC, **self.spool}
        if self.consumer is not None:
            found["consumer"] = self.consumer.as_json()
        if self.sales is not None:
            found["sales"] = self.sales.as_json()
        if self.latency is not None:
            found["latency"] = self.latency.as_json()
        if self.analytics is not None:
            found["analytics"] = self.analytics.as_json()
        return found

    def targets(self) -> list[dict[str, object]]:
        """What the platform promises on two cores, and whether this run kept it. Information, never a verdict."""
        rows: list[tuple[str, float, float, bool]] = []

        def least(what: str, target: float, value: float) -> None:
            rows.append((what, target, value, value >= target))

        def most(what: str, target: float, value: float) -> None:
            rows.append((what, target, value, value <= target))

        for name, one in (self.ingestion or {}).items():
            target = 14_000 if name.startswith("256") else 8_000
            least(f"single POSTs per ingestion CPU-second, {name}", target, one.ours.medians["events_per_cpu_second"])
        for name, one in (self.collect or {}).items():
            if "gzip" not in name:
                least(f"events per ingestion CPU-second, {name}", 80_000, one.ours.medians["events_per_cpu_second"])
        for name, side in (self.steady or {}).items():
            median = side.medians
            most(f"p99 in ms at 2,000 events/s, {name}", 40, median["up_p99_ms"])
            most(f"  with the broker down, as a multiple, {name}", 2, median["down_to_up_p99"])
            least(f"  drained per second meanwhile, {name}", 6_000, median["drained_per_second"])
        for name, figures in (self.spool or {}).items():
            most(f"bytes on disk per event, {name}", 29, figures["bytes_per_event"])
        peaks = [
            *(
                one.ours.medians["memory_peak_mib"]
                for cases in (self.ingestion, self.collect)
                for one in (cases or {}).values()
            ),
            *(side.medians["memory_peak_mib"] for side in (self.steady or {}).values()),
            *(max(one["memory_peak_mib"], one["draining_memory_peak_mib"]) for one in (self.spool or {}).values()),
        ]
        if peaks:
            most("memory peak of the ingestion service, MiB", 190, max(peaks))
        if self.consumer is not None:
            _consumer_targets(self.consumer, least, most)
        if self.sales is not None and self.sales.real:  # a stand-in's own ceiling is below it
            for size, one in self.sales.sizes.items():
                if one.ours.rounds:
                    rate = one.ours.medians["documents_per_second"]
                    least(f"sales stored per second, BATCH_SIZE={size}", 15_000, rate)
        if self.latency is not None:
            most("POST-to-visible p99 in ms at 500 events/s", 1_000, self.latency.medians["p99_ms"])
        if self.analytics is not None:
            rows += self.analytics.targets()
        return [{"what": what, "target": target, "measured": value, "met": met} for what, target, value, met in rows]


def _consumer_targets(found: Consumed, least: _Judge, most: _Judge) -> None:
    """``aimed at`` is more than what is asked for."""
    medians = {"plain": found.plain.medians, **{name: one.ours.medians for name, one in found.cases.items()}}
    for name in ("plain", "ledger", "ledger-random"):
        if medians.get(name):
            least(f"rows consumed per second, {name}", 40_000, medians[name]["rows_per_second"])
    if found.plain.rounds:
        least("  aimed at, plain", 60_000, medians["plain"]["rows_per_second"])
    for name, ratio in (("duplicates", 0.9), ("poison", 0.7)):
        if name in found.cases:
            least(f"  as a multiple of plain, {name}", ratio, found.cases[name].ratio("rows_per_second", "plain"))
    if "share" in found.cases:
        most("seconds until a second consumer stores rows", 10, medians["share"]["seconds_to_share"])
    peaks = [median["memory_peak_mib"] for median in medians.values() if median]
    if peaks:
        most("memory peak of the consumer, MiB", 190, max(peaks))


def print_report(results: Results, machine: dict[str, Any], console: Console) -> None:
    """One table of comparisons, one of latencies, one of targets."""
    console.print(
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}\nLoad average {machine['load_average_start'][0]} at the start, "
        f"{machine['load_average_end'][0]} at the end, {machine['stolen_share']:.1%} of the CPU time stolen by the hypervisor; "
        f"a fixed Python loop took {machine['loop_ms_start']} ms of CPU time at the start, {machine['loop_ms_end']} ms "
        "at the end. "
        "Medians of the rounds:",
        highlight=False,
    )
    if results.ingestion is not None or results.collect is not None:
        console.print(_comparisons(results))
    if results.consumer is not None:
        console.print(_consumer(results.consumer))
        for line in results.consumer.errors:
            console.print(f"ERROR {line}", markup=False, highlight=False)
    if results.sales is not None:
        if results.sales.sizes:
            console.print(_sales(results.sales))
        for line in results.sales.errors:
            console.print(f"ERROR {line}", markup=False, highlight=False)
    if results.steady is not None:
        for name, side in results.steady.items():
            console.print(_steady(name, side))
    if results.spool is not None:
        console.print(_spool(results.spool))
    if results.latency is not None:
        console.print(_latency(results.latency))
    if results.analytics is not None:
        for table in analytics_tables.tables(results.analytics):
            console.print(table)
        for line in results.analytics.errors:
            console.print(f"ERROR {line}", markup=False, highlight=False)
    rows = results.targets()
    if not rows:
        return
    targets = _table("target", "at", "measured", "")
    for row in rows:
        verdict = "met" if row["met"] else "not met"
        targets.add_row(str(row["what"]), _number(row["target"]), _number(row["measured"]), verdict)
    console.print(targets)


def _comparisons(results: Results) -> Table:
    table = _table("", "ours", "least–most", "bare", "ours/bare", "naive", "ours/naive")

    def add(title: str, one: Comparison, name: str) -> None:
        row = [title, _number(one.ours.medians[name]), _spread(one.ours, name)]
        for beside, side in (("bare", one.bare), ("naive", one.naive)):
            row += [_number(side.medians[name]), f"{one.ratio(name, beside):.2f}"] if side.rounds else ["–", "–"]
        table.add_row(*row)

    for unit, cases in (("POSTs/s", results.ingestion), ("events/s", results.collect)):
        for name, one in (cases or {}).items():
            add(f"{unit}, {name}", one, "events_per_second")
            add("  per service CPU-second", one, "events_per_cpu_second")
            add("  latency p50, ms", one, "p50_ms")
            add("  latency p99, ms", one, "p99_ms")
            add("  latency p99.9, ms", one, "p999_ms")
            add("  memory peak, MiB", one, "memory_peak_mib")
    table.caption = (
        "bare: one validation, one append, one shared future, and nothing else\n"
        "naive: FastAPI body model and send_and_wait"
    )
    return table


def _consumer(found: Consumed) -> Table:
    heads = (
        "rows/s",
        "least–most",
        "beside\nplain",
        "rows/CPU\nbeside it",
        "CPU\nµs/row",
        "Postgres\nµs/row",
        "WAL\nB/row",
    )
    table = _table(f"consumer, {found.value_bytes:.0f} bytes", *heads, "peak\nMiB", "busy", "loop\nms")

    def add(title: str, side: Side, ratios: list[float]) -> None:
        median = side.medians
        if median:
            table.add_row(
                title,
                _number(median["rows_per_second"]),
                _spread(side, "rows_per_second"),
                *([f"{ratio:.2f}" for ratio in ratios] or ["", ""]),
                *(f"{median[name]:.1f}" for name in ("cpu_us_per_row", "postgres_cpu_us_per_row")),
                *(_number(median[name]) for name in ("wal_bytes_per_row", "memory_peak_mib")),
                f"{median['cpu_share']:.0%}",
                f"{median['loop_ms']:.1f}",
            )

    add("plain", found.plain, [])
    for name, one in found.cases.items():
        add(name, one.ours, [one.ratio(figure, "plain") for figure in ("rows_per_second", "rows_per_loop")])
    add("naive", found.naive.naive, [1 / found.naive.ratio(figure) for figure in ("rows_per_second", "rows_per_loop")])
    lines = [
        "rows/CPU: rows per CPU time, the consumer's and PostgreSQL's together, in units of a fixed Python loop's",
        "naive: json.loads and executemany per 100 rows",
    ]
    if found.ledger_rows:
        lines.append(f"ledger: {found.ledger_rows:,} ids were there before")
    if "share" in found.cases:
        median = found.cases["share"].ours.medians
        lines.append(
            f"share: the second consumer stored its first row {median['seconds_to_share']:.1f} s after its start, "
            f"and {median['share_of_second']:.0%} of the rows from then on"
        )
    table.caption = "\n".join(lines)
    return table


def _sales(found: Sold) -> Table:
    heads = ("docs/s", "least–most", "ceiling", "ours/\nceiling", "beside\nplain", "docs/\nCPU-s", "CPU\nµs/doc")
    table = _table(f"sales, {found.value_bytes:.0f} bytes", *heads, "MongoDB\nµs/doc", "peak\nMiB", "busy")

    def add(title: str, side: Side, *beside: str) -> None:
        median = side.medians
        if median:
            table.add_row(
                title,
                _number(median["documents_per_second"]),
                _spread(side, "documents_per_second"),
                *beside,
                _number(median["documents_per_cpu_second"]),
                f"{median['cpu_us_per_document']:.1f}",
                f"{median['server_cpu_us_per_document']:.1f}",
                _number(median["memory_peak_mib"]),
                f"{median['cpu_share']:.0%}",
            )

    rate = "documents_per_second"
    for size, one in found.sizes.items():
        if one.bare.rounds:
            add(f"BATCH_SIZE={size}", one.ours, _number(one.bare.medians[rate]), f"{one.ratio(rate, 'bare'):.2f}", "")
    add("1 % duplicates", found.duplicates.ours, "", "", f"{found.duplicates.ratio(rate, 'plain'):.2f}")
    add("naive", found.naive.naive, "", "", f"{1 / found.naive.ratio(rate):.2f}")
    lines = [
        f"server: {found.server}; {found.sales:,} sales a run",
        "ceiling: the server's own; two writers insert the same documents in batches of that size, and do nothing else",
        "naive: insert_one and a commit per message; it and duplicates beside BATCH_SIZE=100",
    ]
    if not found.real:
        lines.append("15,000 documents/s are promised of MongoDB itself; of a stand-in only what its ceiling allows")
    table.caption = "\n".join(lines)
    return table


def _steady(name: str, side: Side) -> Table:
    table = _table(f"2,000 events/s, {name}; ms", "p50", "p99", "p99.9", "max", "p99 beside up", "CPU", "peak MiB")
    median = side.medians
    for title, phase in (("Kafka up", "up"), ("Kafka down", "down"), ("draining", "draining")):
        beside = "" if phase == "up" else f"{median[f'{phase}_to_up_p99']:.2f}"
        latencies = [_number(median[f"{phase}_{quantile}_ms"]) for quantile in ("p50", "p99", "p999", "max")]
        table.add_row(
            title,
            *latencies,
            beside,
            f"{median[f'{phase}_cpu_share']:.0%}",
            _number(median[f"{phase}_memory_peak_mib"]),
        )
    table.caption = (
        f"{median['drained_per_second']:,.0f} records/s from disk to Kafka meanwhile, {median['drained']:,.0f} in all; "
        f"longest wait as Kafka went {median['breaking_max_ms']:,.0f} ms; "
        f"the generator used {median['generator_cpu_share']:.0%} of a core"
    )
    return table


def _spool(found: dict[str, Figures]) -> Table:
    table = _table("disk buffer, Kafka down", *found)
    for title, figure in (
        ("events", "kept"),
        ("requests refused", "refused_requests"),
        ("bytes per event", "bytes_per_event"),
        ("minutes of 2,000/s in 100 MiB", "minutes_in_100_mib"),
        ("events per group commit", "events_per_commit"),
        ("events/s", "events_per_second"),
        ("  per service CPU-second", "events_per_cpu_second"),
        ("  with compaction to its end", "events_per_cpu_second_compacted"),
        ("memory peak, MiB", "memory_peak_mib"),
        ("drained/s, nothing else arriving", "drained_per_second"),
        ("  per service CPU-second", "drained_per_cpu_second"),
        ("  memory peak, MiB", "draining_memory_peak_mib"),
    ):
        table.add_row(title, *(_number(figures[figure]) for figures in found.values()))
    table.caption = spool.CODEC
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
