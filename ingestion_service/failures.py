"""How often the very same event was refused lately. Pure."""

from __future__ import annotations

MOST = 20_000


class Failures:
    """Refusals by the bytes that were sent. Two generations bound it."""

    def __init__(self, most: int = MOST) -> None:
        self._half = max(1, most // 2)
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def note(self, raw: bytes) -> int:
        """Counts one more refusal; returns how many there were before."""
        key = hash(raw)
        before = self._young.get(key) or self._old.get(key, 0)
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[key] = before + 1
        return before

    def take_back(self, raw: bytes) -> None:
        """Counts one refusal less: nothing was kept of it."""
        key = hash(raw)
        if self._young.get(key):
            self._young[key] -= 1
