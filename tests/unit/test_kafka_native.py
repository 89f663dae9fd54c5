"""A broker that hangs up, seen through the client library on uvloop, which every service runs on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import aiokafka.conn
import pytest
import uvloop
from aiokafka import TopicPartition, codec
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import KafkaConnectionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.admin import ApiVersionRequest

from event_core.kafka import native
from event_core.kafka.native import Connection, end, ended, hold_assigned, note_commits

BATCH_HEADER_BYTES = 61


def on_uvloop(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def test_a_write_to_a_closed_connection_is_an_error_that_the_client_handles() -> None:
    async def work() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        connection = Connection(host, port)
        connection._reader, connection._writer = reader, writer
        connection._read_task = asyncio.get_running_loop().create_task(asyncio.sleep(0))
        connection._closed_fut = asyncio.get_running_loop().create_future()
        writer.close()
        await writer.wait_closed()
        with pytest.raises(RuntimeError):  # what the next line is there for
            writer.write(b"x")
        with pytest.raises(KafkaConnectionError):
            connection.send(ApiVersionRequest())
        assert not connection.connected()
        server.close()

    on_uvloop(work())


def test_the_clients_connections_are_these() -> None:
    assert aiokafka.conn.AIOKafkaConnection is Connection


@pytest.mark.parametrize(
    ("flag", "packed", "unpack"),
    [
        (1, lambda data: codec.gzip_encode(data, compresslevel=native.GZIP_LEVEL), codec.gzip_decode),
        (3, lambda data: codec.lz4_encode(data, level=native.LZ4_LEVEL), codec.lz4_decode),
        (4, lambda data: codec.zstd_encode(data, level=native.ZSTD_LEVEL), codec.zstd_decode),
    ],
    ids=["gzip", "lz4", "zstd"],
)
def test_batches_are_packed_at_the_levels_chosen_here(
    flag: int, packed: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes]
) -> None:
    batch = BatchBuilder(512 * 1024, flag)
    for number in range(200):
        batch.append(key=b"user", value=b'{"n":%d,"text":"%d"}' % (number, number**9), headers=[], timestamp=None)
    batch._build()
    records = bytes(batch._buffer)[BATCH_HEADER_BYTES:]
    time = slice(10 if flag == 1 else 0, None)  # gzip begins with the time of day
    assert records[time] == packed(unpack(records))[time]


def test_a_commit_that_nobody_waits_for_any_more_fails_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    class Coordinator:
        async def _do_commit_offsets(self, *_: object) -> None:
            await asyncio.sleep(0.05)
            raise KafkaConnectionError("the coordinator is away")

    async def work() -> None:
        coordinator = Coordinator()
        note_commits(coordinator)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.shield(coordinator._do_commit_offsets("assignment", {}))
        await asyncio.sleep(0.1)
        with pytest.raises(KafkaConnectionError):
            await coordinator._do_commit_offsets("assignment", {})
        gc.collect()

    with caplog.at_level(logging.WARNING):
        on_uvloop(work())
    assert not caplog.records


def test_an_assigned_partition_stands_still_at_a_position_of_its_own() -> None:
    async def work() -> None:
        subscriptions = SubscriptionState()
        hold_assigned(subscriptions)
        subscriptions.subscribe({"events"})
        partition = TopicPartition("events", 0)
        subscriptions.assign_from_subscribed([partition])
        state = subscriptions.subscription.assignment.state_value(partition)
        assert (state.paused, state.has_valid_position) == (True, True)

    on_uvloop(work())


def test_a_poll_that_raised_has_ended() -> None:
    """Else a consumer that is stuck later on would never be told from one that polls, and would keep its partitions."""

    async def work() -> None:
        subscriptions = SubscriptionState()
        hold_assigned(subscriptions)
        with contextlib.suppress(KafkaConnectionError), subscriptions.fetch_context():
            raise KafkaConnectionError
        await asyncio.sleep(0.01)
        assert subscriptions.fetcher_idle_time > 0

    on_uvloop(work())


def test_a_client_whose_own_task_had_died_is_closed_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise RuntimeError("the handler is closed")

    async def work() -> None:
        loop = asyncio.get_running_loop()
        client = AIOKafkaClient(bootstrap_servers="127.0.0.1:9")
        client._sync_task = loop.create_task(fails())
        failed, waiting = loop.create_task(fails()), loop.create_task(asyncio.sleep(60))
        await asyncio.sleep(0.01)
        assert ended(None, client._sync_task)
        assert not ended(None, waiting)
        await end(client, [None, failed, waiting])
        assert waiting.cancelled()
        del failed, client
        gc.collect()

    async def stubborn() -> None:
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    async def more_work() -> None:
        client = AIOKafkaClient(bootstrap_servers="127.0.0.1:9")
        task = asyncio.get_running_loop().create_task(stubborn())
        await asyncio.sleep(0.01)
        await end(client, [task])
        assert task.done()

    with caplog.at_level(logging.WARNING):
        on_uvloop(work())
        on_uvloop(more_work())
    assert not caplog.records
