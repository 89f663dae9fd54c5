"""``python -m tools.offsets``: what an operator sees of the stored offsets, and what a decision does."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from event_consumer.gaps import mark
from event_consumer.settings import ConsumerSettings
from event_core.codec import encode
from event_core.source import FakeMessage
from tests.conftest import Platform
from tests.support import admin
from tests.support.backend import Backend
from tests.support.topics import write_topic
from tests.support.wait import count, query, until
from tools.offsets import Desk, Refused, planned

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def offsets(
    platform: Platform,
    *arguments: str,
    stdin: int = subprocess.DEVNULL,
    settings: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "tools.offsets", *arguments],
        cwd=ROOT,
        env={**inherited, **platform.settings, "COLUMNS": "200", **(settings or {})},
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def shown(platform: Platform) -> dict[int, Any]:
    """The partitions of the platform's topic."""
    done = offsets(platform, "show", "--json")
    assert done.returncode == 0, done.stderr
    return {
        each["partition"]: each for each in json.loads(done.stdout)["partitions"] if each["topic"] == platform.topic
    }


def cluster_of(platform: Platform) -> str:
    return str(json.loads(offsets(platform, "show", "--json").stdout)["cluster_id"])


def reset(platform: Platform, *arguments: str, fails: bool = False) -> str:
    """What the command said."""
    done = offsets(platform, "reset", *arguments)
    assert done.returncode == (1 if fails else 0), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if fails else done.stdout


def read_on(platform: Platform, partition: int, next_offset: int, **columns: Any) -> None:
    """Stores where the group reads on."""
    names = ["consumer_group", "topic", "partition", "next_offset", "consumed", "stored", *columns]
    with psycopg.connect(platform.database_url) as connection:
        connection.execute(
            f"insert into consumer_offsets ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})",
            [
                platform.settings["KAFKA_GROUP_ID"],
                platform.topic,
                partition,
                next_offset,
                next_offset,
                next_offset,
                *columns.values(),
            ],
        )


def stored(platform: Platform) -> dict[int, tuple[Any, ...]]:
    """Partition -> next offset, cluster, mark, unaccounted, skipped."""
    rows = query(
        platform.database_url,
        "select partition, next_offset, cluster_id, last_mark, consumed - stored - duplicates - dead_letters - skipped, skipped"
        " from consumer_offsets order by partition",
    )
    return {partition: tuple(rest) for partition, *rest in rows}


@pytest.fixture
def read(platform: Platform, backend: Backend) -> Platform:
    """A topic of two partitions with ten records each; four of the first have been read, and all of the second."""
    admin.make_topic(backend.kafka, platform.topic, 2)
    for partition in (0, 1):
        write_topic(platform, [(b"key", b"%d" % number) for number in range(10)], partition)
    read_on(platform, 0, 4, last_record_at=datetime(2026, 1, 31, 12, tzinfo=UTC))
    read_on(platform, 1, 10)
    return platform


def test_each_partition_is_shown_with_its_log_and_lag(read: Platform) -> None:
    partitions = shown(read)
    assert {
        name: partitions[0][name] for name in ("next_offset", "log_begin", "log_end", "lag", "gap", "last_record_at")
    } == {
        "next_offset": 4,
        "log_begin": 0,
        "log_end": 10,
        "lag": 6,
        "gap": None,
        "last_record_at": "2026-01-31T12:00:00Z",
    }
    assert partitions[1]["lag"] == 0
    table = offsets(read, "show").stdout
    assert [line.split() for line in table.splitlines() if line.startswith(f"{read.topic}-0")] == [
        [f"{read.topic}-0", "4", "0", "10", "6", "2026-01-31T12:00:00Z"]
    ]


def test_a_partition_can_be_read_again_or_read_on_later(read: Platform) -> None:
    assert "4 records will be read again" in reset(
        read, "--topic", read.topic, "--partition", "0", "--to", "earliest", "--yes"
    )
    assert stored(read)[0] == (0, None, None, 0, 0)
    assert "7 records will be skipped" in reset(read, "--topic", read.topic, "--partition", "0", "--to", "7", "--yes")
    assert stored(read)[0] == (7, None, None, 0, 7)
    assert "3 records will be skipped" in reset(read, "--topic", read.topic, "--to", "latest", "--yes")
    assert stored(read) == {0: (10, None, None, 0, 10), 1: (10, None, None, 0, 0)}


