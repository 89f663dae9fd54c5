"""The tables of the analytics benchmark."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from tests.benchmarks.analytics import Analysed
from tests.benchmarks.analytics_open import CLOSED, EVENTS_PER_SECOND, LIVE, RATE
from tests.benchmarks.figures import Figures
from tests.benchmarks.tables import number, table


def tables(found: Analysed) -> Iterator[Table]:
    """One client, growth, the open loop; those for which there are figures."""
    if found.questions.get(found.events):
        yield _questions(found.events, found.questions[found.events])
    if len(found.questions) > 1:
        yield _growth(found.questions)
    if found.open:
        yield _open(found.open)


def _questions(events: int, questions: dict[str, Figures]) -> Table:
    heads = ("cold\np50", "p99", "cached\np50", "p99", "SQL\np50", "plain\nSQL", "plain/\nSQL", "cold\nn")
    made = table(f"{events:,} events, one client; ms", *heads)
    for name, one in questions.items():
        times = ("cold_p50_ms", "cold_p99_ms", "cached_p50_ms", "cached_p99_ms", "database_p50_ms", "plain_p50_ms")
        made.add_row(
            name, *(number(one[which]) for which in times), number(one["plain_ratio"]), f"{one['cold_requests']:.0f}"
        )
    made.caption = (
        "cold: through the service without its cache; cached: the same question again; SQL: the function behind it alone\n"
        "plain SQL: the same from the table events; p99 of fewer than 100 requests (n) is the slowest of them"
    )
    return made


def _growth(questions: dict[int, dict[str, Figures]]) -> Table:
    sizes = sorted(questions)
    heads = [f"{size / 1e6:g} M\n{which}" for which in ("SQL", "plain") for size in sizes]
    made = table("growth; p50, ms", *heads, "SQL\ngrew", "plain\ngrew")
    for name in questions[sizes[0]]:
        if not all(name in questions[size] for size in sizes):
            continue
        rows = [[questions[size][name][f"{which}_p50_ms"] for size in sizes] for which in ("database", "plain")]
        grew = [f"{row[-1] / row[0]:.1f}×" if row[0] else "" for row in rows]
        made.add_row(name, *(number(one) for row in rows for one in row), *grew)
    made.caption = f"from {sizes[0]:,} to {sizes[-1]:,} events of the same days and users"
    return made


def _open(figures: Figures) -> Table:
    made = table(f"{RATE} questions/s, {EVENTS_PER_SECOND:,} events/s; ms", "of 100", "p50", "p99", "max")
    made.add_row("all", "100", *(number(figures[which]) for which in ("p50_ms", "p99_ms", "max_ms")))
    for name, share in {**LIVE, **CLOSED}.items():
        if f"{name}: p50_ms" in figures:
            times = (number(figures[f"{name}: {which}"]) for which in ("p50_ms", "p99_ms", "max_ms"))
            made.add_row(f"  {name}", str(share), *times)
    cores = ("analytics_service", "postgres", "event_consumer", "ingestion_service")
    made.caption = (
        f"{figures['requests_per_second']:.1f} requests/s answered, {figures['errors']:.0f} errors; "
        f"{figures['rows_stored_per_second']:,.0f} rows stored/s\nof a core: "
        + ", ".join(f"{name} {figures[f'{name}_cpu_share']:.0%}" for name in cores)
        + f"; peak of the service {number(figures['memory_peak_mib'])} MiB"
    )
    return made
