"""What aiokafka 0.14 leaves to its user: a connection that fails as its callers expect, an end that leaves nothing behind,
partitions that nobody positions but us, and levels of compression for live events."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import aiokafka.conn
from aiokafka.codec import gzip_encode, lz4_encode, zstd_encode
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

END_SECONDS = 2.0

GZIP_LEVEL, LZ4_LEVEL, ZSTD_LEVEL = 6, 1, 1
"""aiokafka has no setting for them, and packs with 9, 9 and 3. Of 170 of our records lz4 makes 61 bytes each at level 1 and 57 at
level 9, for a tenth of the time (0.14 and 1.5 µs)."""


class Connection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka is untyped
    """Answers a write to a closed socket with the error that aiokafka handles. uvloop raises RuntimeError there, which ends
    whichever background task was writing, for good: https://github.com/aio-libs/aiokafka/issues/1038"""

    def send(self, request: Any, expect_response: bool = True) -> Any:
        writer = self._writer
        if writer is not None and writer.is_closing():
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self._host}:{self._port} is closed")
        return super().send(request, expect_response)


aiokafka.conn.AIOKafkaConnection = Connection  # create_conn looks it up there, each time
_records: Any = sys.modules[DefaultRecordBatchBuilder.__module__]  # the extension's module, or the one in Python
_records.gzip_encode = partial(gzip_encode, compresslevel=GZIP_LEVEL)
_records.lz4_encode = partial(lz4_encode, level=LZ4_LEVEL)
_records.zstd_encode = partial(zstd_encode, level=ZSTD_LEVEL)


async def end(client: Any, tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Closes ``client`` without waiting for a broker, ends its own task and ``tasks``, and takes note of their errors, which
    asyncio would report when they are collected. Its sockets are closed before the other tasks end."""
    client._get_conn = _no_connection  # a request that is tried again must not open another one
    synchronizer = client._sync_task
    client._sync_task = None  # else close() raises what it died of, and closes no socket
    try:
        await _cancel([synchronizer])
        await _close(client)
    finally:
        await _cancel(tasks)
        await _close(client)  # a connection that was being made meanwhile


async def _no_connection(*_: object, **__: object) -> None:
    """The answer that aiokafka takes for a node that is not ready."""


async def _close(client: Any) -> None:
    transports = [connection._writer.transport for connection in client._conns.values() if connection._writer]
    closing = asyncio.create_task(client.close())
    _, late = await asyncio.wait({closing}, timeout=END_SECONDS)
    if late:  # it waits for what it has not sent yet
        for transport in transports:
            transport.abort()
    await _cancel([closing])


def note_commits(coordinator: Any) -> None:
    """Takes note of what becomes of each commit of offsets. One that its caller no longer waits for goes on by itself, as
    aiokafka shields it, and asyncio would report its error, which is nobody's concern."""
    commit = coordinator._do_commit_offsets

    def noted(*arguments: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(commit(*arguments))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    coordinator._do_commit_offsets = noted


def hold_assigned(subscriptions: Any) -> None:
    """Holds each partition from the moment it is assigned, until it is sought and resumed. The fetcher would ask the group's
    coordinator for a committed offset first, read nothing of that broker until it answers, and raise where there is none."""
    assign = subscriptions.assign_from_subscribed

    def held(partitions: Iterable[Any]) -> None:
        assign(partitions)
        assignment = subscriptions.subscription.assignment
        for partition in assignment.tps:
            state = assignment.state_value(partition)
            state.seek(0)
            state.pause()

    @contextlib.contextmanager
    def polling() -> Iterator[None]:  # aiokafka's own counts a poll that raised as one that lasts for ever
        subscriptions._fetch_count += 1
        try:
            yield
        finally:
            subscriptions._fetch_count -= 1
            subscriptions._last_fetch_ended = time.monotonic()

    subscriptions.assign_from_subscribed = held
    subscriptions.fetch_context = polling


async def cluster_id(client: Any) -> str:
    """The cluster's id, asked of any broker that answers; aiokafka drops it from the metadata it keeps.

    Raises:
        KafkaError: none does.
    """
    problem: Exception = KafkaConnectionError("no broker is known")
    brokers = [broker.nodeId for broker in client.cluster.brokers()]
    random.shuffle(brokers)
    for broker in brokers:
        try:
            return str((await client.send(broker, MetadataRequest([]))).cluster_id)
        except (KafkaError, OSError) as error:
            problem = error
    raise problem


def ended(*tasks: asyncio.Task[Any] | None) -> bool:
    """Whether one of a client's background tasks has died: aiokafka tells it in no other way."""
    return any(task is not None and task.done() for task in tasks)


async def _cancel(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    known = {task for task in tasks if task is not None}
    pending = {task for task in known if not task.done()}
    # The producer's sender, cancelled, waits for tasks of its own, which wait for what never comes; cancelled again, it ends
    # one of them.
    until = asyncio.get_running_loop().time() + END_SECONDS
    while pending and asyncio.get_running_loop().time() < until:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=END_SECONDS / 10)
    for task in known - pending:
        if not task.cancelled():
            task.exception()
