"""``python -m tests.benchmarks``: measures, prints a table on standard output, writes JSON."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import structlog
from rich.console import Console

from event_core.clock import rfc3339
from event_core.settings import ENV_FILE
from tests.benchmarks import (
    analytics,
    analytics_load,
    analytics_open,
    collect,
    consumer,
    ingestion,
    latency,
    machine,
    sales,
    sales_topic,
    spool,
    steady,
)
from tests.benchmarks.generator import choose
from tests.benchmarks.report import Results, print_report
from tests.benchmarks.servers import DURABLE, PARTITIONS, Servers
from tests.support.backend import open_backend
from tests.support.process import ROOT

PARTS = ("ingestion", "collect", "steady", "spool", "consumer", "sales", "latency", "analytics")
SETTINGS = (
    *("rounds", "seconds", "steady_rounds", "steady_seconds", "spool_events"),
    *("consumer_rounds", "rows", "naive_rows", "ledger_rows"),
    *("sales_rounds", "sales_rows", "naive_sales"),
    *("events", "growth", "open_seconds"),
)
CASES = [case.name for case in (consumer.PLAIN, *consumer.CASES, consumer.NAIVE)]
LEAST_SALES = 6 * max(sales.BATCH_SIZES)
QUICK = {"consumer_rounds": 1, "rows": 100_000, "ledger_rows": 0, "sales_rounds": 1, "sales_rows": LEAST_SALES}
QUICK_ANALYTICS = {"events": 1_000_000, "growth": [], "open_seconds": 10.0}


def say(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure ingestion, the disk buffer, the consumer, the sales pipeline, POST-to-visible latency and "
        "analytics on real Kafka, Postgres and MongoDB.",
        epilog="The consumer's part takes about 15 minutes, with --quick 2; a turn (three runs at most) that would begin or is "
        "expected to end after --consumer-minutes is left out, and no run takes longer than 5 minutes. "
        "Exit status: 0 measured (whether or not targets are met), 1 something failed, 130 interrupted.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--only", choices=PARTS, action="append", help="one part instead of all; may be given again")
    add("--rounds", type=int, default=3, help="of each measurement; ours and the baselines take turns")
    add("--seconds", type=float, default=5.0, help="measured seconds of a closed-loop or latency round")
    add("--steady-rounds", type=int, default=1, help="of the outage under steady load, which takes a minute each")
    add("--steady-seconds", type=float, default=10.0, help="measured seconds with Kafka up, and again with it gone")
    add("--spool-events", type=int, default=400_000, help="events that the disk buffer is given")
    add("--full", action="store_true", help=f"give it {spool.HALF_AN_HOUR:,}: 30 minutes of 2,000 per second")
    add("--consumer-rounds", type=int, default=2, help="of the consumer's cases; about six minutes each")
    add("--rows", type=int, default=1_000_000, help="events in each of the consumer's preloaded topics")
    add("--naive-rows", type=int, default=60_000, help="events for the consumer's baseline; a multiple of 100")
    add("--ledger-rows", type=int, default=20_000_000, help="ids stored before; 0 leaves the two ledger cases out")
    add(
        "--case",
        choices=CASES,
        action="append",
        help="one of the consumer's cases, beside the plain one; may be given again",
    )
    add("--consumer-minutes", type=float, default=25.0, help="after which the consumer's part begins no further turn")
    add("--quick", action="store_true", help="a short run of the consumer's part, the sales' and the analytics'")
    add("--sales-rounds", type=int, default=2, help="of the sales pipeline's cases; some minutes each")
    add(
        "--sales-rows",
        type=int,
        help=f"sales in its preloaded topics; {sales.SALES:,} unless given, and "
        f"{sales.SALES_OF_A_STAND_IN:,} where the server is a stand-in for MongoDB",
    )
    add("--naive-sales", type=int, default=5_000, help="sales for its baseline")
    add("--events", type=int, default=10_000_000, help="stored events that the analytics are asked about")
    add(
        "--growth",
        type=int,
        action="append",
        help="another number of events, for the growth of costs with it; may be given again; 1,000,000 unless given, 0 for none",
    )
    add("--open-seconds", type=float, default=30.0, help=f"measured, of {analytics_open.RATE} questions per second")
    add("--json", type=Path, default=Path("bench-results/latest.json"), metavar="FILE", help="where the figures go")
    add("--backend", choices=("docker", "local", "auto"), default="auto", help="where Kafka and Postgres run")
    add(
        "--generator", choices=("wrk", "own", "auto"), default="auto", help="who posts; auto: wrk where it is installed"
    )
    options = parser.parse_args(arguments)
    options.growth = [1_000_000] if options.growth is None else [number for number in options.growth if number]
    if min([options.events, *options.growth]) < analytics_load.LEAST or options.open_seconds < 1:
        parser.error(f"--events and --growth: at least {analytics_load.LEAST:,}; --open-seconds: at least 1")
    if options.rounds < 1 or options.seconds < 1 or options.rows < 20_000:
        parser.error("at least 1 round, 1 second and 20,000 rows")
    if options.naive_rows < 1_000 or options.naive_rows % 100:
        parser.error("--naive-rows: at least 1,000, and a multiple of 100")
    if options.quick:
        vars(options).update({**QUICK, **QUICK_ANALYTICS})
    if options.consumer_rounds < 1 or options.ledger_rows < 0 or options.consumer_minutes <= 0:
        parser.error("at least 1 round of the consumer, 0 ids in its ledger, and some minutes")
    if options.sales_rows is not None and options.sales_rows < LEAST_SALES:
        parser.error(f"--sales-rows: at least {LEAST_SALES:,}")
    if options.sales_rounds < 1 or options.naive_sales < 100:
        parser.error("at least 1 round of sales, and 100 sales for the baseline")
    if options.full:
        options.spool_events = spool.HALF_AN_HOUR
    if options.steady_rounds < 1 or options.steady_seconds < 1 or options.spool_events < 10_000:
        parser.error("at least 1 steady round, 1 steady second and 10,000 spooled events")
    if "latency" in (options.only or PARTS) and options.seconds * latency.PROBES_PER_SECOND < latency.ANALYTICS_EVERY:
        parser.error("--seconds is too short for a latency round")
    return options


def measure(options: argparse.Namespace, servers: Servers, home: Path) -> Results:
    """Runs the parts that are asked for. ``home`` is for the files of MongoDB."""
    results = Results()
    wanted = options.only or PARTS
    if "ingestion" in wanted:
        results.ingestion = ingestion.run(
            servers, options.generator, rounds=options.rounds, seconds=options.seconds, say=say
        )
    if "collect" in wanted:
        results.collect = collect.run(
            servers, options.generator, rounds=options.rounds, seconds=options.seconds, say=say
        )
    if "steady" in wanted:
        results.steady = steady.run(servers, rounds=options.steady_rounds, seconds=options.steady_seconds, say=say)
    if "spool" in wanted:
        results.spool = spool.run(servers, events=options.spool_events, say=say)
    if "consumer" in wanted:
        asked = consumer.Asked(
            options.consumer_rounds,
            options.rows,
            options.naive_rows,
            options.ledger_rows,
            options.case or (),
            options.consumer_minutes,
        )
        results.consumer = consumer.run(servers, asked, say)
    if "sales" in wanted:
        asked_sales = sales.Asked(options.sales_rounds, options.sales_rows, options.naive_sales)
        results.sales = sales.run(servers, home, asked_sales, say)
    if "latency" in wanted:
        results.latency = latency.run(servers, rounds=options.rounds, seconds=options.seconds, say=say)
    if "analytics" in wanted:
        asked_events = analytics.Asked(options.events, options.growth, options.open_seconds)
        results.analytics = analytics.run(servers, asked_events, say)
    return results


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left running
    options.generator = choose(options.generator)
    if options.backend != "auto":
        os.environ["TEST_BACKEND"] = options.backend
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that is still starting is no news
    facts: dict[str, Any] = {**machine.facts(), "load_average_start": machine.load_average()}
    facts["loop_ms_start"] = machine.loop_ms()
    started, stolen = time.monotonic(), machine.stolen_seconds()
    home = Path(tempfile.mkdtemp(prefix="bench-"))
    if (ROOT / ENV_FILE).exists():
        say(f"note: the services read {ENV_FILE} as always; what it sets is measured with")
    say("starting Kafka and Postgres")
    stack, logs = home / "stack", home / "logs"
    stack.mkdir()
    logs.mkdir()
    backend = open_backend(stack)
    try:
        with psycopg.connect(f"{backend.postgres}/postgres") as connection:
            facts["postgres"] = machine.server_versions(connection)
        results = measure(options, Servers(backend, logs), home)
        failed = any(part is not None and part.errors for part in (results.consumer, results.sales, results.analytics))
        if failed:
            _keep_logs(logs)
        facts["load_average_end"] = machine.load_average()
        facts["loop_ms_end"] = machine.loop_ms()
        core_seconds = (time.monotonic() - started) * int(facts["cores"])
        facts["stolen_share"] = round((machine.stolen_seconds() - stolen) / core_seconds, 4)
    except BaseException:
        _keep_logs(logs)  # they tell what went wrong
        raise
    finally:
        backend.close()
        shutil.rmtree(home, ignore_errors=True)
    document = {
        "finished_at": rfc3339(datetime.now(UTC)),
        "seconds": round(time.monotonic() - started, 1),
        "commit": _commit(),
        "backend": type(backend).__name__,
        "generator": options.generator,
        "machine": facts,
        "settings": {
            **{name: getattr(options, name) for name in SETTINGS},
            "partitions": PARTITIONS,
            "consumer_partitions": consumer.PARTITIONS,
            "sales_partitions": sales_topic.PARTITIONS,
            "services": DURABLE,
            "spool_codec": spool.CODEC,
            "latency_rate": latency.RATE,
            "probes_per_second": latency.PROBES_PER_SECOND,
        },
        **results.as_json(),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print_report(results, facts, Console(width=max(130, Console().width)))
    say(f"written to {options.json}")
    return 1 if failed else 0


def _keep_logs(logs: Path) -> None:
    """Copies the services' logs to where they outlive the run."""
    if logs.exists():
        kept = Path(tempfile.mkdtemp(prefix="bench-logs-"))
        shutil.copytree(logs, kept, dirs_exist_ok=True)
        say(f"the services' logs: {kept}")


def _commit() -> str:
    """Of the code that was measured, with a + where it was changed since; empty outside a repository."""

    def git(*command: str) -> str:
        try:
            return subprocess.run(
                ["git", *command], cwd=ROOT, capture_output=True, text=True, check=False
            ).stdout.strip()
        except OSError:
            return ""

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
