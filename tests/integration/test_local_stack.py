"""The local stack, for real: killed programs come back, what was stored stays, and nothing is left running."""

import asyncio
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from tools.stack import LocalStack, PortTakenError, StackConfig, processes
from tools.stack.config import SERVERS

pytestmark = pytest.mark.integration

TOPIC = "kept"
# The stack promises two seconds. Tests run beside others on small machines: this bound only tells a restart from none.
GENEROUS = 20.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Servers of this module's own, brought up by the first test that needs them."""
    home = tmp_path_factory.mktemp("a stack")  # a private folder, and a path with a space
    local = LocalStack(StackConfig.for_home(home, programs=SERVERS, ephemeral=True))
    local.up()
    asyncio.run(make_topic(local.kafka_bootstrap))
    with psycopg.connect(local.database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    yield local
    local.clean()


async def make_topic(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(TOPIC, 1, 1)])
        assert answer.topic_errors[0][1] == 0
    finally:
        await admin.close()


def store(stack: LocalStack, number: int) -> None:
    """Stores a number in each, acknowledged by each."""

    async def produce() -> None:
        async with AIOKafkaProducer(bootstrap_servers=stack.kafka_bootstrap, acks="all") as producer:
            await producer.send_and_wait(TOPIC, str(number).encode())

    asyncio.run(produce())
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("INSERT INTO kept VALUES (%s)", (number,))
    with MongoClient[dict[str, int]](stack.mongodb_url) as client:
        client.sales_db.kept.insert_one({"_id": number})


def stored_in_kafka(stack: LocalStack) -> list[int]:
    async def consume() -> list[int]:
        partition = TopicPartition(TOPIC, 0)
        async with AIOKafkaConsumer(bootstrap_servers=stack.kafka_bootstrap, auto_offset_reset="earliest") as consumer:
            consumer.assign([partition])
            [end] = (await consumer.end_offsets([partition])).values()
            found: list[int] = []
            while len(found) < end:
                batches = await consumer.getmany(timeout_ms=1000)
                found += [int(record.value or b"") for records in batches.values() for record in records]
            return found

    return asyncio.run(asyncio.wait_for(consume(), 60.0))


def stored_in_postgres(stack: LocalStack) -> list[int]:
    with psycopg.connect(stack.database_url) as connection:
        return [row[0] for row in connection.execute("SELECT n FROM kept ORDER BY n")]


def stored_in_mongodb(stack: LocalStack) -> list[int]:
    with MongoClient[dict[str, int]](stack.mongodb_url) as client:
        return sorted(document["_id"] for document in client.sales_db.kept.find())


def stored(stack: LocalStack) -> list[list[int]]:
    return [stored_in_kafka(stack), stored_in_postgres(stack), stored_in_mongodb(stack)]


def members(stack: LocalStack) -> list[processes.Member]:
    return processes.members(stack.config.home, stack.config.postgres_data)


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GENEROUS
    while not what():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


def kill(stack: LocalStack, program: str) -> None:
    """Kills a program, and returns when another process has taken its place."""
    old = stack.pid(program)
    assert old is not None
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: stack.pid(program) not in (None, old))


def test_all_serve_on_their_own_ports(stack: LocalStack) -> None:
    assert [(row.program, row.state, row.ready) for row in stack.status()] == [
        ("postgres", "running", True),
        ("mongo", "running", True),
        ("kafka", "running", True),
    ]
    stack.up()  # a second time changes nothing
    assert all(row.ready for row in stack.status())


def test_postgres_wants_its_password_and_keeps_its_promises(stack: LocalStack) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(stack.database_url.replace(":postgres@", ":wrong@"))
    with psycopg.connect(stack.database_url) as connection:
        for setting, value in {"fsync": "on", "synchronous_commit": "on", "server_encoding": "UTF8"}.items():
            row = connection.execute("SELECT current_setting(%s)", (setting,)).fetchone()
            assert row == (value,)


def test_the_mongodb_server_follows_a_changed_password(stack: LocalStack) -> None:
    store(stack, 0)
    changed = LocalStack(dataclasses.replace(stack.config, mongo_password="päss:w/rd"))
    changed.up()
    assert stored_in_mongodb(changed) == [0]
    with pytest.raises(OperationFailure, match="Authentication failed"):
        stored_in_mongodb(stack)
    stack.up()
    assert stored_in_mongodb(stack) == [0]


