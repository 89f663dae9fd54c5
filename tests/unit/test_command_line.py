"""``python -m <service>`` as an operator meets it: --help, --print-config, wrong settings, taken ports."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from analytics_service.settings import AnalyticsSettings
from event_consumer.settings import ConsumerSettings
from event_core.settings import ServiceSettings, env_names
from ingestion_service.settings import IngestionSettings

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, type[ServiceSettings]] = {
    "ingestion_service": IngestionSettings,
    "event_consumer": ConsumerSettings,
    "analytics_service": AnalyticsSettings,
}
PORTS = {
    "ingestion_service": "INGESTION_PORTS",
    "event_consumer": "CONSUMER_PORT",
    "analytics_service": "ANALYTICS_PORT",
}
UNREACHABLE = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "DATABASE_URL": "postgresql://postgres:hunter2@127.0.0.1:1/events_db",
}


def run(folder: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The finished ``python -m command`` in ``folder``, whose ``.env`` it reads."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default", **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize("service", SETTINGS)
def test_help_says_what_the_service_does_and_where_settings_come_from(service: str, tmp_path: Path) -> None:
    done = run(tmp_path, service, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: python -m {service}" in done.stdout
    assert "--print-config" in done.stdout
    assert ".env" in done.stdout


@pytest.mark.parametrize("service", SETTINGS)
def test_print_config_shows_each_setting_with_its_origin_and_warns_of_unknown_ones(
    service: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("SERVICE_NAME=mine\nKAFKA_TOPIK=x\n")
    done = run(tmp_path, service, "--print-config", LOG_LEVEL="ERROR", LOGLEVEL="x", **UNREACHABLE)
    assert done.returncode == 0
    rows = {line.split()[0]: re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()}
    assert set(rows) == {variables[0] for variables in env_names(SETTINGS[service]).values()}
    assert rows["SERVICE_NAME"][1:] == ["mine", ".env (SERVICE_NAME)"]
    assert rows["LOG_LEVEL"][1:] == ["ERROR", "environment (LOG_LEVEL)"]
    assert rows["METRICS_PORT"][1:] == ["(unset)", "default"]
    assert "hunter2" not in done.stdout
    warnings = done.stderr.splitlines()
    assert len(warnings) == 2
    assert all(line.startswith("warning: unknown setting ") for line in warnings)
    assert "KAFKA_TOPIK" in done.stderr
    assert "LOGLEVEL: did you mean LOG_LEVEL?" in done.stderr


@pytest.mark.parametrize("service", SETTINGS)
def test_a_wrong_setting_ends_the_start_with_exit_code_2_and_its_name(service: str, tmp_path: Path) -> None:
    done = run(tmp_path, service, **{PORTS[service]: "eighty"}, METRICS_PORT="-1")
    assert done.returncode == 2
    assert PORTS[service] in done.stderr
    assert "METRICS_PORT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("service", SETTINGS)
def test_a_taken_port_ends_the_start_with_exit_code_2_and_the_setting_that_moves_it(
    service: str, tmp_path: Path, taken_port: int
) -> None:
    done = run(tmp_path, service, **{PORTS[service]: str(taken_port)}, **UNREACHABLE)
    assert done.returncode == 2
    assert str(taken_port) in done.stderr
    assert PORTS[service] in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_a_taken_metrics_port_is_named_too(tmp_path: Path, taken_port: int) -> None:
    done = run(tmp_path, "analytics_service", ANALYTICS_PORT="0", METRICS_PORT=str(taken_port), **UNREACHABLE)
    assert done.returncode == 2
    assert "METRICS_PORT" in done.stderr


def test_an_unknown_pipeline_is_refused_with_the_ones_there_are(tmp_path: Path) -> None:
    done = run(tmp_path, "event_consumer", "evnts")
    assert done.returncode == 2
    assert "events" in done.stderr


def test_a_buffer_folder_that_cannot_be_used_ends_the_start_with_exit_code_2_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(tmp_path, "ingestion_service", INGESTION_PORTS="0", BUFFER_DIR="file/buffer", **UNREACHABLE)
    assert done.returncode == 2
    assert "BUFFER_DIR" in done.stderr
    assert "Traceback" not in done.stderr
