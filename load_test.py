"""Open-loop load generator for the ingestion endpoint: ``python load_test.py --rate 500 --duration 30``.

Requests are due at fixed times, however slowly the server answers, as real users arrive. ``latency`` runs from the time
a request was due (so everyone who would have met a stall of the server sees it: no coordinated omission), ``service
time`` from when it really started. Percentiles are exact (nearest rank) and cover the 2xx answers; failures are counted
beside. A ramp and a warm-up come before the measured duration and are not measured; their failures still fail the run.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import math
import random
import socket
import sys
import time
import uuid
from array import array
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

try:
    import aiohttp
except ModuleNotFoundError:
    sys.exit(
        "load_test.py needs aiohttp: run `make setup`, then `.venv/bin/python load_test.py` (or `pip install aiohttp`)."
    )

new_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop as new_loop
except ModuleNotFoundError:  # an accelerator only
    from asyncio import new_event_loop as new_loop

LATE = 0.010
"""Seconds after its due time from which a start counts as late."""
MAX_MEASURED = 5_000_000
"""Most measured requests of a run: 16 bytes each while it runs, some 50 for a moment when they are sorted."""
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
EVENT_NAMES = ["page_view", "page_view", "page_view", "search", "add_to_cart", "purchase"]


class Schedule:
    """When each request is due: the rate grows linearly for ``ramp`` s, then holds for ``warmup`` + ``duration`` s."""

    def __init__(self, rate: float, duration: float, ramp: float, warmup: float) -> None:
        self._rate, self._ramp = rate, ramp
        self._ramped = rate * ramp / 2  # requests within the ramp
        self.first_measured = math.ceil(self._ramped + rate * warmup)
        self.total = self.first_measured + max(1, round(rate * duration))

    def due(self, index: int) -> float:
        """Seconds after the start."""
        if index < self._ramped:
            return math.sqrt(2 * self._ramp * index / self._rate)
        return self._ramp + (index - self._ramped) / self._rate


class Times:
    """Seconds of measured answers: exact for the end, and in coarse logarithmic buckets (5 %) for a look on the way."""

    _STEP = math.log(1.05)

    def __init__(self) -> None:
        self._exact = array("d")
        self._buckets = [0] * 400

    def add(self, seconds: float) -> None:
        self._exact.append(seconds)
        self._buckets[min(399, int(math.log(1 + seconds * 1e6) / self._STEP))] += 1

    def rough(self, share: float) -> float:
        """About the ``share`` quantile, cheap enough to ask for during the run; NaN when there is none."""
        wanted, seen = share * len(self._exact), 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return math.exp((bucket + 1) * self._STEP) / 1e6
        return math.nan

    def percentiles_ms(self) -> dict[str, float | None]:
        """Milliseconds by nearest rank; None where nothing was measured."""
        ordered = sorted(self._exact)
        if not ordered:
            return dict.fromkeys(PERCENTILES)
        return {k: round(ordered[max(0, math.ceil(q * len(ordered)) - 1)] * 1e3, 3) for k, q in PERCENTILES.items()}


class Run:
    """One run: a pacer that releases requests when they are due, and as many senders as connections."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.schedule = Schedule(options.rate, options.duration, options.ramp, options.warmup)
        self.run_id = uuid.uuid4().hex
        self.latency, self.service = Times(), Times()
        self.statuses: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.released = self.taken = self.failed = self.ok = 0
        self.measured_sent = self.measured_ok = self.late_starts = self.bound_hit = 0
        self.worst_start = self.worst_pacer = 0.0
        self.first_measured_at = self.last_measured_at = 0.0
        self.stopped: str | None = None
        rng = random.Random(options.seed)
        self._metadata = [self._make_metadata(rng) for _ in range(256)]
        self._ready = asyncio.Semaphore(0)
        self._idle = options.connections
        self._start = 0.0

    def _make_metadata(self, rng: random.Random) -> str:
        metadata = {"source": "load_test", "run_id": self.run_id, "page": f"/p/{rng.randrange(1000)}"}
        metadata["country"] = rng.choice(["US", "IN", "DE", "BR", "NG"])
        missing = self._options.metadata_bytes - len(json.dumps({**metadata, "padding": ""}))
        if missing > 0:
            metadata["padding"] = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=missing))
        return json.dumps(metadata)

    def _body(self, index: int) -> bytes:
        # Ids are random in spite of --seed: with the ids of an earlier run every event would be a duplicate.
        return (
            f'{{"event_id":"{uuid.uuid4()}","user_id":"load_user_{index % self._options.users:06d}",'
            f'"event_name":"{EVENT_NAMES[index % len(EVENT_NAMES)]}","metadata":{self._metadata[index % 256]},'
            f'"timestamp":"{rfc3339(datetime.now(UTC))}"}}'
        ).encode()

    async def execute(self) -> None:
        """Until all is answered, --max-errors is reached, or --timeout after the last due time."""
        options = self._options
        timeout = aiohttp.ClientTimeout(total=options.timeout)
        # Neither redirects nor proxies: the one could lead away from this machine, the other be measured instead.
        connector = aiohttp.TCPConnector(limit=options.connections, ttl_dns_cache=None)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=jar, trust_env=False
        ) as session:
            self._start = time.perf_counter() + 0.05
            senders = [asyncio.create_task(self._send_released(session)) for _ in range(options.connections)]
            reporter = asyncio.create_task(self._report())
            pacer = asyncio.create_task(self._pace())
            try:
                # Every sender ends by itself: when the pacer is done there is nothing left to take.
                await asyncio.wait([pacer])
                await asyncio.wait(senders, timeout=options.timeout)
            finally:
                tasks = [pacer, reporter, *senders]
                for task in tasks:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end
        if self.stopped is None and (never := self.released - self.taken):
            self.errors["never started: all connections stayed busy"] += never
            self.failed += never

    async def _pace(self) -> None:
        """Releases each request at its due time; sleeps are to absolute times, so that no delay adds up."""
        while self.released < self.schedule.total and self.stopped is None:
            now = time.perf_counter() - self._start
            while self.released < self.schedule.total and (due := self.schedule.due(self.released)) <= now:
                self.worst_pacer = max(self.worst_pacer, now - due)
                self.bound_hit += self._idle <= self.released - self.taken
                self.released += 1
                self._ready.release()
            if self.released < self.schedule.total:
                await asyncio.sleep(max(0.0, self.schedule.due(self.released) - (time.perf_counter() - self._start)))
        for _ in range(self._options.connections):
            self._ready.release()

    async def _send_released(self, session: aiohttp.ClientSession) -> None:
        while True:
            await self._ready.acquire()
            if self.taken >= self.released or self.stopped is not None:
                return
            index, self.taken = self.taken, self.taken + 1
            self._idle -= 1
            await self._send(session, index)
            self._idle += 1

    async def _send(self, session: aiohttp.ClientSession, index: int) -> None:
        due = self._start + self.schedule.due(index)
        measured = index >= self.schedule.first_measured
        body = self._body(index)
        started = time.perf_counter()
        if measured:
            self.measured_sent += 1
            self.first_measured_at = self.first_measured_at or due
            self.late_starts += started - due > LATE
            self.worst_start = max(self.worst_start, started - due)
        try:
            headers = {"Content-Type": "application/json"}
            async with session.post(self._options.url, data=body, headers=headers, allow_redirects=False) as reply:
                await reply.read()
                status = reply.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._fail(_kind(error))
            return
        except asyncio.CancelledError:
            self._fail("unanswered when the run ended")
            raise
        ended = time.perf_counter()
        self.statuses[str(status)] += 1
        if not 200 <= status < 300:
            self._fail(None)
            return
        self.ok += 1
        if measured:
            self.measured_ok += 1
            self.last_measured_at = ended
            self.latency.add(ended - due)
            self.service.add(ended - started)

    def _fail(self, kind: str | None) -> None:
        self.failed += 1
        if kind is not None:
            self.errors[kind] += 1
        if self._options.max_errors and self.failed >= self._options.max_errors:
            self.stopped = self.stopped or f"stopped after {self._options.max_errors} failures (--max-errors)"

    async def _report(self) -> None:
        for second in range(1, sys.maxsize):
            await asyncio.sleep(max(0.0, self._start + second - time.perf_counter()))
            phase = "" if self.taken > self.schedule.first_measured else "  (ramp or warm-up, not measured)"
            p99 = "" if math.isnan(p99_s := self.latency.rough(0.99)) else f"  p99 ~{p99_s * 1e3:.1f} ms"
            waiting = self.released - self.taken
            counts = f"{self.taken} sent  {self.ok} ok  {self.failed} errors  {waiting} waiting"
            print(f"{second:4d} s  {counts}{p99}{phase}", file=sys.stderr, flush=True)

    def result(self, started_at: datetime) -> dict[str, Any]:
        """The whole report as JSON values; times in milliseconds or seconds as the names say."""
        options = self._options
        span = max(self.last_measured_at - self.first_measured_at, options.duration)
        return {
            "url": options.url,
            "run_id": self.run_id,
            **{name: getattr(options, name) for name in ("rate", "duration", "ramp", "warmup", "connections", "seed")},
            "from_ts": rfc3339(started_at),
            "to_ts": rfc3339(datetime.now(UTC) + timedelta(microseconds=1)),
            "intended": self.schedule.total,
            "sent": self.taken,
            "ok": self.ok,
            "failed": self.failed,
            "statuses": dict(sorted(self.statuses.items())),
            "errors": dict(self.errors.most_common()),
            "stopped": self.stopped,
            "measured": {
                "intended": self.schedule.total - self.schedule.first_measured,
                "sent": self.measured_sent,
                "ok": self.measured_ok,
                "achieved_rate": round(self.measured_ok / span, 2),
                "latency_ms": self.latency.percentiles_ms(),
                "service_ms": self.service.percentiles_ms(),
                "late_starts": self.late_starts,
                "worst_start_ms": round(self.worst_start * 1e3, 3),
            },
            "all_connections_busy": self.bound_hit,
            "worst_pacer_delay_ms": round(self.worst_pacer * 1e3, 3),
        }


