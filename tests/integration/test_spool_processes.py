"""Row 15 of the fault matrix: several processes and one buffer."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.spool import ROOT, driver, files_in


@dataclass
class Held:
    """A process that has a slot."""

    process: subprocess.Popen[str]
    acknowledged: list[int]
    slot: str

    def ask(self, what: str) -> list[str]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()[1:]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[int], Held]]:
    running: list[subprocess.Popen[str]] = []

    def start(number: int) -> Held:
        process = subprocess.Popen(
            driver("hold", tmp_path / "buffer", number),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        running.append(process)
        assert process.stdout
        acknowledged = [int(each) for each in process.stdout.readline().split()[1:]]
        return Held(process, acknowledged, process.stdout.readline().split()[1])

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_each_process_has_a_slot_and_takes_over_from_the_dead(hold: Callable[[int], Held], tmp_path: Path) -> None:
    first, second = hold(0), hold(100)
    assert {first.slot, second.slot} == {"slot-0", "slot-1"}
    assert second.ask("adopt") == ["0"]
    first.process.kill()
    first.process.wait()
    assert second.ask("adopt") == ["4"]
    drained = list(map(int, second.ask("drain")))
    assert sorted(drained) == sorted(first.acknowledged + second.acknowledged)
    assert files_in(tmp_path / "buffer") == []
    third = hold(200)
    assert third.slot == first.slot


def test_a_slot_is_taken_over_at_a_start(hold: Callable[[int], Held]) -> None:
    first, second = hold(0), hold(100)
    for held in (first, second):
        held.process.kill()
        held.process.wait()
    third = hold(200)
    drained = list(map(int, third.ask("drain")))
    assert sorted(drained) == [*first.acknowledged, *second.acknowledged, *third.acknowledged]
