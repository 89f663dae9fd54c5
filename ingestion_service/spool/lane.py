"""What keeps its order on disk. Pure."""

from __future__ import annotations

from typing import NamedTuple

from event_core.codec import Record

LANES = 12
"""Lanes per topic, whatever its partitions: those may change, or not be known yet, while records lie on disk. With 1, 2, 3, 4, 6
or 12 partitions a lane belongs to one partition; else it is shared by some."""


class Lane(NamedTuple):
    """Records of ``topic`` whose key's hash is ``number`` modulo ``of``, which is LANES."""

    topic: str
    number: int
    of: int


class Entry(NamedTuple):
    """A record and the lane whose order it keeps."""

    lane: Lane
    record: Record
