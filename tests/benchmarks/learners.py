"""The learner events of the collector's requirements: their own example, with ids and names that differ."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta

_EVENT = (
    '{"event_id":"%s","learner_id":"learner_%03d","tenant_id":"tenant_alpha","event_type":"interaction","timestamp":"%s",'
    '"source_service":"learning-app","event_data":{"action":"click","element":"next_button"},"metadata":{}}'
)


class Learners:
    """An endless stream of events with random ids (UUIDv4) of ``learner_000`` to ``learner_999``.

    ``rate`` events have the same time, which is in whole seconds as the example's is; the first second is ``began``.
    """

    def __init__(self, began: datetime, *, rate: int, seed: int | None = None) -> None:
        self._rng = random.Random(seed)
        self._began = began
        self._rate = rate
        self._number = 0
        self._second = -1
        self._timestamp = ""

    def event(self) -> str:
        second = self._number // self._rate
        if second != self._second:
            self._second = second
            self._timestamp = (self._began + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._number += 1
        bits = self._rng.getrandbits
        text = f"{bits(128):032x}"
        event_id = f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[bits(2)]}{text[17:20]}-{text[20:]}"
        return _EVENT % (event_id, int(self._rng.random() * 1000), self._timestamp)

    def body(self, events: int) -> bytes:
        """The bare array of POST /api/v1/collect."""
        return b"[%b]" % ",".join([self.event() for _ in range(events)]).encode()

    def bodies(self, events: int, count: int) -> Iterator[bytes]:
        """``count`` of them."""
        return (self.body(events) for _ in range(count))
