"""An event loop whose clock jumps: tests of waits and back-offs take no time and come out alike each time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TICK_SECONDS = 0.005
"""How far the clock moves each time around a loop that has work to do: a busy loop must see time pass too."""


class _Selector(selectors.DefaultSelector):
    """Waits for nothing: where the loop would sleep, the clock jumps."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits and nothing can end it: a deadlock")
        self.now += max(timeout, TICK_SECONDS)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run(test: Coroutine[Any, Any, T]) -> T:
    """The result of ``test``, run in virtual time."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(test)


def now() -> float:
    """The virtual seconds of the running loop."""
    return asyncio.get_running_loop().time()
