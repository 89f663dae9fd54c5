"""Rows 9 and 12 of the fault matrix: the disk spool killed at its writes, and on a disk that fails."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ingestion_service.spool.store import SpoolStore
from tests.support.spool import IN_CI, MIB, ROOT, drain, driver, entries, entry, files_in, number_of, recovered

ROUNDS = 24
WRITING = "write pwrite64 fdatasync fsync rename unlink ftruncate fallocate mkdir".split()
SAMPLED_KILLS = 40
SAMPLED_FAILURES = 24


@dataclass
class Told:
    """What a driver said before its end."""

    acknowledged: set[int] = field(default_factory=set)
    forgotten: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    refusals: list[str] = field(default_factory=list)
    done: bool = False

    @classmethod
    def of(cls, output: str) -> Told:
        told = cls()
        for line in output.splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            word, *rest = line.split()
            match word:
                case "a":
                    told.acknowledged |= set(map(int, rest))
                case "f":
                    told.forgotten |= set(map(int, rest))
                case "x":
                    told.refusals.append(rest[0])
                    told.refused |= set(map(int, rest[1:]))
                case "done":
                    told.done = True
        return told


@pytest.fixture(scope="session")
def strace() -> str:
    found = shutil.which("strace")
    works = found and subprocess.run([found, "-o", os.devnull, "true"], capture_output=True).returncode == 0
    if not works:
        if IN_CI:
            pytest.fail("strace is missing or may not trace: these rows of the fault matrix must run here")
        pytest.skip("strace is missing or may not trace (ptrace is forbidden)")
    assert found
    return found


def traced(strace: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The driver's work under strace; its trace is ``directory.trace``."""
    trace = ["-f", "-y", "-o", f"{directory}.trace", "-e", f"trace={','.join(WRITING)}", *options]
    return subprocess.run(
        [strace, *trace, *driver("work", directory, ROUNDS)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=120,
    )


def check(directory: Path, told: Told, where: object) -> None:
    """Everything that was acknowledged and not forgotten is there, in the order of its lane, once; nothing is called damaged."""
    store = recovered(directory)
    try:
        waiting = store.records
        records = drain(store)
        numbers = list(map(number_of, records))
        assert told.acknowledged - told.forgotten <= set(numbers), where
        assert len(set(numbers)) == len(numbers) == waiting, where
        assert all(record == entry(number_of(record)).record for record in records), where
        lanes: dict[object, list[int]] = {}
        for number in numbers:
            lanes.setdefault(entry(number).lane, []).append(number)
        assert all(lane == sorted(lane) for lane in lanes.values()), where
        assert (store.damaged.files, store.damaged.records) == (0, 0), where
        assert files_in(directory) == [], where
    finally:
        store.close()


def calls(trace: Path) -> Counter[str]:
    return Counter(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))


@pytest.fixture(scope="session")
def undisturbed(strace: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trace of a run that nothing disturbs."""
    directory = tmp_path_factory.mktemp("spool") / "buffer"
    result = traced(strace, directory)
    assert result.returncode == 0, result.stderr
    told = Told.of(result.stdout)
    assert told.done
    assert len(told.acknowledged) == 4 * ROUNDS
    check(directory, told, "undisturbed")
    return directory.with_name(directory.name + ".trace")


def points(trace: Path, names: list[str]) -> list[tuple[str, int]]:
    return [(name, number) for name, count in calls(trace).items() if name in names for number in range(1, count + 1)]


# -- row 9


def kill_at(strace: str, tmp_path: Path, point: tuple[str, int]) -> None:
    name, number = point
    directory = tmp_path / f"{name}-{number}"
    result = traced(strace, directory, "-e", f"inject={name}:signal=KILL:when={number}")
    assert "+++ killed by SIGKILL +++" in Path(f"{directory}.trace").read_text(), point
    check(directory, Told.of(result.stdout), point)
    shutil.rmtree(directory)


def walk(strace: str, tmp_path: Path, where: list[tuple[str, int]]) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda point: kill_at(strace, tmp_path, point), where))


def test_a_kill_at_a_write_loses_nothing_acknowledged(strace: str, undisturbed: Path, tmp_path: Path) -> None:
    every = points(undisturbed, WRITING)
    assert {name for name, _ in every} >= {"pwrite64", "fdatasync", "fsync", "rename", "unlink", "ftruncate"}
    walk(strace, tmp_path, random.Random(9).sample(every, SAMPLED_KILLS))


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_a_kill_at_every_write_loses_nothing_acknowledged(strace: str, undisturbed: Path, tmp_path: Path) -> None:
    walk(strace, tmp_path, points(undisturbed, WRITING))


def test_each_acknowledgement_comes_after_a_sync_of_its_log(undisturbed: Path) -> None:
    synced = acknowledged = 0
    for line in undisturbed.read_text().splitlines():
        if re.search(r"fdatasync\(\d+<[^>]*\.journal-wal>\) += 0", line):
            synced += 1
        elif re.search(r"write\(1<[^>]*>, \"a ", line):
            assert synced, line
            synced, acknowledged = 0, acknowledged + 1
    assert acknowledged == ROUNDS


def test_a_segment_is_durable_before_what_it_replaces_goes(undisturbed: Path) -> None:
    """What a power cut needs and a kill cannot show: the file, then its name, then the others' names."""
    steps = re.findall(
        r"(fsync|rename|unlink)\((?:\d+<([^>]*)>|\"([^\"]*)\")(?:, \"([^\"]*)\")?\) += 0", undisturbed.read_text()
    )
    renamed = 0
    for index, (call, _, source, target) in enumerate(steps):
        if call == "rename" and target.endswith(".segment"):
            renamed += 1
            assert steps[index - 1][:2] == ("fsync", source)
            assert steps[index + 1][:2] == ("fsync", str(Path(target).parent))
    assert renamed > 3


# -- row 12


def fail_at(strace: str, tmp_path: Path, name: str, error: str, when: str) -> Told:
    """A run in which a call fails; what it acknowledged must be there all the same."""
    directory = tmp_path / f"{name}-{error}-{when}"
    result = traced(strace, directory, "-e", f"inject={name}:error={error}:when={when}")
    told = Told.of(result.stdout)
    # A start on a disk that fails may end with a clear error; nothing else may.
    assert told.done or "ConfigurationError: BUFFER_DIR=" in result.stderr, result.stderr
    check(directory, told, (name, error, when))
    return told


FAILING = "fdatasync pwrite64 fsync rename ftruncate fallocate unlink".split()
Failure = tuple[str, str, str]


def fail(strace: str, tmp_path: Path, failures: list[Failure]) -> None:
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda failure: fail_at(strace, tmp_path, *failure), failures))
    for (name, error, _), each in zip(failures, told, strict=True):
        if name == "pwrite64":
            assert set(each.refusals) <= {"buffer_full" if error == "ENOSPC" else "buffer_broken"}


