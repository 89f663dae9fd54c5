"""A spool at work, for tests that kill it: ``python -m tests.support.spool_driver work|hold DIRECTORY NUMBER``.

``work`` does NUMBER rounds. ``hold`` appends four events from NUMBER on, tells its slot, and does what it reads (``adopt``,
``drain``) until its input ends. Both tell on standard output, one unbuffered line each: ``a`` and the numbers that were
acknowledged; ``f`` and those about to be forgotten; ``x``, a refusal's code and what it refused; ``d`` and what was drained.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import structlog

from event_core.errors import Unavailable
from ingestion_service.spool.store import SpoolStore
from ingestion_service.spool.tuning import Tuning
from tests.support.spool import LANES, MIB, drain, entries, number_of

ENTRIES = 4


SMALL = Tuning(
    seal_records=3 * ENTRIES, enough_records=6 * ENTRIES, blob_records=5, fan_in=3, worth_bytes=0, step_seconds=0
)
"""Seals, segments and merges happen after a few events."""


def say(word: str, *numbers: object) -> None:
    os.write(1, (" ".join(map(str, (word, *numbers))) + "\n").encode())


def work(directory: Path, rounds: int) -> None:
    """Appends, seals, compacts, reads and forgets, with a lane that lags, and opens its slot again half-way."""
    spool = SpoolStore.open(directory, max_bytes=100 * MIB, tuning=SMALL)
    for turn in range(rounds):
        if turn == rounds // 2:
            spool.close()
            spool = SpoolStore.open(directory, max_bytes=100 * MIB, tuning=SMALL)
        numbers = range(turn * ENTRIES, (turn + 1) * ENTRIES)
        try:
            spool.append(entries(numbers))
        except Unavailable as error:
            say("x", error.code, *numbers)
        else:
            say("a", *numbers)
        if turn % 4 == 3:
            spool.seal()
        for _ in range(20):
            spool.compact()
        if turn % 3 == 2:
            for lane in LANES[: 1 + turn % len(LANES)]:
                chunk = spool.read(lane, max_bytes=600)
                if chunk is not None:
                    say("f", *map(number_of, chunk.records))
                    spool.forget(chunk)
    spool.close()
    say("done")


def hold(directory: Path, number: int) -> None:
    """Keeps a slot, and obeys."""
    spool = SpoolStore.open(directory, max_bytes=100 * MIB, tuning=SMALL)
    numbers = range(number, number + ENTRIES)
    spool.append(entries(numbers))
    say("a", *numbers)
    say("slot", spool.slot)
    for line in sys.stdin:
        match line.strip():
            case "adopt":
                say("adopted", spool.adopt_orphans())
            case "drain":
                spool.seal()
                say("d", *map(number_of, drain(spool)))
    spool.close()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    {"work": work, "hold": hold}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
