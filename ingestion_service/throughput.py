"""Events per second and processing times over a short while, for the JSON metrics. Pure: time is passed in."""

from __future__ import annotations

import math
from collections import deque

WINDOW_SECONDS = 60
SAMPLES = 10_000


class Throughput:
    """Events per second over the last ``WINDOW_SECONDS`` whole seconds; times of the last ``SAMPLES`` requests."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque()  # (second, events in it), the oldest first
        self._second = -1
        self._events = 0
        self._began: float | None = None
        self._times: deque[float] = deque(maxlen=SAMPLES)

    def add(self, now: float, events: int, elapsed: float) -> None:
        """A request of ``events`` took ``elapsed`` seconds; ``now`` in seconds of a monotonic clock."""
        second = int(now)
        if second != self._second:
            self._roll(second, now)
        self._events += events
        self._times.append(elapsed)

    def _roll(self, second: int, now: float) -> None:
        if self._began is None:
            self._began = now
        if self._events:
            self._seconds.append((self._second, self._events))
        self._second, self._events = second, 0
        while self._seconds and self._seconds[0][0] < second - WINDOW_SECONDS:
            self._seconds.popleft()

    def events_per_second(self, now: float) -> float:
        """Over the window, or over the time since the first request where that is shorter (at least a second)."""
        if self._began is None:
            return 0.0
        self._roll(int(now), now)
        span = min(WINDOW_SECONDS, max(1.0, now - self._began))
        return sum(events for _, events in self._seconds) / span

    def mean_ms(self) -> float:
        """0 where there was no request."""
        return 1000 * sum(self._times) / len(self._times) if self._times else 0.0

    def percentile_ms(self, share: float) -> float:
        """The nearest-rank percentile, e.g. of ``share`` 0.99; 0 where there was no request."""
        if not self._times:
            return 0.0
        ordered = sorted(self._times)
        return 1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)]
