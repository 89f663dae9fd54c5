"""What became of a batch's events. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from event_core.errors import PlatformError


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one event of a batch that was not plainly accepted: a duplicate where ``error`` is None."""

    index: int
    event_id: str | None
    error: PlatformError | None = None


class Kept(NamedTuple):
    """What became of refused events."""

    dead_letters: list[str]
    """Of each that is a dead letter now: its event_id as sent, else the dead letter's id."""
    quarantined: int = 0
    """Refused too often: kept once more, in quarantine."""
    known: int = 0
    """Refused even more often: they are in quarantine, or at least among the dead letters, already."""
    lost: int = 0
    """Could not be kept."""


class Fates(NamedTuple):
    """What became of a batch."""

    total: int
    accepted: int
    """Durable now, duplicates included."""
    odd: list[Fate]
    """Those not plainly accepted, by index."""
    plain: dict[int, str]
    """Index and id of the plainly accepted; filled where it was asked for."""
    partition: int | None
    """Of Kafka, where all of it went to one."""
    spooled: bool
    """Whether some are on disk and not in Kafka yet."""
    kept: Kept
