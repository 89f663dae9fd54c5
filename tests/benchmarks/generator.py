"""Closed-loop load: N connections, each with one request in flight. wrk where it is installed, else ``python -m`` this module.

Both run as a process of their own, send the same bodies and print the same JSON line, so that nothing else here differs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from tests.benchmarks.answers import is_whole
from tests.benchmarks.bodies import Bodies, read
from tests.benchmarks.figures import quantiles

QUANTILES = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}


@dataclass(frozen=True)
class Load:
    """``refused``: answers other than 2xx. ``broken``: connections or answers that failed. ``cpu_share`` of one core."""

    program: str
    requests: int
    seconds: float
    refused: int
    broken: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    cpu_share: float


def choose(wanted: str) -> str:
    """wrk or own; ``auto`` is wrk where it is installed. Raises RuntimeError where wrk is wanted and missing."""
    there = shutil.which("wrk") is not None
    if wanted == "wrk" and not there:
        raise RuntimeError("wrk is not installed: apt-get install wrk, or --generator own")
    return wanted if wanted != "auto" else "wrk" if there else "own"


def drive(program: str, url: str, bodies: Bodies, *, connections: int, seconds: float, start: int = 0) -> Load:
    """Loads ``url`` with ``bodies`` in turn, from number ``start`` on, for ``seconds``; ``program`` as of ``choose``.

    Raises:
        RuntimeError: the generator failed.
    """
    given = [str(bodies.path), str(start % bodies.number), bodies.encoding]
    if program == "wrk":
        script = str(Path(__file__).with_name("post.lua"))
        whole = max(1, round(seconds))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{whole}s", "--timeout=10s", "-s", script, url, "--", *given]
    else:
        command = [sys.executable, "-m", __spec__.name, url, *given, str(connections), str(seconds)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode or not lines:
        raise RuntimeError(f"{command[0]} ended with {ended.returncode}: {ended.stdout[-500:]} {ended.stderr[-2000:]}")
    found = json.loads(lines[-1])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Load(program=program, cpu_share=round(cpu / found["seconds"], 3), **found)


class _Run:
    """What the connections share."""

    def __init__(self, requests: Sequence[bytes], position: int, seconds: float) -> None:
        self.requests = requests
        self.position = position
        self.deadline = time.perf_counter() + seconds
        self.times: list[float] = []
        self.refused = self.broken = 0


class _Connection(asyncio.Protocol):
    """One keep-alive connection. Answers must have a Content-Length, which every answer of these services has."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self._sent_at = 0.0
        self._transport: asyncio.WriteTransport | None = None
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are no subclasses
        self._send()

    def _send(self) -> None:
        run = self._run
        assert self._transport is not None
        run.position = (run.position + 1) % len(run.requests)
        self._sent_at = time.perf_counter()
        self._transport.write(run.requests[run.position])

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not is_whole(self._buffer):
            return
        run, now = self._run, time.perf_counter()
        run.times.append(now - self._sent_at)
        run.refused += self._buffer[9:10] != b"2"
        self._buffer = b""
        if now < run.deadline:
            self._send()
        else:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self._run.broken += 1
            self.ended.set_result(None)

    def _finish(self) -> None:
        assert self._transport is not None
        self.ended.set_result(None)
        self._transport.close()


async def _load(options: argparse.Namespace) -> dict[str, float]:
    url, connections, seconds = options.url, options.connections, options.seconds
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    encoding = f"Content-Encoding: {options.encoding}\r\n" if options.encoding else ""
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"{encoding}Content-Length: "
    ).encode()
    run = _Run([b"%b%d\r\n\r\n%b" % (head, len(body), body) for body in read(options.bodies)], options.start, seconds)
    began = time.perf_counter()
    loop = asyncio.get_running_loop()
    made = await asyncio.gather(
        *(loop.create_connection(lambda: _Connection(run), host, port) for _ in range(connections))
    )
    await asyncio.wait([protocol.ended for _, protocol in made], timeout=seconds + 30)
    elapsed = time.perf_counter() - began
    latencies = quantiles([seconds * 1e3 for seconds in run.times] or [0.0], QUANTILES)
    return {
        "requests": len(run.times),
        "seconds": elapsed,
        "refused": run.refused,
        "broken": run.broken,
        **latencies,
    }


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description="Closed-loop load, one request in flight per connection.")
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path, help="file of bodies.write")
    parser.add_argument("start", type=int, help="number of the body to begin after")
    parser.add_argument("encoding", help="their Content-Encoding, or nothing")
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    print(json.dumps(uvloop.run(_load(parser.parse_args()))))


if __name__ == "__main__":
    main()
