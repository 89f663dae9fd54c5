"""What becomes of the records of one batch: many requests wait for one acknowledgement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

from event_core.errors import PlatformError


class Stored(StrEnum):
    """Where the durable copy lies."""

    KAFKA = "kafka"
    DISK = "disk"


class Delivery:
    """The fate of a batch. Each request waits on a future of its own: one that is cancelled takes no other along, and a
    future costs a tenth of ``asyncio.shield``."""

    __slots__ = ("_waiters", "acknowledged", "outcome", "partition")

    def __init__(self) -> None:
        self.outcome: Stored | PlatformError | None = None
        self.partition: int | None = None
        """The partition of the topic where all of them are in Kafka; None where there are several, or none yet."""
        self.acknowledged = 0
        """How many of them Kafka has acknowledged, while the others may still fail."""
        self._waiters: list[asyncio.Future[None]] = []

    def settle(self, outcome: Stored | PlatformError) -> None:
        """Ends everybody's wait. Only the first call counts."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters = []

    async def wait(self) -> Stored:
        """Where the records are, once they are durable. Raises the PlatformError that kept them from it."""
        if self.outcome is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if isinstance(self.outcome, Stored):
            return self.outcome
        assert self.outcome is not None
        raise self.outcome.with_traceback(None)  # the same error is raised to many: its traceback must not grow

    def then(self, call: Callable[[Stored | PlatformError], None]) -> None:
        """Calls ``call`` with the outcome once there is one: for those who no longer wait."""
        if self.outcome is not None:
            call(self.outcome)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter.add_done_callback(lambda _: self.then(call))
        self._waiters.append(waiter)

    @classmethod
    def settled(cls, outcome: Stored | PlatformError) -> Delivery:
        """One whose fate is known already."""
        made = cls()
        made.outcome = outcome
        return made
