"""What lies in a slot's folder at a start, after whatever ended the process before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ingestion_service.spool import disk, files
from ingestion_service.spool.damage import Damage
from ingestion_service.spool.files import SpoolFile
from ingestion_service.spool.journal import LOG_SUFFIX
from ingestion_service.spool.lane import Lane
from ingestion_service.spool.runs import Runs


def recover(directory: Path, forgotten: Mapping[Lane, int] | None, damage: Damage) -> list[SpoolFile]:
    """The files to read, oldest first, each position in one of them; counts what is damaged or missing.

    ``forgotten`` is the cursor, None where it is not known. Nothing is written but names: leftovers of an unfinished
    segment and what a finished one replaced are removed.
    """
    known_start, forgotten = forgotten is not None, forgotten or {}
    kept: list[SpoolFile] = []
    ends: dict[Lane, int] = {}
    replaced: set[str] = set()
    for file in _found(directory):
        segment = next((each for each in kept if each.is_segment and each.last >= file.last), None)
        if segment is not None and not segment.damaged:
            damage.dispose(file, aside=file.path.name in replaced)
            continue
        # A kill leaves rows that were never synced; they count from now on, so a power cut must not take them.
        disk.sync(file.log)
        content = file.content()
        file.lanes = content.runs()
        file.measure()
        said = content.sealed_runs()
        missing = content.missing(forgotten)
        if missing or not content.sound or (said is None and file.is_segment):
            damage.found(file, missing)
        seal = files.decode_seal(content.seal)
        file.level = seal.level
        replaced |= set(seal.damaged)
        if segment is not None:  # a damaged one: what it has lost may still be where it came from
            for lane, runs in segment.lanes.items():
                if lane in file.lanes:
                    file.lanes[lane] = file.lanes[lane].without(runs)
        for lane in said or file.lanes:
            if known_start:
                ends.setdefault(lane, forgotten.get(lane, 0))
        hole = _hole(said or file.lanes, forgotten, ends)
        if hole:
            damage.hole(file, hole)
        kept.append(file)
    return kept


def _found(directory: Path) -> list[SpoolFile]:
    """The slot's files, oldest first; a segment before what it replaced."""
    found = []
    for path in directory.iterdir():
        if path.suffix == ".tmp":
            disk.remove(path)
        owner = path.with_name(path.name.removesuffix(LOG_SUFFIX))
        if owner != path and owner.exists():
            continue
        if (file := files.named(owner)) is not None:
            found.append(file)
    return sorted(found, key=files.order)


def _hole(lanes: Mapping[Lane, Runs], forgotten: Mapping[Lane, int], ends: dict[Lane, int]) -> int:
    """How many wanted positions lie between the files so far and this one, or between its runs; moves ``ends`` on."""
    hole = 0
    for lane, runs in lanes.items():
        for run in runs:
            known = max(ends.get(lane, run.start), forgotten.get(lane, 0))
            hole += max(0, run.start - run.skipped - known)
            ends[lane] = max(ends.get(lane, 0), run.end)
    return hole