@pytest.mark.parametrize("program", ["kafka", "postgres", "mongo"])
def test_a_killed_program_comes_back_with_what_it_had_acknowledged(stack: LocalStack, program: str) -> None:
    number = {"kafka": 1, "postgres": 2, "mongo": 3}[program]
    store(stack, number)
    # A server process that is busy for its client outlives the server for a moment, and must not block the new one.
    with psycopg.connect(stack.database_url, autocommit=True) as busy:
        busy.execute("SELECT 1")
        kill(stack, program)
        stack.wait_ready(program)
    for numbers in stored(stack):
        assert number in numbers


def test_a_program_that_ends_at_once_is_started_again_and_again_and_heals(stack: LocalStack) -> None:
    launcher = stack.config.home / "run" / "postgres.sh"
    good = launcher.read_text()
    launcher.write_text(good.replace("\nexec ", "\nexit 3\nexec "))
    seen: set[int | None] = set()

    def starts() -> int:
        seen.add(stack.pid("postgres"))
        return len(seen - {None})

    try:
        kill(stack, "postgres")
        wait_for(lambda: starts() > 4)  # a supervisor with a limit or a growing pause would be slower than this
    finally:
        launcher.write_text(good)
    stack.wait_ready("postgres")


def test_a_stopped_program_stays_down_until_it_is_started(stack: LocalStack) -> None:
    stack.stop("postgres")
    time.sleep(1.5)  # longer than a restart takes
    assert stack.pid("postgres") is None
    stack.stop("postgres")
    stack.start("postgres")
    stack.wait_ready("postgres")


def test_down_leaves_no_process_and_up_finds_all_data(stack: LocalStack) -> None:
    store(stack, 4)
    before = stored(stack)
    stack.down()
    assert members(stack) == []
    for use in stack.config.port_uses():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", use.port)) != 0
    assert {row.state for row in stack.status()} == {"down"}
    stack.down()  # when it is down, too
    stack.up()
    assert stored(stack) == before


def test_orphans_of_a_killed_supervisor_are_found_and_replaced(stack: LocalStack) -> None:
    store(stack, 5)
    supervisor = int((stack.config.home / "supervisord.pid").read_text())
    orphans = {stack.pid(program) for program in SERVERS}
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not stack.is_up())
    stack.up()
    assert not orphans & {member.process.pid for member in members(stack)}
    for numbers in stored(stack):
        assert 5 in numbers

    os.kill(int((stack.config.home / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_for(lambda: not stack.is_up())
    stack.down()
    assert members(stack) == []


@pytest.mark.parametrize(("program", "setting"), [("postgres", "POSTGRES_PORT"), ("mongo", "MONGO_PORT")])
def test_a_taken_port_is_named_before_anything_starts(stack: LocalStack, program: str, setting: str) -> None:
    stack.down()
    [port] = [use.port for use in stack.config.port_uses() if use.setting == setting]
    listen = f"import socket, sys; s = socket.create_server(('127.0.0.1', {port})); print('on', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", listen]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "on\n"
        with pytest.raises(PortTakenError, match=rf"Port {port}, which {program} needs, .* {stranger.pid} ") as caught:
            stack.up()
        assert f"{setting}=" in caught.value.remedy
        assert members(stack) == []
        stack.down()
        assert stranger.poll() is None


def test_clean_deletes_the_data(stack: LocalStack, tmp_path: Path) -> None:
    stack.clean()
    assert not stack.config.kafka_data.exists()
    assert not stack.config.postgres_data.exists()
    assert not stack.config.mongo_data.exists()
    assert members(stack) == []


def test_the_sales_service_comes_back_unless_it_was_asked_to_end(tmp_path: Path) -> None:
    key = "a key of sixteen and more"
    programs = ("mongo", "kafka", "sales")
    config = StackConfig.for_home(tmp_path, programs=programs, ephemeral=True, environment={"ADMIN_API_KEY": key})
    stack = LocalStack(config)

    def state() -> str:
        return next(row.state for row in stack.status() if row.program == "sales")

    try:
        stack.up()
        kill(stack, "sales")
        stack.wait_ready("sales")
        answer = httpx.post(f"http://localhost:{config.sales_port}/shutdown", headers={"X-API-Key": key}, timeout=30)
        assert answer.status_code == 202
        wait_for(lambda: state() == "exited")
        time.sleep(2.5)  # longer than a restart takes
        assert state() == "exited"
        stack.up()
        assert state() == "running"
    finally:
        stack.clean()
