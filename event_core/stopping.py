"""Waits that a stop ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def sleep(seconds: float, stop: asyncio.Event) -> None:
    """Sleeps, but not beyond ``stop``."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


async def until_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event, *, give_up: float) -> asyncio.Task[T] | None:
    """The task of ``work`` once it has ended. None where ``stop`` came first: then it is cancelled and, as a frozen server does
    not answer even that, left behind after ``give_up`` seconds."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working if working.done() else None
    finally:
        stopping.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working}, timeout=give_up)
