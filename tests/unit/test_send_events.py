"""``tools/send_events.py`` as a user runs it: a process, without any installed package, against a real HTTP server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "send_events.py"
# -I -S: neither site-packages nor the repository can be imported, so only the standard library is there.
COMMAND = [sys.executable, "-I", "-S", str(SCRIPT)]

Event = dict[str, Any]
Answer = tuple[int, dict[str, Any], dict[str, str]]


def accepted(event: Event) -> Answer:
    return 202, {"status": "accepted", "event_id": event["event_id"]}, {}


def refused(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Answer:
    return status, {"error_code": code, "error_message": message, "retryable": status >= 500}, headers or {}


class FarEnd:
    """A stand-in for the ingestion service: answers what ``answer(event, attempt)`` says and keeps what came."""

    def __init__(self) -> None:
        self.answer: Callable[[Event, int], Answer] = lambda event, attempt: accepted(event)
        self.received: list[Event] = []
        self.attempts: Counter[str] = Counter()
        self.connections = 0
        self._lock = threading.Lock()
        far_end = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                far_end.connections += 1

            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, body, headers = far_end._receive(event)
                encoded = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(encoded))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(encoded)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/events"

    def _receive(self, event: Event) -> Answer:
        with self._lock:
            self.received.append(event)
            self.attempts[event["event_id"]] += 1
            attempt = self.attempts[event["event_id"]]
        return self.answer(event, attempt)


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    end = FarEnd()
    thread = threading.Thread(target=end.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield end
    end.server.shutdown()
    end.server.server_close()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


def summary_of(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return summary


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_the_default_is_300_events_of_30_users(far_end: FarEnd) -> None:
    before = datetime.now(UTC)
    result = run("--url", far_end.url, "--json-summary")
    assert result.returncode == 0, result.stderr
    events = far_end.received
    assert len({uuid.UUID(event["event_id"]) for event in events}) == len(events) == 300
    assert len({event["user_id"] for event in events}) == 30
    assert {"page_view", "purchase", "signup"} <= {event["event_name"] for event in events}
    assert all({"page", "country", "device", "browser"} <= event["metadata"].keys() for event in events)
    assert all(before <= moment(event["timestamp"]) <= datetime.now(UTC) for event in events)
    assert "300 sent, 300 acknowledged, 0 failed" in result.stdout
    assert far_end.connections <= 8  # kept alive


def test_the_json_summary_tells_which_events_to_look_for(far_end: FarEnd) -> None:
    summary = summary_of(run("--url", far_end.url, "--events", "40", "--users", "4", "--json-summary", "--quiet"))
    assert (summary["sent"], summary["acknowledged"], summary["failed"], summary["retried"]) == (40, 40, 0, 0)
    assert sorted(summary["event_ids"]) == sorted(event["event_id"] for event in far_end.received)
    assert {event["metadata"]["run_id"] for event in far_end.received} == {summary["run_id"]}
    stamps = [moment(event["timestamp"]) for event in far_end.received]
    assert moment(summary["from_ts"]) == min(stamps)
    assert max(stamps) < moment(summary["to_ts"]) <= max(stamps) + timedelta(seconds=1)
    assert moment(summary["first_sent_at"]) <= moment(summary["last_sent_at"]) <= moment(summary["last_ack_at"])


def test_quiet_prints_nothing_when_all_is_well(far_end: FarEnd) -> None:
    result = run("--url", far_end.url, "--events", "5", "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_same_seed_sends_the_same_content_under_new_ids(far_end: FarEnd) -> None:
    def content() -> list[str]:
        far_end.received.clear()
        assert run("--url", far_end.url, "--events", "50", "--users", "5", "--seed", "7").returncode == 0
        for event in far_end.received:
            event["metadata"].pop("run_id")
        return sorted(json.dumps([e["user_id"], e["event_name"], e["metadata"]]) for e in far_end.received)

    first = content()
    ids = set(far_end.attempts)
    assert content() == first
    assert len(set(far_end.attempts) - ids) == 50


def test_one_users_events_arrive_in_the_order_of_their_timestamps(far_end: FarEnd) -> None:
    assert run("--url", far_end.url, "--events", "60", "--users", "6", "--spread", "30").returncode == 0
    for user in {event["user_id"] for event in far_end.received}:
        stamps = [moment(event["timestamp"]) for event in far_end.received if event["user_id"] == user]
        assert len(stamps) == 10
        assert stamps == sorted(stamps)
    stamps = sorted(moment(event["timestamp"]) for event in far_end.received)
    assert timedelta(minutes=25) < stamps[-1] - stamps[0] <= timedelta(minutes=30)


def test_a_503_is_retried_with_the_same_id_and_not_before_retry_after(far_end: FarEnd) -> None:
    arrivals: list[float] = []

    def answer(event: Event, attempt: int) -> Answer:
        arrivals.append(time.monotonic())
        headers = {"Retry-After": "1"}
        return accepted(event) if attempt > 1 else refused(503, "broker_unavailable", "Kafka is down", headers)

    far_end.answer = answer
    result = run("--url", far_end.url, "--events", "1", "--users", "1", "--json-summary")
    summary = summary_of(result)
    assert result.returncode == 0
    assert (summary["acknowledged"], summary["failed"], summary["retried"]) == (1, 0, 1)
    assert summary["event_ids"] == list(far_end.attempts)
    assert list(far_end.attempts.values()) == [2]
    assert far_end.received[0] == far_end.received[1]
    assert arrivals[1] - arrivals[0] >= 1.0
    assert "broker_unavailable: Kafka is down" in result.stderr


def test_a_500_is_retried_only_where_the_server_says_so(far_end: FarEnd) -> None:
    far_end.answer = lambda event, attempt: (500, {"error_code": "bug", "retryable": False}, {})
    assert run("--url", far_end.url, "--events", "1").returncode == 1
    assert list(far_end.attempts.values()) == [1]
    far_end.attempts.clear()
    far_end.answer = lambda event, attempt: accepted(event) if attempt > 1 else refused(500, "flaky", "once more")
    assert run("--url", far_end.url, "--events", "1").returncode == 0
    assert list(far_end.attempts.values()) == [2]


def test_a_4xx_is_final_and_shown_in_the_servers_words(far_end: FarEnd) -> None:
    far_end.answer = lambda event, attempt: (
        refused(422, "invalid_event", "user_id is too long") if event["user_id"] == "user_0001" else accepted(event)
    )
    result = run("--url", far_end.url, "--events", "10", "--users", "5", "--json-summary")
    summary = summary_of(result)
    assert result.returncode == 1
    assert (summary["sent"], summary["acknowledged"], summary["failed"]) == (10, 8, 2)
    assert set(far_end.attempts.values()) == {1}
    assert "2 x HTTP 422 invalid_event: user_id is too long" in result.stdout


def test_a_2xx_that_does_not_name_the_event_is_no_acknowledgement(far_end: FarEnd) -> None:
    far_end.answer = lambda event, attempt: (200, {"hello": "world"}, {})
    result = run("--url", far_end.url, "--events", "2", "--json-summary")
    assert result.returncode == 1
    assert summary_of(result)["event_ids"] == []
    assert "is this the ingestion service?" in result.stdout


def test_an_outage_ends_after_max_wait_for_all_events_together(far_end: FarEnd) -> None:
    far_end.answer = lambda event, attempt: refused(503, "broker_unavailable", "Kafka is down")
    started = time.monotonic()
    result = run("--url", far_end.url, "--max-wait", "0.5", "--concurrency", "2", "--json-summary")
    assert result.returncode == 1
    assert time.monotonic() - started < 30  # 150 events in turn, each waiting alone, would take over a minute
    summary = summary_of(result)
    assert summary["acknowledged"] == 0
    assert summary["sent"] == summary["failed"] == len(far_end.attempts) < 300
    assert "were not sent at all" in result.stdout


def test_nothing_listening_names_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = run("--url", f"http://127.0.0.1:{port}/events", "--max-wait", "0.3")
    assert result.returncode == 1
    assert "Connection refused" in result.stderr
    assert "make up" in result.stderr
    assert f"Nothing listens at http://127.0.0.1:{port}/events" in result.stdout
    assert "Traceback" not in result.stderr


def test_ctrl_c_prints_what_was_done_so_far(far_end: FarEnd) -> None:
    arguments = ["--url", far_end.url, "--rate", "20", "--events", "1000", "--json-summary"]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        while len(far_end.received) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert sorted(json.loads(stdout.splitlines()[-1])["event_ids"]) == sorted(far_end.attempts)
    assert "were not sent at all" in stdout


@pytest.mark.parametrize("arguments", [["--events", "0"], ["--url", "localhost:8004"], ["--rate", "-1"], ["--nope"]])
def test_wrong_usage_is_told_without_sending(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "error:" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_names_the_defaults() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert "http://localhost:8004/events" in result.stdout
    assert "--max-wait" in result.stdout
