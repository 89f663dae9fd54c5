"""Finding and ending a stack's processes without touching anybody else's."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.stack import processes
from tools.stack.processes import MEMBER_VARIABLE, PROGRAM_VARIABLE, Member

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"


class Spawner:
    """Starts processes that claim to belong to a home directory."""

    def __init__(self) -> None:
        self.children: list[subprocess.Popen[str]] = []

    def __call__(self, home: Path, program: str, command: list[str] | None = None) -> subprocess.Popen[str]:
        environment = {**os.environ, MEMBER_VARIABLE: str(home), PROGRAM_VARIABLE: program}
        # Seen only after its exec, hence the line that each prints first.
        shell = ["sh", "-c", "echo on; exec sleep 60"]
        child = subprocess.Popen(command or shell, env=environment, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "on\n"
        self.children.append(child)
        return child


@pytest.fixture
def spawn() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    for child in spawner.children:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def found(home: Path) -> list[Member]:
    return processes.members(home, home / "postgres" / "data")


def test_members_are_those_of_this_home_only(tmp_path: Path, spawn: Spawner) -> None:
    mine = spawn(tmp_path / "a", "kafka")
    spawn(tmp_path / "ab", "kafka")
    assert [(m.process.pid, m.program) for m in found(tmp_path / "a")] == [(mine.pid, "kafka")]


def test_ending_spares_the_neighbours(tmp_path: Path, spawn: Spawner) -> None:
    mine, other = spawn(tmp_path / "a", "kafka"), spawn(tmp_path / "b", "kafka")
    assert processes.end_in_order(lambda: found(tmp_path / "a"), ("kafka", "mongo", "postgres"), 20.0) == 1
    assert mine.wait(timeout=20) == -signal.SIGTERM
    assert other.poll() is None


def test_what_does_not_heed_a_signal_is_killed(tmp_path: Path, spawn: Spawner) -> None:
    child = spawn(tmp_path, "consumer", [sys.executable, "-c", STUBBORN])
    processes.end_in_order(lambda: found(tmp_path), ("kafka", "mongo", "postgres"), 0.2)
    assert child.wait(timeout=20) == -signal.SIGKILL


def test_services_end_before_kafka_and_kafka_before_the_databases(tmp_path: Path, spawn: Spawner) -> None:
    for program in ("postgres", "mongo", "kafka", "analytics", "ingestion"):
        spawn(tmp_path, program)
    looks: list[set[str]] = []

    def look() -> list[Member]:
        members = found(tmp_path)
        looks.append({m.program for m in members})
        return members

    assert processes.end_in_order(look, ("kafka", "mongo", "postgres"), 20.0) == 5
    assert looks == [
        {"postgres", "mongo", "kafka", "analytics", "ingestion"},
        {"postgres", "mongo", "kafka"},
        {"postgres", "mongo"},
        {"postgres"},
    ]


def test_a_reaped_or_unreaped_child_is_not_alive() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = processes.read(child.pid)
        assert process is not None
        assert processes.alive(process)
        child.kill()
        # Nobody has waited for it yet: it is a zombie.
        assert processes.wait_gone([process], 20.0) == []
    assert not processes.alive(process)


def test_a_later_process_of_the_same_pid_is_another_one() -> None:
    process = processes.read(os.getpid())
    assert process is not None
    assert processes.alive(process)
    assert not processes.alive(processes.Process(process.pid, process.started - 1, process.command))
