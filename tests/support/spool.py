"""Events and walks for the tests of the disk spool."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from zlib import crc32

from event_core.codec import Record
from ingestion_service.spool.lane import Entry, Lane
from ingestion_service.spool.store import Chunk, SpoolStore

ROOT = Path(__file__).parents[2]
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
MIB = 1 << 20
LANES = [Lane("events", number, 3) for number in range(3)]


def record(number: int, *, size: int = 0) -> Record:
    """An event whose number can be told from it; ``size`` bytes of it do not compress."""
    value = b'{"event_id":"%032x","n":%d,"x":"%s"}' % (
        number * 0x9E3779B97F4A7C15,
        number,
        os.urandom(size // 2).hex().encode(),
    )
    return Record(
        b"learner_%03d" % (number % 50), value, [("event-id", b"%d" % number), ("content-type", b"application/json")]
    )


def entry(number: int, *, size: int = 0) -> Entry:
    made = record(number, size=size)
    return Entry(LANES[crc32(made.key) % len(LANES)], made)


def entries(numbers: Iterable[int], *, size: int = 0) -> list[Entry]:
    return [entry(number, size=size) for number in numbers]


def fill_every_kind(store: SpoolStore, count: int, step: int, *, segment_at: int, journal_at: int) -> None:
    """Appends events 0 to ``count`` by ``step``; those up to the commit at ``segment_at`` become a segment, those up to the one
    at ``journal_at`` a sealed journal, the rest stays in the one that is written to."""
    for start in range(0, count, step):
        store.append(entries(range(start, start + step)))
        if start in (segment_at, journal_at):
            store.seal()
        if start == segment_at:
            compact_all(store)


def number_of(given: Record) -> int:
    return int(given.headers[0][1])


def chunks(store: SpoolStore) -> Iterator[Chunk]:
    """All that can be read, lane by lane; each chunk is not forgotten yet."""
    for lane in list(store.waiting()):
        while (chunk := store.read(lane)) is not None:
            yield chunk


def drain(store: SpoolStore) -> list[Record]:
    """All that can be read, which is forgotten then."""
    drained = []
    for chunk in chunks(store):
        store.forget(chunk)
        drained.append(chunk.records)
    return list(chain.from_iterable(drained))


def compact_all(store: SpoolStore) -> None:
    while store.compact():
        pass


def files_in(directory: Path) -> list[str]:
    """Spool files, without what a slot always has."""
    own = {"lock", "cursor", "ballast"}
    return sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file() and path.name not in own
    )


def copy_as_killed(source: Path, target: Path) -> Path:
    """What a process leaves that is killed now, while it has ``source`` open: its files, and no lock."""
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns("ballast")))


def driver(*arguments: object) -> list[str]:
    """The command of tests/support/spool_driver.py."""
    return [sys.executable, "-m", "tests.support.spool_driver", *map(str, arguments)]


def recovered(directory: Path) -> SpoolStore:
    """The spool that a process left, up again in time."""
    begun = time.monotonic()
    store = SpoolStore.open(directory, max_bytes=100 * MIB)
    assert time.monotonic() - begun < 5
    return store
