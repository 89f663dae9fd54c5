"""Sends realistic synthetic events to the ingestion service: ``python tools/send_events.py`` (300 events, 30 users).

Standard library only: any Python >= 3.11 runs it, on the host, without the project's environment. Each event's id is
made here, so a retry can never count twice. Each worker owns some of the users: one user's events are sent in order.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import select
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

# With 500 the server says itself, by `retryable`, whether a retry can help.
RETRIED_STATUSES = {408, 429, 502, 503, 504}
REMEDY = "Is the platform running? Start it with `make up`, or with `cd docker && docker compose up --build`."
MIX = {"page_view": 45, "product_view": 20, "search": 10, "add_to_cart": 10, "purchase": 6, "login": 6, "signup": 3}
PAGES = ["/", "/pricing", "/docs", "/blog/how-we-count", "/products", "/about", "/help"]
PRODUCTS = [
    ("sku-1001", "shoes", 79.9),
    ("sku-1002", "shoes", 120.0),
    ("sku-2001", "books", 14.5),
    ("sku-3001", "audio", 249),
]
COUNTRIES = {"US": 30, "IN": 20, "DE": 12, "GB": 10, "BR": 10, "FR": 8, "JP": 6, "NG": 4}
DEVICES = {
    "mobile": ["Chrome", "Safari", "Samsung Internet"],
    "desktop": ["Chrome", "Firefox", "Edge"],
    "tablet": ["Safari"],
}


class Visitor:
    """One synthetic user, whose country, device and browser stay the same; the same seed tells the same story."""

    def __init__(self, seed: str, number: int, run_id: str) -> None:
        self.user_id = f"user_{number + 1:04d}"
        self._random = rng = random.Random(f"{seed}/{number}")
        device = rng.choice(list(DEVICES))
        country = rng.choices(list(COUNTRIES), list(COUNTRIES.values()))[0]
        self._always = {"country": country, "device": device, "browser": rng.choice(DEVICES[device]), "run_id": run_id}

    def act(self) -> tuple[str, dict[str, Any]]:
        """The next event's name and metadata."""
        rng = self._random
        name = rng.choices(list(MIX), list(MIX.values()))[0]
        sku, category, price = rng.choice(PRODUCTS)
        product: dict[str, Any] = {"page": f"/products/{sku}", "product_id": sku, "category": category, "price": price}
        quantity = rng.randint(1, 3)
        about: dict[str, Any] = {
            "page_view": {"page": rng.choice(PAGES), "duration_ms": rng.randint(200, 90_000)},
            "product_view": {**product, "currency": "USD"},
            "search": {"page": "/search", "query": category, "results": rng.randint(0, 60)},
            "add_to_cart": {**product, "currency": "USD", "quantity": quantity},
            "purchase": {**product, "currency": "USD", "quantity": quantity, "total": round(price * quantity, 2)},
            "login": {"page": "/login", "method": rng.choice(["password", "google", "sso"])},
            "signup": {"page": "/signup", "plan": rng.choice(["free", "free", "pro"])},
        }
        return name, {**about[name], **self._always}


