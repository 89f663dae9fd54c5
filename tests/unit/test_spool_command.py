"""``python -m ingestion_service.spool``: what an operator sees of the buffer, while the service runs and after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from event_core.codec import Record
from ingestion_service.settings import IngestionSettings
from ingestion_service.spool.__main__ import main
from ingestion_service.spool.lane import Entry, Lane
from ingestion_service.spool.quarantine import Quarantine
from ingestion_service.spool.store import SpoolStore
from ingestion_service.spool.text import from_json
from ingestion_service.spool.tuning import Tuning
from tests.support.spool import LANES, MIB, chunks, compact_all, entries, fill_every_kind, number_of, record

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
Output = pytest.CaptureFixture[str]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[SpoolStore]:
    """A store at work: a segment, a sealed journal, one that is written to; an event in quarantine."""
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB, tuning=Tuning(enough_records=30))
    fill_every_kind(store, 60, 10, segment_at=30, journal_at=40)
    kept = Quarantine(tmp_path, MIB)
    kept.keep("events", record(99), "refused_by_broker", "too large", 3, AT)
    kept.close()
    yield store
    store.close()


def run(directory: Path, *arguments: str) -> int:
    return main([arguments[0], "--directory", str(directory), *arguments[1:]])


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_list_names_slots_files_and_what_waits(live: SpoolStore, tmp_path: Path, capsys: Output) -> None:
    assert run(tmp_path, "list") == 0
    told = capsys.readouterr().out
    assert f"slot-0: process {os.getpid()}; 60 events in 3 files" in told
    for name in ("slot-0/000001-000001.segment", "slot-0/000002.journal", "slot-0/000003.journal"):
        assert name in told
    for lane, count in live.waiting().items():
        assert f"events lane {lane.number} of 3: {count} events" in told
    assert "quarantine/001.jsonl: 1 events" in told


def test_list_tells_orphans_from_free_slots(tmp_path: Path, capsys: Output) -> None:
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    store.append(entries(range(3)))
    store.close()
    run(tmp_path, "list")
    assert "slot-0: orphaned; 3 events in 1 files" in capsys.readouterr().out
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    for chunk in chunks(store):
        store.forget(chunk)
    store.close()
    run(tmp_path, "list")
    assert "slot-0: free; 0 events in 0 files" in capsys.readouterr().out


def test_list_tells_when_the_events_were_received(tmp_path: Path, capsys: Output) -> None:
    store = SpoolStore.open(tmp_path, max_bytes=100 * MIB)
    for second in range(10, 20):
        value = b'{"received_at":"2026-03-01T12:00:%dZ"}' % second
        store.append([Entry(LANES[0], Record(b"k", value, []))])
    run(tmp_path, "list")
    assert "received: 2026-03-01T12:00:10Z to 2026-03-01T12:00:19Z" in capsys.readouterr().out
    store.close()


def exported(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.usefixtures("live")
def test_export_writes_every_waiting_event_and_the_quarantine(tmp_path: Path, capsys: Output) -> None:
    before = snapshot(tmp_path)
    assert run(tmp_path, "export") == 0
    assert snapshot(tmp_path) == before
    told = capsys.readouterr()
    lines = exported(told.out)
    waiting = [from_json(line) for line in lines if "quarantined" not in line]
    assert sorted(waiting, key=number_of) == [record(number) for number in range(60)]
    assert [from_json(line) for line in lines if "quarantined" in line] == [record(99)]
    assert "61 events exported" in told.err
    target = tmp_path / "out.jsonl"
    assert run(tmp_path, "export", "--output", str(target)) == 0
    assert exported(target.read_text()) == lines


def test_export_leaves_out_what_is_in_kafka_already(live: SpoolStore, tmp_path: Path, capsys: Output) -> None:
    chunk = live.read(LANES[0], max_bytes=1)
    assert chunk is not None
    live.forget(chunk)
    run(tmp_path, "export")
    numbers = {number_of(from_json(line)) for line in exported(capsys.readouterr().out)}
    assert numbers == {*range(60), 99} - {number_of(chunk.records[0])}


def test_the_writer_is_not_disturbed(live: SpoolStore, tmp_path: Path, capsys: Output) -> None:
    for start in range(100, 300, 10):
        live.append(entries(range(start, start + 10)))
        run(tmp_path, "export")
        lines = exported(capsys.readouterr().out)
        assert len(lines) == live.records + 1


def test_export_follows_files_that_are_compacted_meanwhile(live: SpoolStore, tmp_path: Path, capsys: Output) -> None:
    """Between two lines of the export the buffer changes under it."""

    class Compacting(list[str]):
        def write(self, text: str) -> int:
            self.append(text)
            if len(self) == 45:
                for start in range(100, 200, 10):
                    live.append(entries(range(start, start + 10)))
                    live.seal()
                compact_all(live)
            return len(text)

        def flush(self) -> None:
            pass

    output = Compacting()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        assert run(tmp_path, "export") == 0
    numbers = [number_of(from_json(line)) for line in exported("".join(output))]
    assert sorted(numbers) == [*range(60), 99, *range(100, 200)]
    assert "warning" not in capsys.readouterr().err


def test_show_is_for_people(live: SpoolStore, tmp_path: Path, capsys: Output) -> None:
    live.append([Entry(Lane("odd", 1, 2), Record(b"\xff", b"no \xfe json", [("event-id", b"5")]))])
    assert run(tmp_path, "show", "all", "--limit", "100") == 0
    told = capsys.readouterr().out
    assert told.count("  value    ") == 62
    assert "event-id: '59'" in told
    assert "odd lane 1 of 2, number 0" in told
    assert "refused_by_broker after 3 retries" in told
    assert run(tmp_path, "show", "slot-0/000002.journal", "--limit", "3") == 0
    told = capsys.readouterr().out
    assert told.count("  value    ") == 3
    assert "(the first 3; --limit shows more)" in told
    for name in ("000002.journal", str(tmp_path / "slot-0" / "000002.journal"), "001.jsonl"):
        assert run(tmp_path, "show", name) == 0
        assert "  value    " in capsys.readouterr().out


def test_damage_is_told_and_a_file_kept_aside_can_be_shown(live: SpoolStore, tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "slot-0" / "000002.journal"
    data = bytearray(path.read_bytes())
    data[data.index(b"\x28\xb5\x2f\xfd") + 20] ^= 1  # within what zstd wrote
    path.write_bytes(data)
    assert run(tmp_path, "list") == 3
    told = capsys.readouterr()
    assert f"warning: {path}: damaged, 10 records are missing" in told.err
    assert "50 events wait" in told.out
    for chunk in chunks(live):
        live.forget(chunk)
    assert run(tmp_path, "export") == 3
    assert "damaged/slot-0.000002.journal is damaged and kept aside" in capsys.readouterr().err
    assert run(tmp_path, "list") == 0
    assert "damaged/slot-0.000002.journal: damaged, kept aside" in capsys.readouterr().out
    assert run(tmp_path, "show", "damaged/slot-0.000002.journal") == 3


@pytest.mark.usefixtures("live")
def test_mistakes_are_named(tmp_path: Path, capsys: Output) -> None:
    assert run(tmp_path / "nowhere", "list") == 1
    assert "is no folder" in capsys.readouterr().err
    assert run(tmp_path, "show", "000009.journal") == 1
    assert "there is no such file" in capsys.readouterr().err
    for wrong in (["show", "all", "--limit", "0"], ["show"], ["drop"], []):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
    capsys.readouterr()


def test_the_folder_is_that_of_the_service(
    live: SpoolStore, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUFFER_DIR", str(tmp_path))
    assert main(["list"]) == 0
    assert f"{live.records} events wait" in capsys.readouterr().out


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ingestion_service.spool", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("live")
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    process = command("export", "--directory", str(tmp_path))
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read().splitlines()[-1:] in (["61 events exported"], [])
    assert process.wait() == 0
    process.stderr.close()


def test_help_explains_the_commands() -> None:
    told, _ = command("--help").communicate()
    for word in ("list", "show", "export", "exit codes", "examples"):
        assert word in told


def test_the_folder_is_the_one_that_the_service_would_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / ".env").write_text("BUFFER_DIR=there\n")
    monkeypatch.setitem(IngestionSettings.model_config, "env_file", ".env")  # which the other tests do without
    monkeypatch.delenv("BUFFER_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == 0
    assert "0 events wait" in capsys.readouterr().out
    monkeypatch.setenv("BUFFER_DIR", "elsewhere")
    assert main(["list"]) == 1
    assert "elsewhere is no folder" in capsys.readouterr().err
    monkeypatch.setenv("BUFFER_DIR", "")
    assert main(["list"]) == 1
    assert "turns the buffer off" in capsys.readouterr().err
