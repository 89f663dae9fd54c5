"""Events that nobody takes are kept as lines that people can read."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from event_core.codec import Record
from ingestion_service.errors import BufferBroken, BufferFull
from ingestion_service.spool import quarantine
from ingestion_service.spool.quarantine import Quarantine
from ingestion_service.spool.text import from_json
from tests.support.spool import MIB, record

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def keep(kept: Quarantine, given: Record) -> None:
    kept.keep("events", given, "refused_by_broker", "MessageSizeTooLarge", 3, AT)


def lines(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for path in quarantine.files(directory) for line in path.read_text().splitlines()]


def test_an_event_is_kept_with_its_reason(tmp_path: Path) -> None:
    kept = Quarantine(tmp_path, MIB)
    odd = Record(b"\xff", b'{"a":"\\u0000"}', [("event-id", b"7"), ("x", b"\x80")])
    for given in (record(1), odd):
        keep(kept, given)
    assert kept.count == 2
    first, second = lines(tmp_path)
    assert first["value"] == record(1).value.decode()
    assert first["at"] == "2026-03-01T12:00:00Z"
    assert (first["topic"], first["reason"], first["retry_count"]) == ("events", "refused_by_broker", 3)
    assert from_json(second) == odd
    kept.close()


def test_each_process_has_files_of_its_own_and_all_are_counted(tmp_path: Path) -> None:
    first = Quarantine(tmp_path, MIB)
    keep(first, record(1))
    second = Quarantine(tmp_path, MIB)
    assert second.count == 1
    keep(second, record(2))
    keep(first, record(3))
    assert [path.name for path in quarantine.files(tmp_path)] == ["001.jsonl", "002.jsonl"]
    assert Quarantine(tmp_path, MIB).count == 3
    first.close()
    second.close()


def test_a_line_that_was_cut_off_is_not_counted(tmp_path: Path) -> None:
    kept = Quarantine(tmp_path, MIB)
    keep(kept, record(1))
    kept.close()
    (path,) = quarantine.files(tmp_path)
    with path.open("a") as file:
        file.write('{"at": "2026')
    assert Quarantine(tmp_path, MIB).count == 1


def test_a_full_quarantine_refuses(tmp_path: Path) -> None:
    kept = Quarantine(tmp_path, 5000)
    keep(kept, record(1))
    with pytest.raises(BufferFull, match="quarantine is full"):
        keep(kept, record(2)._replace(value=bytes(5000)))
    keep(kept, record(3))
    assert kept.count == len(lines(tmp_path)) == 2
    kept.close()


def test_a_long_file_is_followed_by_another(tmp_path: Path) -> None:
    kept = Quarantine(tmp_path, 100 * MIB)
    for _ in range(3):
        keep(kept, record(1)._replace(value=b"x" * (3 * MIB)))
    assert len(quarantine.files(tmp_path)) == 2
    kept.close()


def test_a_disk_that_fails_keeps_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Quarantine(tmp_path, MIB)
    keep(kept, record(1))

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(BufferBroken):
            keep(kept, record(2))
    keep(kept, record(3))
    assert [line["key"] for line in lines(tmp_path)] == [record(n).key.decode() for n in (1, 3)]
    assert kept.count == 2
    kept.close()
