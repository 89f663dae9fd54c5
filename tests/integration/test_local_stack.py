"""The local stack, for real: killed programs come back, what was stored stays, and nothing is left running."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition

from tools.stack import LocalStack, PortTakenError, StackConfig, processes

pytestmark = pytest.mark.integration

TOPIC = "kept"
# The stack promises two seconds. Tests run beside others on small machines: this bound only tells a restart from none.
GENEROUS = 20.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A broker and a database of this module's own, brought up by the first test that needs them."""
    home = tmp_path_factory.mktemp("a stack")  # a private folder, and a path with a space
    local = LocalStack(StackConfig.for_home(home, programs=("kafka", "postgres"), ephemeral=True))
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
    """Stores a number in both, acknowledged by both."""

    async def produce() -> None:
        async with AIOKafkaProducer(bootstrap_servers=stack.kafka_bootstrap, acks="all") as producer:
            await producer.send_and_wait(TOPIC, str(number).encode())

    asyncio.run(produce())
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("INSERT INTO kept VALUES (%s)", (number,))


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


def test_both_serve_on_their_own_ports(stack: LocalStack) -> None:
    assert [(row.program, row.state, row.ready) for row in stack.status()] == [
        ("postgres", "running", True),
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


@pytest.mark.parametrize("program", ["kafka", "postgres"])
def test_a_killed_program_comes_back_with_what_it_had_acknowledged(stack: LocalStack, program: str) -> None:
    number = {"kafka": 1, "postgres": 2}[program]
    store(stack, number)
    # A server process that is busy for its client outlives the server for a moment, and must not block the new one.
    with psycopg.connect(stack.database_url, autocommit=True) as busy:
        busy.execute("SELECT 1")
        kill(stack, program)
        stack.wait_ready(program)
    assert number in stored_in_kafka(stack)
    assert number in stored_in_postgres(stack)


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
    store(stack, 3)
    before = stored_in_kafka(stack), stored_in_postgres(stack)
    stack.down()
    assert members(stack) == []
    for use in stack.config.port_uses():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", use.port)) != 0
    assert {row.state for row in stack.status()} == {"down"}
    stack.down()  # when it is down, too
    stack.up()
    assert (stored_in_kafka(stack), stored_in_postgres(stack)) == before


def test_orphans_of_a_killed_supervisor_are_found_and_replaced(stack: LocalStack) -> None:
    store(stack, 4)
    supervisor = int((stack.config.home / "supervisord.pid").read_text())
    orphans = {stack.pid("kafka"), stack.pid("postgres")}
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not stack.is_up())
    stack.up()
    assert not orphans & {member.process.pid for member in members(stack)}
    assert 4 in stored_in_kafka(stack)
    assert 4 in stored_in_postgres(stack)

    os.kill(int((stack.config.home / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_for(lambda: not stack.is_up())
    stack.down()
    assert members(stack) == []


def test_a_taken_port_is_named_before_anything_starts(stack: LocalStack) -> None:
    stack.down()
    port = stack.config.postgres_port
    listen = f"import socket, sys; s = socket.create_server(('127.0.0.1', {port})); print('on', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", listen]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "on\n"
        with pytest.raises(PortTakenError, match=rf"Port {port}, which postgres needs, .* {stranger.pid} ") as caught:
            stack.up()
        assert "POSTGRES_PORT=" in caught.value.remedy
        assert members(stack) == []
        stack.down()
        assert stranger.poll() is None


def test_clean_deletes_the_data(stack: LocalStack, tmp_path: Path) -> None:
    stack.clean()
    assert not stack.config.kafka_data.exists()
    assert not stack.config.postgres_data.exists()
    assert members(stack) == []
