"""A service as a real process: started, asked, killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.backend import free_port

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60.0
_PORTS = {
    "ingestion_service": "INGESTION_PORTS",
    "event_consumer": "CONSUMER_PORT",
    "event_consumer sales": "SALES_PORT",
    "analytics_service": "ANALYTICS_PORT",
}


class Service:
    """``python -m <name>``, a pipeline's name included, with settings of its own; its log is ``log``."""

    def __init__(self, name: str, settings: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.port = int(settings.get(_PORTS[name], "0").split(",")[0]) or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        inherited = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if key in os.environ}
        self._environ = {
            **inherited,
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "default",
            _PORTS[name]: str(self.port),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def start(self, *, ready: bool = True, instead: Sequence[str] = ()) -> Service:
        """Starts the process; waits until /health/ready is 200 where ``ready``, else until it answers at all. ``instead``: a
        module and its arguments to run in its place."""
        self._launch(instead)
        self.wait("/health/ready" if ready else "/health/live")
        return self

    def run(self, *instead: str, seconds: float = READY_SECONDS) -> int:
        """Starts the process, as ``start`` does, and waits until it ends; its exit code."""
        self._launch(instead)
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {seconds:g} s:\n{self.tail()}") from None

    def _launch(self, instead: Sequence[str]) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *(instead or self.name.split())],
                cwd=ROOT,
                env=self._environ,
                stdout=log,
                stderr=log,
            )

    def wait(self, path: str, status: int = 200, seconds: float = READY_SECONDS) -> None:
        """Returns once ``path`` answers with ``status``."""
        deadline = time.monotonic() + seconds
        seen: object = None
        while True:
            assert self._process is not None
            assert self._process.poll() is None, f"{self.name} ended with {self._process.returncode}:\n{self.tail()}"
            try:
                reply = httpx.get(self.url + path, timeout=5)
                seen = f"{reply.status_code} {reply.text}"
                if reply.status_code == status:
                    return
            except httpx.TransportError as error:
                seen = error
            assert time.monotonic() < deadline, f"{self.name}{path} is not {status}: {seen}\n{self.tail()}"
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL, as a crash or the kernel's memory guard would end it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP, as when its machine hangs; thawed at the end."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def stop(self, seconds: float = 40.0) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def ended(self, seconds: float = 40.0) -> int:
        """Waits until it has ended by itself; its exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    def peak_memory(self) -> int:
        """Most memory it ever held, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of /metrics; 0 where there is none."""
        text = httpx.get(self.url + "/metrics", timeout=10).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def get(self, path: str, **params: Any) -> httpx.Response:
        return httpx.get(self.url + path, params=params, timeout=30)

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=30)
