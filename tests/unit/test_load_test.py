"""``load_test.py`` as a user runs it: a process, against a real HTTP server on a loopback address."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from load_test import Schedule, Times, main

SCRIPT = Path(__file__).parents[2] / "load_test.py"
Answer = Callable[[int], Awaitable[int]]


class FarEnd:
    """A stand-in for the ingestion service on a thread of its own; ``answer(nth request)`` gives the status."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.answer: Answer = self._accept
        self.url = ""

    @staticmethod
    async def _accept(number: int) -> int:
        return 202

    async def _handle(self, request: web.Request) -> web.Response:
        self.received.append(await request.json())
        status = await self.answer(len(self.received))
        return web.json_response({"status": "accepted"}, status=status)

    async def serve(self, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        app = web.Application()
        app.router.add_post("/events", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
        stop = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        await runner.cleanup()


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    end = FarEnd()
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(end.serve(started)), daemon=True)
    thread.start()
    loop, stop = started.result(timeout=10)
    yield end
    loop.call_soon_threadsafe(stop.set)
    thread.join(timeout=10)


def run(*arguments: str, python: tuple[str, ...] = (sys.executable,)) -> subprocess.CompletedProcess[str]:
    command = [*python, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_sends_what_was_asked_for_and_reports_it(far_end: FarEnd, tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    size = ["--rate", "400", "--duration", "0.5", "--users", "7", "--metadata-bytes", "500"]
    result = run("--url", far_end.url, *size, "--json", str(report_file))
    assert result.returncode == 0, result.stderr
    assert len({event["event_id"] for event in far_end.received}) == len(far_end.received) == 200
    assert len({event["user_id"] for event in far_end.received}) == 7
    assert {len(json.dumps(event["metadata"])) for event in far_end.received} == {500}
    report = json.loads(report_file.read_text())
    assert (report["intended"], report["sent"], report["ok"], report["failed"]) == (200, 200, 200, 0)
    assert (report["statuses"], report["errors"]) == ({"202": 200}, {})
    assert report["from_ts"] <= min(event["timestamp"] for event in far_end.received)
    assert report["to_ts"] > max(event["timestamp"] for event in far_end.received)
    for kind in ("latency_ms", "service_ms"):
        values = report["measured"][kind]
        assert list(values) == ["p50", "p90", "p95", "p99", "p99.9", "max"]
        assert list(values.values()) == sorted(values.values())
    assert "200 intended, 200 sent, 200 ok, 0 failed" in result.stdout
    assert "p99.9" in result.stdout


@pytest.mark.parametrize("connections", [1, 80])
def test_a_stall_is_seen_by_every_request_that_was_due_during_it(far_end: FarEnd, connections: int) -> None:
    async def stall_once(number: int) -> int:
        if number == 10:
            await asyncio.sleep(0.7)
        return 202

    far_end.answer = stall_once
    arguments = ("--rate", "125", "--duration", "0.8", "--connections", str(connections))
    report = json.loads(run("--url", far_end.url, *arguments, "--json", "-").stdout)
    latency, service = report["measured"]["latency_ms"], report["measured"]["service_ms"]
    # One request of a hundred waited for the server; with one connection some eighty were due meanwhile and could not
    # start. With enough connections they could, and nobody else met the stall.
    assert report["ok"] == 100
    assert service["p90"] < 250
    assert service["max"] >= 700
    if connections == 1:
        assert latency["p90"] >= 400
        assert report["measured"]["late_starts"] >= 50
        assert report["all_connections_busy"] >= 50
    else:
        assert latency["p90"] < 250


def test_failures_are_counted_by_status_and_fail_the_run(far_end: FarEnd) -> None:
    async def every_fourth(number: int) -> int:
        return 503 if number % 4 == 0 else 202

    far_end.answer = every_fourth
    arguments = ["--url", far_end.url, "--rate", "100", "--duration", "0.4"]
    result = run(*arguments)
    assert result.returncode == 1
    assert "202: 30, 503: 10" in result.stdout
    assert main([*arguments, "--allow-errors"]) == 0


def test_timeouts_and_requests_that_never_started_are_failures(far_end: FarEnd) -> None:
    async def never(number: int) -> int:
        await asyncio.sleep(30)
        return 202

    far_end.answer = never
    arguments = ("--url", far_end.url, "--rate", "50", "--duration", "0.4", "--connections", "2", "--timeout", "0.2")
    result = run(*arguments, "--json", "-")
    report = json.loads(result.stdout)
    assert result.returncode == 1
    assert (report["ok"], report["failed"]) == (0, report["intended"]) == (0, 20)
    assert report["errors"]["timeout"] >= 1
    assert any(kind.startswith("never started") for kind in report["errors"])
    assert report["measured"]["latency_ms"]["p99"] is None


def test_max_errors_ends_the_run_early(far_end: FarEnd) -> None:
    async def refuse(number: int) -> int:
        return 500

    far_end.answer = refuse
    result = run("--url", far_end.url, "--rate", "100", "--duration", "30", "--max-errors", "5")
    assert result.returncode == 1
    assert "stopped after 5 failures" in result.stdout
    assert 5 <= len(far_end.received) < 1000


def test_ctrl_c_prints_what_was_measured_so_far(far_end: FarEnd) -> None:
    command = [sys.executable, str(SCRIPT), "--url", far_end.url, "--rate", "50", "--duration", "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        while len(far_end.received) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "The run was interrupted" in stdout
    assert "p99.9" in stdout
    assert "Traceback" not in stderr


def test_the_warm_up_and_the_ramp_are_sent_but_not_measured(far_end: FarEnd) -> None:
    timing = ["--rate", "200", "--ramp", "0.2", "--warmup", "0.15", "--duration", "0.25"]
    report = json.loads(run("--url", far_end.url, *timing, "--json", "-").stdout)
    assert len(far_end.received) == report["sent"] == 20 + 30 + 50
    assert report["measured"]["sent"] == report["measured"]["ok"] == 50


def test_nothing_listening_names_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = run("--url", f"http://127.0.0.1:{port}/events", "--rate", "20", "--duration", "0.1")
    assert result.returncode == 1
    assert "cannot connect: refused" in result.stdout
    assert "make up" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "10.0.0.1", "0.0.0.0"])
def test_another_machine_is_refused_unless_allowed(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--url", f"http://{host}:8001/events", "--rate", "1", "--duration", "1"])
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert "is not this machine" in said
    assert "--allow-remote" in said


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--rate", "nan"], ["--duration", "1e9"], ["--url", "ftp://x"]])
def test_wrong_usage_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "error: --" in capsys.readouterr().err


def test_help_and_the_message_without_aiohttp() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert "http://localhost:8001/events" in result.stdout
    bare = run("--help", python=(sys.executable, "-I", "-S"))
    assert bare.returncode == 1
    assert "make setup" in bare.stderr
    assert "Traceback" not in bare.stderr


def test_the_schedule_ramps_linearly_and_then_holds_the_rate() -> None:
    schedule = Schedule(rate=100, duration=2, ramp=2, warmup=1)
    due = [schedule.due(index) for index in range(schedule.total)]
    assert due == sorted(due)
    assert (schedule.first_measured, schedule.total) == (200, 400)
    assert sum(moment < 1 for moment in due) == 25  # half of the time is a quarter of the ramp's requests
    assert sum(moment < 2 for moment in due) == 100
    assert due[300] - due[200] == pytest.approx(1.0)


def test_percentiles_are_exact_by_nearest_rank() -> None:
    times = Times()
    for milliseconds in reversed(range(1, 1001)):
        times.add(milliseconds / 1000)
    values = times.percentiles_ms()
    assert values == {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99.9": 999, "max": 1000}
    assert times.rough(0.99) == pytest.approx(0.99, rel=0.06)
