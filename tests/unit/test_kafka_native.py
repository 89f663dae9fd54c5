"""A broker that hangs up, seen through the client library on uvloop, which every service runs on."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.admin import ApiVersionRequest

from event_core.kafka.native import Connection, end, ended


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
    import aiokafka.conn

    assert aiokafka.conn.AIOKafkaConnection is Connection


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

    with caplog.at_level(logging.WARNING):
        on_uvloop(work())
    assert not caplog.records
