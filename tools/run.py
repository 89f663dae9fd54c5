"""`make run`: brings the platform up, sends events, waits until they are counted, and says what to look at next."""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from tools.stack import cli
from tools.stack.compose import Compose
from tools.stack.config import REPOSITORY, StackConfig
from tools.stack.errors import StackError

SENDER_PORT = 8004  # the port that tools/send_events.py knows


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the running platform is reached from this machine."""

    host: str
    ingestion: int
    analytics: int
    consumer: int
    sales: int
    sales_metrics: int
    prometheus: int | None = None

    def url(self, port: int, path: str) -> str:
        """A URL on this machine."""
        return f"http://{self.host}:{port}{path}"


def addresses(stack: str, config: StackConfig, compose: Compose) -> Addresses:
    """The addresses of the chosen stack."""
    if stack == "local":
        return Addresses(
            config.reach,
            _sender_port(config.ingestion_ports),
            config.analytics_port,
            config.consumer_port,
            config.sales_port,
            config.sales_metrics_port,
        )
    needed = ("ingestion", "analytics", "consumer", "sales")
    published = {name: compose.published(name) for name in (*needed, "prometheus")}
    lacking = [name for name in needed if not published[name]]
    if lacking:
        raise StackError(f"Docker Compose publishes no port of {', '.join(lacking)}.", "See docker/docker-compose.yml.")
    return Addresses(
        "localhost",
        _sender_port(published["ingestion"]),
        published["analytics"][0],
        published["consumer"][0],
        published["sales"][0],
        published["sales"][-1],
        next(iter(published["prometheus"]), None),
    )


def _sender_port(ports: "tuple[int, ...] | list[int]") -> int:
    return SENDER_PORT if SENDER_PORT in ports else ports[0]


def rfc3339(moment: datetime) -> str:
    """UTC with microseconds and Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def count_path(from_ts: str, to_ts: str) -> str:
    """The analytics request that counts the events of a range, `to_ts` excluded."""
    return "/analytics/events/count?" + urlencode({"from_ts": from_ts, "to_ts": to_ts})


def count(where: Addresses, from_ts: str, to_ts: str) -> int:
    """How many events analytics counts in the range. Raises StackError when it does not answer with a count."""
    connection = http.client.HTTPConnection(where.host, where.analytics, timeout=10.0)
    try:
        connection.request("GET", count_path(from_ts, to_ts))
        answer = connection.getresponse()
        body = answer.read()
        return int(json.loads(body)["count"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise StackError(f"Analytics gave no count: {error!r}", "See: make logs P=analytics") from error
    finally:
        connection.close()


def send(where: Addresses, events: int, users: int) -> Mapping[str, Any]:
    """Runs tools/send_events.py, its own output in the open, and returns its summary."""
    command = [sys.executable, "tools/send_events.py", "--url", where.url(where.ingestion, "/events")]
    command += ["--events", str(events), "--users", str(users), "--json-summary", "--quiet"]
    result = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    lines = result.stdout.strip().splitlines()
    try:
        summary: dict[str, Any] = json.loads(lines[-1])
        return summary
    except (IndexError, ValueError):
        raise StackError(f"tools/send_events.py ended with {result.returncode} and no summary.", "See above.") from None


def wait_visible(
    where: Addresses, window: tuple[str, str], before: int, wanted: int, timeout: float
) -> tuple[int, float]:
    """Waits until `wanted` more events than `before` are counted in the window, at most `timeout` seconds.

    Returns how many there are, and the time (seconds since the epoch) when that was seen.
    """
    deadline = time.monotonic() + timeout
    last = -1
    while True:
        seen = count(where, *window) - before
        if seen >= wanted or time.monotonic() > deadline:
            return seen, time.time()
        if seen != last:
            last = seen
            cli.report(f"{seen} of {wanted} counted so far")
        time.sleep(0.05)


def explain(acknowledged: int, seen: int, timeout: float) -> str:
    """Why fewer events are counted than were sent, and where to look."""
    return (
        f"Only {seen} of the {acknowledged} acknowledged events were counted within {timeout:.0f} s. Acknowledged events are "
        "in Kafka, so they are late rather than lost: the consumer or the database is not keeping up, or is down.\n"
        "Look at: make status; make logs P=consumer; http://localhost:8003/health/ready"
    )


def main(
    events: Annotated[int, typer.Option(min=1, help="How many events to send.")] = 300,
    users: Annotated[int, typer.Option(min=1, help="Of how many users.")] = 30,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until all are counted.")] = 60.0,
    home: cli.Home = cli.DEFAULT_HOME,
) -> None:
    """Bring the platform up (STACK=compose, local or auto), send events, and show that they are counted."""
    stack = cli.chosen(home, default="auto")
    if (
        stack == "local"
        and subprocess.run(["tools/setup.sh", "system", "kafka", "mongo"], cwd=REPOSITORY, check=False).returncode
    ):
        raise StackError("The local stack cannot be set up.", "See the line above.")
    cli.bring_up(home, stack, 90.0)
    where = addresses(stack, StackConfig.for_home(home), Compose(REPOSITORY))

    # Events carry the moment of their sending. The range begins now, so what earlier runs sent is outside of it, also
    # when it is stored only now; it ends late enough to hold this run; what it may hold already is subtracted.
    began = datetime.now(UTC)
    window = rfc3339(began), rfc3339(began + timedelta(hours=1))
    before = count(where, *window)
    cli.report(f"sending {events} events of {users} users to {where.url(where.ingestion, '/events')}")
    summary = send(where, events, users)
    acknowledged = int(summary["acknowledged"])
    cli.report(f"{acknowledged} of {summary['sent']} acknowledged")
    if not acknowledged:
        raise StackError("No event was accepted.", "Look at: make status; make logs P=ingestion")
    seen, seen_at = wait_visible(where, window, before, acknowledged, timeout)

    late = seen_at - datetime.fromisoformat(summary["last_sent_at"]).timestamp()
    mark = "[green]" if seen >= events else "[red]"
    cli.out.print(f"{mark}{min(seen, events)} of {events} counted[/], {late:.2f} s after the last POST was sent.")
    if seen > acknowledged:
        cli.out.print(f"({seen - acknowledged} more than this run had acknowledged: somebody else is sending too.)")
    _show_next(where, summary)
    if seen < acknowledged:
        raise StackError(explain(acknowledged, seen, timeout))
    if acknowledged < events:
        raise StackError(f"{events - acknowledged} events were not accepted.", "See the sender's lines above.")


def _show_next(where: Addresses, summary: Mapping[str, Any]) -> None:
    path = count_path(str(summary["from_ts"]), str(summary["to_ts"]))
    services = (where.ingestion, where.analytics, where.consumer, where.sales)
    docs = (where.ingestion, where.analytics, where.sales)
    rows = {
        "count": f'curl "{where.url(where.analytics, path)}"',
        "docs": "  ".join(where.url(port, "/docs") for port in docs),
        "health": "  ".join(where.url(port, "/health") for port in services),
        "metrics": "  ".join(where.url(port, "/metrics") for port in (*services, where.sales_metrics)),
        "prometheus": where.url(where.prometheus, "") if where.prometheus else "",
        "logs": "make logs F=1",
        "stop": "make down (the data stays)",
    }
    cli.out.print("Next:")
    for name, text in rows.items():
        if text:
            cli.out.print(f"  {name:<11}{text}", markup=False)


if __name__ == "__main__":
    cli.quieten()
    try:
        typer.run(main)
    except StackError as error:
        cli.fail(error)
