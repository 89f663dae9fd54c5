"""Load of learner events or singles made on the fly, as ``python -m`` this module or through ``Paced``.

Open-loop: requests are due at fixed times, however slowly the server answers, and latency runs from when a request was due.
Closed-loop: every connection sends its next request after the last answer, until so many events are acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from array import array
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import uvloop

from tests.benchmarks.answers import is_whole
from tests.benchmarks.bodies import bodies
from tests.benchmarks.learners import Learners
from tests.support.process import ROOT

TICK_SECONDS = 0.001
"""The event loop's own resolution: it would spin through shorter sleeps. A request is late by as much."""
AHEAD = 16
"""Bodies kept ready, so that making one does not make the next request late."""
LAST_ANSWERS_SECONDS = 30.0


class Load:
    """What the connections share. ``samples``: due, latency and service time of each answer, in seconds of perf_counter."""

    def __init__(self, options: argparse.Namespace) -> None:
        parts = urlsplit(options.url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        path = "/api/v1/collect" if options.form == "learner" else "/events"
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\nContent-Length: "
        ).encode()
        self._events = options.events
        self._rate: float = options.rate
        self._total: int = options.total
        self._connections: int = options.connections
        now = datetime.now(UTC)
        rate = round(self._rate * self._events) or 2000
        self._learners = Learners(now - timedelta(seconds=self._total / 2000), rate=rate)
        self._singles = [body[1:] for body in bodies(256)] if options.form == "single" else []
        self._ready: deque[bytes] = deque()
        self._idle: deque[_Connection] = deque()
        self._due: deque[float] = deque()
        self.samples = array("d")
        self.statuses: Counter[str] = Counter()
        self.sent = self.answered = self.acknowledged = 0
        self.first_refusal = ""
        self._stop = asyncio.Event()

    def request(self) -> bytes:
        if self._singles:
            event_id = UUID(bytes=os.urandom(16), version=4)
            body = b'{"event_id":"%b",%b' % (str(event_id).encode(), self._singles[self.sent % len(self._singles)])
        else:
            body = self._learners.body(self._events)
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)

    async def execute(self) -> None:
        """Until ``total`` events are acknowledged, or standard input ends."""
        loop = asyncio.get_running_loop()
        for _ in range(self._connections):
            await loop.create_connection(lambda: _Connection(self), self._host, self._port)
        if self._rate:
            loop.add_reader(sys.stdin.fileno(), self._stop.set)
            await self._pace(loop)
        else:
            for _ in range(len(self._idle)):
                self._next_of_total()
            await self._stop.wait()
        deadline = time.perf_counter() + LAST_ANSWERS_SECONDS
        while self.answered < self.sent and time.perf_counter() < deadline:
            await asyncio.sleep(0.01)

    async def _pace(self, loop: asyncio.AbstractEventLoop) -> None:
        began, number = time.perf_counter() + 0.05, 0
        while not self._stop.is_set():
            now = time.perf_counter()
            while (due := began + number / self._rate) <= now:
                self._due.append(due)
                number += 1
            self._send_due()
            while len(self._ready) < AHEAD:
                self._ready.append(self.request())
            await asyncio.sleep(max(TICK_SECONDS, began + number / self._rate - time.perf_counter()))

    def _send_due(self) -> None:
        while self._due and self._idle:
            self.sent += 1
            request = self._ready.popleft() if self._ready else self.request()
            self._idle.popleft().send(request, self._due.popleft())

    def _next_of_total(self) -> None:
        if self.sent * self._events < self._total:
            self.sent += 1
            self._idle.popleft().send(self.request(), time.perf_counter())
        elif self.answered == self.sent:
            self._stop.set()

    def idle(self, connection: _Connection) -> None:
        self._idle.append(connection)

    def answer(self, connection: _Connection, status: str, reply: bytes) -> None:
        now = time.perf_counter()
        self.answered += 1
        self.statuses[status] += 1
        if status in ("200", "202"):
            self.acknowledged += self._events
            self.samples.extend((connection.due, now - connection.due, now - connection.started))
        elif not self.first_refusal:
            self.first_refusal = f"after {self.acknowledged} events: {reply[-400:]!r}"
        self._idle.append(connection)
        if self._rate:
            self._send_due()
        else:
            self._next_of_total()


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time. Answers must have a Content-Length."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._transport: Any = None
        self.due = self.started = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._load.idle(self)

    def send(self, request: bytes, due: float) -> None:
        self.due, self.started = due, time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not is_whole(self._buffer):
            return
        reply, self._buffer = self._buffer, b""
        self._load.answer(self, reply[9:12].decode(), reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.statuses["broken"] += 1


class Paced:
    """The load as a process of its own: begins at once."""

    def __init__(
        self,
        url: str,
        samples: Path,
        *,
        form: str,
        events: int = 1,
        rate: float = 0.0,
        total: int = 0,
        connections: int,
    ) -> None:
        self._samples = samples
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", __spec__.name, url, str(samples), f"--form={form}", f"--events={events}"),
                *(f"--rate={rate}", f"--total={total}", f"--connections={connections}"),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self, seconds: float = 60.0) -> Report:
        """Ends open-loop load after the answers still to come; waits for the end of the other.

        Raises:
            RuntimeError: it failed.
        """
        output, errors = self._process.communicate(timeout=seconds)
        if self._process.returncode:
            raise RuntimeError(f"the load failed: {errors[-2000:]}")
        samples = array("d")
        samples.frombytes(self._samples.read_bytes())
        return Report(json.loads(output), samples)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)


class Report:
    """What a load did. ``cpu_share`` of one core."""

    def __init__(self, said: dict[str, Any], samples: array[float]) -> None:
        self.seconds: float = said["seconds"]
        self.acknowledged: int = said["acknowledged"]
        self.refused: int = said["refused"]
        self.first_refusal: str = said["first_refusal"]
        self.cpu_share: float = said["cpu_share"]
        self._samples = samples

    def latencies_ms(self, start: float, end: float) -> list[float]:
        """Of the requests due between two moments of perf_counter."""
        given = self._samples
        return [given[i + 1] * 1e3 for i in range(0, len(given), 3) if start <= given[i] < end]


def main() -> None:
    """Prints one line of JSON; writes the samples."""
    parser = argparse.ArgumentParser(description="Open- or closed-loop load, ended by the end of standard input.")
    parser.add_argument("url")
    parser.add_argument("samples", type=Path)
    parser.add_argument("--form", choices=("learner", "single"), default="learner")
    parser.add_argument("--events", type=int, default=1, help="in each request")
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0: closed-loop")
    parser.add_argument("--total", type=int, default=0, help="events, closed-loop")
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    began, load = time.perf_counter(), Load(options)
    uvloop.run(load.execute())
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    options.samples.write_bytes(load.samples.tobytes())
    good = load.statuses["200"] + load.statuses["202"]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "acknowledged": load.acknowledged,
                "refused": load.sent - good,
                "first_refusal": load.first_refusal,
                "cpu_share": round((used.ru_utime + used.ru_stime) / seconds, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