def test_a_dry_run_and_a_missing_yes_change_nothing(read: Platform) -> None:
    before = stored(read)
    assert "4 records will be read again" in reset(
        read, "--topic", read.topic, "--partition", "0", "--to", "earliest", "--dry-run"
    )
    assert "--yes" in reset(read, "--topic", read.topic, "--partition", "0", "--to", "earliest", fails=True)
    assert stored(read) == before


def test_unread_records_that_retention_took_are_a_gap_until_somebody_decides(read: Platform, backend: Backend) -> None:
    admin.truncate(backend.kafka, read.topic, 0, 6)
    gap = shown(read)[0]["gap"]
    assert gap["kind"] == "expired"
    told = offsets(read, "show").stdout
    assert f"{read.topic}-0 is not read on (expired)" in told
    assert "tools.offsets reset" in told
    assert "2 records will be skipped" in reset(read, "--all-gaps", "--to", "earliest", "--yes")
    assert shown(read)[0]["gap"] is None
    assert stored(read) == {0: (6, None, None, 0, 2), 1: (10, None, None, 0, 0)}
    assert "nothing to do" in reset(read, "--all-gaps", "--to", "earliest", "--yes")


def test_a_topic_made_anew_is_a_gap_whether_it_is_shorter_or_not(read: Platform, backend: Backend) -> None:
    # The first partition's new log is as long as what was read of the old one, so only the last record's mark tells.
    other = FakeMessage(read.topic, 0, 3, b"3", b"key", 1_700_000_000_000)
    with psycopg.connect(read.database_url) as connection:
        connection.execute("update consumer_offsets set last_mark = %s where partition = 0", [mark(other)])
    admin.remake_topic(backend.kafka, read.topic, 2)
    write_topic(read, [(b"key", b"new")] * 5, 0)
    write_topic(read, [(b"key", b"new")] * 3, 1)
    assert {number: each["gap"]["kind"] for number, each in shown(read).items()} == {0: "recreated", 1: "beyond_end"}
    said = reset(read, "--all-gaps", "--to", "earliest", "--yes")
    assert "skipped" not in said.replace("nothing is skipped", "")
    assert {number: (each["gap"], each["lag"]) for number, each in shown(read).items()} == {0: (None, 5), 1: (None, 3)}