@dataclass
class Tally:
    """What happened so far, shared by the workers. Times are UTC; ``down_since`` is monotonic seconds."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    sent: int = 0
    retried: int = 0
    acknowledged: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    noted: set[str] = field(default_factory=set)
    refused: bool = False
    down_since: float | None = None
    first_sent: datetime | None = None
    last_sent: datetime | None = None
    last_ack: datetime | None = None
    oldest: datetime | None = None
    newest: datetime | None = None

    def event_sent(self, stamp: datetime) -> None:
        with self.lock:
            self.sent += 1
            self.oldest = min(self.oldest or stamp, stamp)
            self.newest = max(self.newest or stamp, stamp)

    def request_sent(self) -> None:
        with self.lock:
            self.last_sent = datetime.now(UTC)
            self.first_sent = self.first_sent or self.last_sent

    def event_acknowledged(self, event_id: str) -> None:
        with self.lock:
            self.acknowledged.append(event_id)
            self.last_ack = datetime.now(UTC)
            self.down_since = None


class Worker(threading.Thread):
    """Sends the events of its share of the users, one after another, on one kept connection."""

    def __init__(self, number: int, options: argparse.Namespace, tally: Tally, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._number, self._options, self._tally, self._stop_asked = number, options, tally, stop
        self._url = urlsplit(options.url)
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        for due, stamp, event in self._events():
            # Waits for the event's turn; an event that comes after the platform was given up is not even tried.
            if self._stop_asked.wait(max(0.0, due - time.monotonic())) or self._given_up(time.monotonic()):
                return
            moment = datetime.now(UTC) if stamp is None else stamp
            event["timestamp"] = rfc3339(moment)
            self._tally.event_sent(moment)
            self._deliver(event)

    def _events(self) -> Iterator[tuple[float, datetime | None, dict[str, Any]]]:
        """(monotonic second when due, timestamp or None for the moment of sending, event) of this worker's users."""
        options = self._options
        visitors = {
            n: Visitor(options.seed, n, options.run_id) for n in range(self._number, options.users, options.concurrency)
        }
        spread = timedelta(minutes=options.spread)
        for i in range(options.events):
            if (visitor := visitors.get(i % options.users)) is not None:
                name, metadata = visitor.act()
                stamp = options.started - spread * (1 - i / options.events) if spread else None
                event = {
                    "event_id": str(uuid.uuid4()),
                    "user_id": visitor.user_id,
                    "event_name": name,
                    "metadata": metadata,
                }
                yield options.epoch + (i / options.rate if options.rate else 0.0), stamp, event

    def _deliver(self, event: dict[str, Any]) -> None:
        """Tries until a final answer, the end of the patience, or a stop."""
        tally, first_try, tries = self._tally, time.monotonic(), 0
        while True:
            tries += 1
            tally.request_sent()
            problem, retriable, wait = self._post(event)
            if problem is None:
                tally.event_acknowledged(event["event_id"])
                return
            now = time.monotonic()
            delay = random.uniform(0.5, 1.0) * min(0.2 * 2 ** min(tries, 6), 5.0)
            if wait is not None:  # the server named a time: never earlier, and not all workers at once
                delay = wait + random.uniform(0, 0.1 + wait / 10)
            with tally.lock:
                # Any final answer, good or bad, shows that the platform works; only the rest is an outage.
                tally.down_since = (tally.down_since or now) if retriable else None
            last = not retriable or now + (wait or 0) - first_try >= self._options.max_wait or self._given_up(now)
            self._note(problem, retriable)
            if last or self._stop_asked.wait(min(delay, max(0.0, first_try + self._options.max_wait - now))):
                with tally.lock:
                    tally.reasons[problem] += 1
                return
            if tries == 1:
                with tally.lock:
                    tally.retried += 1

    def _given_up(self, now: float) -> bool:
        down_since = self._tally.down_since
        return down_since is not None and now - down_since >= self._options.max_wait

    def _post(self, event: dict[str, Any]) -> tuple[str | None, bool, float | None]:
        """(problem or None when acknowledged, whether a retry can help, seconds the server asks to wait or None)."""
        try:
            connection = self._connect()
            target = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
            headers = {"Content-Type": "application/json", "User-Agent": "send_events"}
            connection.request("POST", target, json.dumps(event).encode(), headers)
            reply = connection.getresponse()
            body = reply.read()
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            with self._tally.lock:
                self._tally.refused |= isinstance(error, ConnectionRefusedError)
            if isinstance(error, TimeoutError):
                return f"no answer within {self._options.timeout:g} s", True, None
            return (
                f"{self._url.netloc}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}",
                True,
                None,
            )
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        answer = answer if isinstance(answer, dict) else {}
        if 200 <= reply.status < 300:
            if str(answer.get("event_id", "")).lower() == event["event_id"]:
                return None, False, None
            return (
                f"HTTP {reply.status}, but the answer does not name the event: is this the ingestion service?",
                False,
                None,
            )
        said = ": ".join(str(answer[key]) for key in ("error_code", "error_message") if answer.get(key)) or reply.reason
        retriable = reply.status in RETRIED_STATUSES or (reply.status >= 500 and answer.get("retryable") is True)
        return f"HTTP {reply.status} {said}", retriable, retry_after(reply.getheader("Retry-After"))

    def _connect(self) -> http.client.HTTPConnection:
        # A kept connection that has become readable was closed by the server while idle: that is no failure to report.
        if self._connection and (not self._connection.sock or select.select([self._connection.sock], [], [], 0)[0]):
            self._drop()
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(self._url.hostname or "", self._url.port, timeout=self._options.timeout)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _note(self, problem: str, retriable: bool) -> None:
        """Says each problem once, as soon as it is seen."""
        with self._tally.lock:
            if problem in self._tally.noted or len(self._tally.noted) >= 20:
                return
            self._tally.noted.add(problem)
            refused = self._tally.refused
        say(f"{problem}" + (f" (retrying for up to {self._options.max_wait:g} s)" if retriable else ""))
        if retriable and refused:
            say(REMEDY)