def _kind(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return "cannot connect: refused" if refused else f"cannot connect: {error.os_error}"
    if isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionResetError)):
        return "connection closed by the server"
    return type(error).__name__


def rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def table(result: dict[str, Any]) -> str:
    """``result`` for a person."""
    measured = result["measured"]
    lines = [
        "requests   {intended} intended, {sent} sent, {ok} ok, {failed} failed".format_map(result),
        f"by status  {', '.join(f'{k}: {v}' for k, v in result['statuses'].items()) or 'none answered'}",
        *(f"error      {count} x {kind}" for kind, count in result["errors"].items()),
        f"rate       {measured['achieved_rate']:,.1f} ok/s of {result['rate']:,.1f}/s, over {result['duration']:g} s",
        f"late       {measured['late_starts']} over {LATE * 1e3:.0f} ms late, at worst {measured['worst_start_ms']} ms",
        f"busy       {result['all_connections_busy']} were due while all {result['connections']} connections were busy",
        f"{'':11}" + "".join(f"{name:>10}" for name in PERCENTILES),
    ]
    for title, values in (("latency ms", measured["latency_ms"]), ("service ms", measured["service_ms"])):
        lines.append(f"{title:11}" + "".join(f"{'-' if v is None else format(v, '.1f'):>10}" for v in values.values()))
    if result["worst_pacer_delay_ms"] > 100:
        lag = (
            f"note       the generator was itself up to {result['worst_pacer_delay_ms']:.0f} ms late (busy machine?): "
        )
        lines.append(lag + "latency includes that, service time does not")
    if "cannot connect: refused" in result["errors"]:
        lines.append(f"Nothing listens at {result['url']}. Start the platform with `make up`.")
    if result["stopped"]:
        lines.append(f"The run was {result['stopped']}.")
    return "\n".join(lines)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine: every address it stands for is a loopback address.

    Raises:
        OSError: the name cannot be resolved.
    """
    return all(ipaddress.ip_address(info[4][0]).is_loopback for info in socket.getaddrinfo(host, None))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Open-loop load generator for the ingestion endpoint.",
        epilog="Exit status: 0 all answered 2xx, 1 some did not, 2 wrong usage, 130 interrupted.", allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("--url", default="http://localhost:8001/events", help="the endpoint's full URL (%(default)s)")
    add("--rate", type=float, default=50.0, help="requests per second (%(default)s)")
    add("--duration", type=float, default=10.0, metavar="S", help="measured seconds (%(default)s)")
    add(
        "--ramp",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds to reach the rate, before the warm-up (%(default)s)",
    )
    add("--warmup", type=float, default=0.0, metavar="S", help="seconds at full rate before measuring (%(default)s)")
    add("--users", type=int, default=1000, help="distinct user ids (%(default)s)")
    add("--connections", type=int, default=64, help="connections, and so requests in flight, at most (%(default)s)")
    add("--timeout", type=float, default=10.0, metavar="S", help="for one answer, from its real start (%(default)s)")
    add("--metadata-bytes", type=int, default=0, metavar="N", help="pad each event's metadata to N bytes of JSON")
    add("--max-errors", type=int, default=0, metavar="N", help="stop after N failed requests (0: never)")
    add("--seed", type=int, default=1, help="of the events' content (%(default)s; event ids are always new)")
    add("--json", metavar="FILE", help="write the report as JSON to FILE; - writes it to stdout, the table to stderr")
    add("--allow-errors", action="store_true", help="exit 0 although requests failed")
    add(
        "--allow-remote",
        action="store_true",
        help="allow a target that is not this machine; only with its owner's consent",
    )
    options = parser.parse_args(arguments)
    positive = (options.rate, options.duration, options.users, options.connections, options.timeout)
    if not all(math.isfinite(value) and value > 0 for value in positive):
        parser.error("--rate, --duration, --users, --connections and --timeout must be positive")
    if not all(
        math.isfinite(value) and value >= 0
        for value in (options.ramp, options.warmup, options.metadata_bytes, options.max_errors)
    ):
        parser.error("--ramp, --warmup, --metadata-bytes and --max-errors cannot be negative")
    if options.rate * options.duration > MAX_MEASURED:
        parser.error(
            f"--rate x --duration is over {MAX_MEASURED:,} requests, more than are kept in memory: make it shorter"
        )
    try:
        url = urlsplit(options.url)
        if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:
            raise ValueError("not an http:// or https:// address")
        if not options.allow_remote and not is_loopback(url.hostname):
            parser.error(f"{url.hostname} is not this machine. Load on someone else's server is an attack: "
                         "only with its owner's consent, and then with --allow-remote.")  # fmt: skip
    except (ValueError, OSError) as error:
        parser.error(f"--url {options.url}: {error}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """See the epilog of --help for the exit status."""
    options = parse(arguments)
    started_at, interrupted = datetime.now(UTC), False
    run = Run(options)
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(run.execute())
    except KeyboardInterrupt:
        interrupted, run.stopped = True, "interrupted"
    result = run.result(started_at)
    print(table(result), file=sys.stderr if options.json == "-" else sys.stdout)
    if options.json == "-":
        print(json.dumps(result))
    elif options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if interrupted:
        return 130
    return 1 if result["failed"] and not options.allow_errors else 0


if __name__ == "__main__":
    sys.exit(main())
