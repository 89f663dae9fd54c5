"""When so much is bad that the fault must be ours: a wrong release, a wrong topic. Pure."""

from __future__ import annotations

from collections import deque

WINDOW = 1_000
"""Messages that are looked back on."""


class Breaker:
    """Trips where ``share`` of the last ``WINDOW`` messages, or as many of fewer, were bad; 1 or more never trips."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._recent: deque[tuple[int, int]] = deque()
        self._messages = 0
        self._bad = 0

    @property
    def bad(self) -> int:
        """Of the messages that are looked back on."""
        return self._bad

    def discard(self, messages: int) -> None:
        """Forgets the latest ``messages``, about: they were not written, and are read again."""
        while messages > 0 and self._recent:
            dropped, bad = self._recent.pop()
            messages -= dropped
            self._messages -= dropped
            self._bad -= bad

    def trips(self, messages: int, bad: int) -> bool:
        """Notes ``bad`` of ``messages`` new ones; whether they must not be written."""
        if self._share >= 1:
            return False
        self._recent.append((messages, bad))
        self._messages += messages
        self._bad += bad
        while self._messages - self._recent[0][0] >= WINDOW:
            oldest, oldest_bad = self._recent.popleft()
            self._messages -= oldest
            self._bad -= oldest_bad
        return self._bad >= self._share * max(WINDOW, self._messages)