def failures(trace: Path) -> list[Failure]:
    return [(name, error, str(number)) for name, number in points(trace, FAILING) for error in ("EIO", "ENOSPC")]


def test_a_failing_disk_loses_nothing_acknowledged(strace: str, undisturbed: Path, tmp_path: Path) -> None:
    fail(strace, tmp_path, random.Random(12).sample(failures(undisturbed), SAMPLED_FAILURES))


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_a_disk_that_fails_anywhere_loses_nothing_acknowledged(strace: str, undisturbed: Path, tmp_path: Path) -> None:
    fail(strace, tmp_path, failures(undisturbed))


def test_a_disk_that_does_not_sync_any_more_gets_nothing_acknowledged(
    strace: str, undisturbed: Path, tmp_path: Path
) -> None:
    half = calls(undisturbed)["fdatasync"] // 2
    told = fail_at(strace, tmp_path, "fdatasync", "EIO", f"{half}+")
    assert told.acknowledged
    assert told.refused
    assert max(told.acknowledged) < min(told.refused)
    assert set(told.refusals) == {"buffer_broken"}


def test_a_file_whose_sync_failed_is_never_written_to_again(strace: str, undisturbed: Path, tmp_path: Path) -> None:
    text = undisturbed.read_text()
    number = 2 + text[: text.index(".journal-wal>)")].count(" fdatasync(")
    fail_at(strace, tmp_path, "fdatasync", "EIO", str(number))
    trace = (tmp_path / f"fdatasync-EIO-{number}.trace").read_text()
    failed = re.search(r"fdatasync\(\d+<([^>]*\.journal-wal)>\) += -1 EIO[^\n]*\n(.*)", trace, re.DOTALL)
    assert failed
    log, rest = failed.groups()
    assert f"<{log}>, " not in "\n".join(line for line in rest.splitlines() if "pwrite64(" in line)


def test_a_block_that_the_disk_has_lost_costs_only_its_events(strace: str, tmp_path: Path) -> None:
    store = SpoolStore.open(tmp_path / "buffer", max_bytes=100 * MIB)
    for start in range(0, 400, 10):
        store.append(entries(range(start, start + 10), size=100))
    store.close()
    (journal,) = files_in(tmp_path / "buffer")
    # The first read of the file fails, and of those of single blocks the fifth.
    failing = ["-P", str(tmp_path / "buffer" / journal)]
    failing += ["-e", "inject=read:error=EIO:when=1+", "-e", "inject=pread64:error=EIO:when=5"]
    result = subprocess.run(
        [
            strace,
            "-f",
            "-o",
            os.devnull,
            "-e",
            "trace=read,pread64",
            *failing,
            *driver("hold", tmp_path / "buffer", 400),
        ],
        input="drain\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert "is damaged" in result.stderr, result.stderr
    drained = {
        int(number) for line in result.stdout.splitlines() if line.startswith("d ") for number in line.split()[1:]
    }
    assert drained <= set(range(404))
    assert 300 < len(drained) < 404
    assert [path.name for path in (tmp_path / "buffer" / "damaged").iterdir()] == [journal.replace("/", ".")]
