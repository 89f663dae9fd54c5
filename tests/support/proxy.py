"""A TCP proxy that tests break: it delays, holds back, cuts and drops what passes through it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")

CHUNK_BYTES = 64 << 10
CHUNKS_IN_TRANSIT = 64
"""Of one direction of one connection; beyond, the sender is held back as by a full network."""
COMMAND_SECONDS = 10.0


class _Direction:
    """One way through the proxy, of all its connections."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.bytes = 0


class Proxy:
    """Listens on 127.0.0.1 and passes everything on to ``target`` (host, port), which may change.

    Works in a thread of its own, so that blocking tests can use it; its methods return once they have taken effect. What is
    held back is not lost: it goes on when healed, as TCP sends again what was lost.
    """

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._to_target, self._to_client = _Direction(), _Direction()
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._server: asyncio.Server | None = None
        self.port = port
        self.accepted = 0
        """Connections so far."""
        self._do(self._listen())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes that were passed on so far: to the target, to the clients."""
        return self._to_target.bytes, self._to_client.bytes

    def retarget(self, host: str, port: int) -> None:
        """Sends new connections there; those that are open stay as they are."""
        self._target = (host, port)

    def delay(self, *, to_target: float = 0.0, to_client: float = 0.0) -> None:
        """Every byte from now on takes so many seconds longer; throughput stays."""
        self._to_target.delay, self._to_client.delay = to_target, to_client

    def cut(self, *, to_target: bool = False, to_client: bool = False) -> None:
        """Holds back what goes there, also on new connections; the other way goes on, or goes on again."""
        self._do(self._set(not to_target, not to_client))

    def freeze(self) -> None:
        """Nothing passes, either way; no connection is closed."""
        self.cut(to_target=True, to_client=True)

    def drop(self) -> None:
        """Closes every open connection; new ones are taken."""
        self._do(self._drop())

    def refuse(self) -> None:
        """Closes everything and refuses new connections, as a machine where nothing listens."""
        self._do(self._refuse())

    def heal(self) -> None:
        """Back to how it began; open connections go on."""
        self.delay()
        self._do(self._listen())
        self._do(self._set(True, True))

    def close(self) -> None:
        if self._thread.is_alive():
            self._do(self._refuse())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(COMMAND_SECONDS)
            self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(COMMAND_SECONDS)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _set(self, to_target: bool, to_client: bool) -> None:
        for direction, flows in ((self._to_target, to_target), (self._to_client, to_client)):
            if flows:
                direction.flowing.set()
            else:
                direction.flowing.clear()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._drop()

    async def _drop(self) -> None:
        links = dict(self._links)
        for task, writers in links.items():
            for writer in writers:
                writer.transport.abort()
            task.cancel()
        if links:
            await asyncio.wait(links)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        writers = self._links[task] = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, far_writer, self._to_target))
                pumps.create_task(_pump(far_reader, writer, self._to_client))
        except* OSError:
            pass  # one side is gone, so the other is closed too
        except* asyncio.CancelledError:
            pass  # dropped
        finally:
            for each in writers:
                each.transport.abort()
            del self._links[task]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: _Direction) -> None:
    """Passes on what is read until the sender closes; then closes this direction."""
    loop = asyncio.get_running_loop()
    in_transit: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_IN_TRANSIT)

    async def deliver() -> None:
        while True:
            due, data = await in_transit.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await direction.flowing.wait()
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            direction.bytes += len(data)
            await writer.drain()

    async with asyncio.TaskGroup() as both:
        both.create_task(deliver())
        while True:
            data = await reader.read(CHUNK_BYTES)
            await in_transit.put((loop.time() + direction.delay, data))
            if not data:
                break