def test_another_cluster_is_a_gap_and_its_records_count_as_new(read: Platform) -> None:
    with psycopg.connect(read.database_url) as connection:
        connection.execute("update consumer_offsets set cluster_id = 'another' where partition = 1")
        connection.execute("update consumer_offsets set cluster_id = %s where partition = 0", [cluster_of(read)])
    assert {number: each["gap"] and each["gap"]["kind"] for number, each in shown(read).items()} == {
        0: None,
        1: "cluster",
    }
    assert "10 records will be skipped" in reset(read, "--all-gaps", "--to", "latest", "--yes")
    assert stored(read)[1] == (10, None, None, 0, 10)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--topic", "no-such-topic", "--to", "latest"], "known: "),
        (["--topic", "TOPIC", "--partition", "7", "--to", "latest"], "`show` lists them"),
        (["--topic", "TOPIC", "--partition", "0", "--to", "11"], "from 0 to 10"),
    ],
    ids=["topic", "partition", "offset"],
)
def test_what_is_not_there_is_refused_with_what_there_is(read: Platform, arguments: list[str], remedy: str) -> None:
    before = stored(read)
    given = [read.topic if each == "TOPIC" else each for each in arguments]
    assert remedy in reset(read, *given, "--yes", fails=True)
    assert stored(read) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--to", "earliest"],
        ["--all-gaps", "--topic", "events", "--to", "earliest"],
        ["--all-gaps", "--to", "5"],
        ["--topic", "events", "--to", "soon"],
    ],
)
def test_wrong_usage_is_told_apart(platform: Platform, arguments: list[str]) -> None:
    done = offsets(platform, "reset", *arguments)
    assert done.returncode == 2
    assert "Usage" in done.stderr


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
        ("DATABASE_URL", "postgresql://postgres:hunter2@127.0.0.1:1/events_db"),
    ],
)
def test_a_server_that_is_away_is_named(platform: Platform, setting: str, value: str) -> None:
    done = offsets(platform, "show", settings={setting: value})
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_offset_that_moved_meanwhile_is_left_alone(read: Platform) -> None:
    """The consumer goes on while somebody decides."""
    settings = ConsumerSettings(
        database_url=read.database_url,
        kafka_bootstrap_servers=read.settings["KAFKA_BOOTSTRAP_SERVERS"],
        kafka_group_id=read.settings["KAFKA_GROUP_ID"],
        kafka_topic=read.topic,
    )

    async def decide() -> None:
        async with Desk.opened(settings) as desk:
            moves = [planned(seen, "earliest") for seen in await desk.look() if seen.position]
            with psycopg.connect(read.database_url) as connection:
                connection.execute("update consumer_offsets set next_offset = 5 where partition = 0")
            with pytest.raises(Refused, match="moved meanwhile"):
                await desk.carry_out(sorted(moves, reverse=True))

    asyncio.run(decide())
    assert {number: row[0] for number, row in stored(read).items()} == {0: 5, 1: 10}


@pytest.mark.parametrize(("answer", "next_offset"), [(b"n", 4), (b"y", 0)])
def test_whoever_sits_at_a_terminal_is_asked(read: Platform, answer: bytes, next_offset: int) -> None:
    mine, its = pty.openpty()
    try:
        os.write(mine, answer + b"\n")
        done = offsets(read, "reset", "--topic", read.topic, "--partition", "0", "--to", "earliest", stdin=its)
    finally:
        os.close(mine)
        os.close(its)
    assert "4 records will be read again" in done.stdout
    assert "do it?" in done.stderr
    assert stored(read)[0][0] == next_offset


def encoded(number: int) -> tuple[bytes, bytes]:
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    record = encode(
        {
            "event_id": uuid.UUID(int=number + 1),
            "tenant_id": "default",
            "user_id": "user",
            "event_name": "seen",
            "metadata": {"n": number},
            "context": {},
            "timestamp": moment,
            "received_at": moment,
        }
    )
    return record.key, record.value


def test_a_running_consumer_goes_on_after_a_decision_and_stores_nothing_twice(
    platform: Platform, backend: Backend
) -> None:
    """A topic made anew stands still and says so; a decision is taken up without a restart."""
    consumer = platform.start("event_consumer", KAFKA_TOPIC_PARTITIONS="1")
    write_topic(platform, [encoded(number) for number in range(10)])
    until("all are stored", lambda: count(platform.database_url) == 10)
    admin.remake_topic(backend.kafka, platform.topic)
    write_topic(platform, [encoded(number) for number in range(5, 12)])
    until("the gap is seen", lambda: shown(platform)[0]["gap"] is not None)
    until(
        "the consumer tells of it",
        lambda: consumer.metric("consumer_gap", topic=platform.topic, kind="beyond_end") == 1,
    )
    assert consumer.get("/health/ready").status_code == 503
    assert "7 records" not in reset(platform, "--all-gaps", "--to", "earliest", "--yes")
    until("the new log is stored", lambda: count(platform.database_url) == 12)
    until("the consumer is ready", lambda: consumer.get("/health/ready").status_code == 200)
    assert shown(platform)[0]["lag"] == 0
    reset(platform, "--topic", platform.topic, "--partition", "0", "--to", "earliest", "--yes")
    write_topic(platform, [encoded(12)])
    until("it was read again", lambda: shown(platform)[0]["next_offset"] == 8)
    assert count(platform.database_url) == 13
    assert stored(platform)[0][3] == 0
