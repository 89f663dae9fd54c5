"""Answers kept in memory under what they depend on, so that none is ever out of date. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple


class Kept(NamedTuple):
    """An answer without what time alone changes."""

    body: bytes
    """The reply's JSON object without its closing brace and without ``freshness`` and ``incomplete_buckets``."""
    cut: Sequence[datetime]
    """Beginnings of the buckets that the range cuts."""
    ends: Sequence[tuple[datetime, datetime]]
    """(end, beginning) of the others, by end."""
    digest: str
    """Of all of it."""

    @property
    def size(self) -> int:
        """Roughly, in bytes."""
        return len(self.body) + 200 * (len(self.cut) + len(self.ends)) + 500


class Cache:
    """The answers used last, up to ``most`` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """In bytes."""
        return self._size

    def get(self, key: str) -> Kept | None:
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def put(self, key: str, kept: Kept) -> None:
        """What is larger than a quarter of all is not kept: it would drive out everything else."""
        if kept.size > self._most // 4 or key in self._kept:
            return
        self._kept[key] = kept
        self._size += kept.size
        while self._size > self._most:
            self._size -= self._kept.popitem(last=False)[1].size