def retry_after(value: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header (RFC 9110 §10.2.3: seconds or a date) asks to wait, else None."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def rfc3339(moment: datetime | None) -> str | None:
    """``moment`` in UTC with microseconds and Z."""
    return None if moment is None else moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def say(text: str) -> None:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{clear}{text}", file=sys.stderr, flush=True)


def show_progress(tally: Tally, events: int) -> None:
    done, failed = len(tally.acknowledged), sum(tally.reasons.values())
    text = f"{done}/{events} acknowledged, {failed} failed, {tally.retried} retried"
    if sys.stderr.isatty():
        filled = 30 * done // events
        print(f"\r\x1b[K[{'#' * filled}{'.' * (30 - filled)}] {text}", end="", file=sys.stderr, flush=True)
    else:
        say(text)


def summarise(options: argparse.Namespace, tally: Tally, seconds: float) -> None:
    """The plain summary, unless --quiet; then, with --json-summary, one line of JSON."""
    with tally.lock:
        acknowledged, reasons = list(tally.acknowledged), Counter(tally.reasons)
    failed = tally.sent - len(acknowledged)
    if not options.quiet:
        rate = len(acknowledged) / seconds if seconds else 0.0
        print(
            f"{tally.sent} sent, {len(acknowledged)} acknowledged, {failed} failed, {tally.retried} retried, "
            f"by {min(options.users, options.events)} users in {seconds:.2f} s ({rate:,.0f} events/s)."
        )
        if tally.sent < options.events:
            print(f"{options.events - tally.sent} of the {options.events} events were not sent at all.")
        for reason, count in reasons.most_common(10):
            print(f"  {count} x {reason}")
        if acknowledged:
            window = f"from_ts={rfc3339(tally.oldest)}&to_ts={rfc3339(after(tally.newest))}"
            print(f'Next: see them counted:  curl "http://localhost:8002/analytics/events/count?{window}"')
        elif tally.refused:
            print(f"Nothing listens at {options.url}. {REMEDY}")
    if options.json_summary:
        times = {
            "first_sent_at": tally.first_sent,
            "last_sent_at": tally.last_sent,
            "last_ack_at": tally.last_ack,
            "from_ts": tally.oldest,
            "to_ts": after(tally.newest),
        }
        counts = {"sent": tally.sent, "acknowledged": len(acknowledged), "failed": failed, "retried": tally.retried}
        stamps = {name: rfc3339(moment) for name, moment in times.items()}
        print(json.dumps({**counts, **stamps, "run_id": options.run_id, "event_ids": acknowledged}))


def after(moment: datetime | None) -> datetime | None:
    """The first instant that lies after ``moment``, as the exclusive end of a range."""
    return None if moment is None else moment + timedelta(microseconds=1)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--url", default="http://localhost:8004/events", help="the ingestion endpoint (%(default)s)")
    add("--events", type=int, default=300, help="how many events (%(default)s)")
    add("--users", type=int, default=30, help="of how many users (%(default)s)")
    add("--concurrency", type=int, default=8, help="connections, at most one per user (%(default)s)")
    add("--rate", type=float, default=0.0, help="events per second (default: as fast as the answers come)")
    add(
        "--spread", type=float, default=0.0, metavar="MINUTES", help="spread the timestamps over the last MINUTES (now)"
    )
    add("--timeout", type=float, default=10.0, metavar="S", help="seconds to wait for one answer (%(default)s)")
    add(
        "--max-wait",
        type=float,
        default=60.0,
        metavar="S",
        help="give an event up after so many seconds of retries, "
        "and all that is left when nothing was acknowledged for as long (%(default)s)",
    )
    add("--seed", help="the same users, names and metadata every time (event ids are always new)")
    add("--json-summary", action="store_true", help="end stdout with one line of JSON")
    add("--quiet", action="store_true", help="no progress and no summary, only problems")
    options = parser.parse_args(arguments)
    try:
        url = urlsplit(options.url)
        if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:
            raise ValueError("not an http:// or https:// address")
    except ValueError as error:
        parser.error(f"--url {options.url}: {error}")
    if min(options.events, options.users, options.concurrency) < 1 or options.timeout <= 0:
        parser.error("--events, --users, --concurrency and --timeout must be positive")
    if min(options.rate, options.spread, options.max_wait) < 0:
        parser.error("--rate, --spread and --max-wait cannot be negative")
    options.run_id = uuid.uuid4().hex
    options.seed = options.seed or options.run_id
    options.concurrency = min(options.concurrency, options.users)
    return options


def main(arguments: list[str] | None = None) -> int:
    """0 when every event was acknowledged, 1 when not, 130 after Ctrl-C."""
    options = parse(arguments)
    options.started, options.epoch = datetime.now(UTC), time.monotonic()
    tally, stop = Tally(), threading.Event()
    workers = [Worker(number, options, tally, stop) for number in range(options.concurrency)]
    interrupted, next_report = False, options.epoch + 1
    try:
        for worker in workers:
            worker.start()
        while alive := [worker for worker in workers if worker.is_alive()]:
            alive[0].join(0.1)
            if time.monotonic() >= next_report and not options.quiet:
                next_report += 1
                show_progress(tally, options.events)
    except KeyboardInterrupt:
        interrupted = True
        stop.set()
        say("Interrupted: waiting up to 2 s for answers under way.")
        end = time.monotonic() + 2
        for worker in workers:
            worker.join(max(0.0, end - time.monotonic()))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    summarise(options, tally, time.monotonic() - options.epoch)
    if interrupted:
        return 130
    return 0 if len(tally.acknowledged) == options.events else 1


if __name__ == "__main__":
    sys.exit(main())
