"""``python -m tools.dlq`` as an operator meets it, on a real Postgres and Kafka."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from event_consumer.dead_letter import DeadLetter
from event_consumer.letters import shelf
from event_core.kafka.topics import ensure_topics, platform_topics
from tests.conftest import Platform
from tests.support.letters import canonical, given_up, pool_of, refused, settings_of
from tests.support.topics import read_topic
from tests.support.wait import query

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def environment(platform: Platform, **settings: str) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **platform.settings, **settings}


def dlq(platform: Platform, *arguments: object, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.dlq", *map(str, arguments)],
        cwd=ROOT,
        env=environment(platform, **settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def put(platform: Platform, *letters: DeadLetter) -> list[uuid.UUID]:
    async def work() -> None:
        async with pool_of(platform.database_url) as pool, pool.acquire() as connection, connection.transaction():
            await shelf.set_aside(connection, letters)

    asyncio.run(work())
    return [
        row[0] for row in query(platform.database_url, "select dead_letter_id from dead_letters order by failed_at, 1")
    ]


def states(platform: Platform) -> dict[str, int]:
    return dict(query(platform.database_url, "select state, count(*)::int from dead_letters group by 1"))


def topics(platform: Platform) -> None:
    settings = settings_of(platform)
    asyncio.run(ensure_topics(settings, platform_topics(settings)))


def test_letters_are_listed_and_shown_to_people_and_to_programs(platform: Platform) -> None:
    assert dlq(platform, "list").returncode == 0
    [one] = put(platform, given_up(b'{"a":"\x1b[31m"}', topic=platform.topic, offset=7, reason="invalid_event"))
    put(platform, *[given_up(topic=platform.topic) for _ in range(4)])

    shown = dlq(platform, "list", "--reason", "invalid_event")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert all(word in shown.stdout for word in (str(one), "invalid_event", f"{platform.topic}-3@7", "open", "bad"))

    page = dlq(platform, "list", "--limit", 2)
    after = re.search(r"--after (\S+)", page.stderr)
    assert after is not None
    rest = json.loads(dlq(platform, "list", "--json", "--after", after[1]).stdout)
    assert (len(rest["letters"]), rest["next"]) == (3, None)
    assert rest["letters"][0]["state"] == "open"

    letter = dlq(platform, "show", one)
    assert letter.returncode == 0
    assert '{"a":"\\x1b[31m"}' in letter.stdout, "nothing in a letter drives the terminal"
    assert json.loads(dlq(platform, "show", one, "--json").stdout)["value"]["data"] == '{"a":"\x1b[31m"}'
    missing = dlq(platform, "show", uuid.uuid4())
    assert missing.returncode == 3
    assert "no dead letter has the id" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay"], ["--all"]),
        (["replay", "--all", "--reason", "not_json"], ["leave one of them out"]),
        (["replay", "--all"], ["--yes", "--dry-run"]),
        (["discard", "--note", "x", "--all"], ["--yes"]),
        (["discard", "--note", " ", "--all", "--yes"], ["--note"]),
        (["discard", "--all"], ["--note"]),
        (["list", "--since", "yesterday"], ["--since", "2026-01-31T12:00:00Z"]),
        (["list", "--since", "2026-01-31T12:00:00"], ["time zone"]),
        (["list", "--after", "x"], ["after"]),
        (["replay", "x"], ["UUID"]),
        (["replay", "--all", "--yes", "--set", "a=1"], ["one letter at a time"]),
        (["replay", uuid.uuid4(), "--set", "a=b"], ["a text needs its quotes", 'a="b"']),
        (["replay", uuid.uuid4(), "--set", "a"], ["PATH=JSON"]),
        (["replay", "--all", "--yes", "--to-topic", "elsewhere"], ["no event of topic elsewhere"]),
    ],
)
def test_wrong_usage_says_what_to_do_and_does_nothing(
    platform: Platform, arguments: Sequence[object], words: Sequence[str]
) -> None:
    put(platform, given_up(topic=platform.topic), given_up(topic=platform.topic))
    done = dlq(platform, *arguments)
    said = re.sub(r"[\s│]+", " ", done.stderr)
    assert done.returncode == 2, said
    assert [word for word in words if word not in said] == [], said
    assert "Traceback" not in said
    assert states(platform) == {"open": 2}


def test_letters_are_replayed_once_and_what_is_left_out_is_said(platform: Platform) -> None:
    topics(platform)
    put(platform, *[given_up(canonical(), topic=platform.topic, offset=number) for number in range(150)])
    put(platform, given_up(canonical(), topic="elsewhere"))

    tried = dlq(platform, "replay", "--all", "--dry-run")
    assert f"150 would be sent to {platform.topic}" in tried.stdout
    assert states(platform) == {"open": 151}

    done = dlq(platform, "replay", "--all", "--yes", "--note", "the bug is gone")
    assert (done.returncode, done.stderr) == (4, "")
    assert f"150 sent to {platform.topic}" in done.stdout
    assert "1 left out" in done.stdout
    assert "--to-topic" in done.stdout
    assert states(platform) == {"open": 1, "replayed": 150}
    assert query(platform.database_url, "select distinct note from dead_letters where state = 'replayed'") == [
        ("the bug is gone",)
    ]
    assert len(read_topic(platform, 150)) == 150

    nothing = dlq(platform, "replay", "--topic", platform.topic, "--yes")
    assert (nothing.returncode, nothing.stdout) == (3, "")
    assert len(read_topic(platform, 150)) == 150


def test_one_letter_is_mended_from_a_file_or_field_by_field(platform: Platform, tmp_path: Path) -> None:
    topics(platform)
    event_id = str(uuid.uuid4())
    [one] = put(platform, given_up(canonical(event_id, user_id=""), topic=platform.topic))
    done = dlq(platform, "replay", one, "--set", 'user_id="user-9"', "--set", "metadata.n=9.5", "--unset", "context")
    assert (done.returncode, done.stderr) == (0, "")
    file = tmp_path / "mended.json"
    file.write_bytes(canonical(event_id, user_id="from the file"))
    assert dlq(platform, "replay", one, "--value-file", file, "--state", "replayed").returncode == 0
    first, second = sorted(
        (record.json() for record in read_topic(platform, 2)), key=lambda said: said["user_id"] != "user-9"
    )
    assert (first["event_id"], first["user_id"], first["metadata"]) == (event_id, "user-9", {"n": 9.5})
    assert "context" not in first
    assert (second["event_id"], second["user_id"]) == (event_id, "from the file")


def test_letters_are_discarded_with_a_note_and_that_can_be_taken_back(platform: Platform) -> None:
    topics(platform)
    put(platform, *[given_up(canonical(), topic=platform.topic) for _ in range(3)])
    done = dlq(platform, "discard", "--reason", "not_json", "--note", "noise", "--limit", 2, "--yes")
    assert done.returncode == 0
    assert "2 discarded" in done.stdout
    assert "there are more" in done.stdout
    assert states(platform) == {"open": 1, "discarded": 2}
    assert dlq(platform, "replay", "--state", "discarded", "--all", "--yes").returncode == 0
    assert states(platform) == {"open": 1, "replayed": 2}


@pytest.mark.parametrize(("answer", "left"), [("y", {"discarded": 2}), ("n", {"open": 2})])
def test_a_person_is_asked_before_many_letters_are_changed(
    platform: Platform, answer: str, left: dict[str, int]
) -> None:
    put(platform, given_up(), given_up(reason="invalid_event"))
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "tools.dlq", "discard", "--all", "--note", "x"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(platform),
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as asking:
        os.close(end)
        os.write(terminal, answer.encode() + b"\n")
        _, said = asking.communicate(timeout=60)
    os.close(terminal)
    assert "2 letters (" in said
    assert "invalid_event: 1" in said
    assert "discard 2 of them?" in said
    assert states(platform) == left


def test_what_is_away_is_named_with_the_setting_that_says_where_it_is(platform: Platform) -> None:
    put(platform, refused(b'{"event_name":"e"}'), given_up(canonical(), topic=platform.topic))
    nowhere = "postgresql://postgres:hunter2@127.0.0.1:1/events_db"
    for command in (["list"], ["replay", "--all", "--yes"], ["discard", "--all", "--yes", "--note", "x"]):
        done = dlq(platform, *command, DATABASE_URL=nowhere)
        assert done.returncode == 1, done.stderr
        assert "DATABASE_URL" in done.stderr
        assert "hunter2" not in done.stderr
        assert "Traceback" not in done.stderr
    door = dlq(platform, "replay", "--source", "ingestion_service", "--yes", INGESTION_URL="http://127.0.0.1:1")
    assert door.returncode == 1
    assert "INGESTION_URL" in door.stderr
    kafka = dlq(platform, "replay", "--source", "event_consumer", "--yes", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert kafka.returncode == 1
    assert "127.0.0.1:1" in kafka.stderr
    assert "Traceback" not in kafka.stderr
    assert states(platform) == {"open": 2}
    wrong = dlq(platform, "list", DATABASE_URL="mysql://x")
    assert wrong.returncode == 2
    assert "DATABASE_URL" in wrong.stderr


@pytest.mark.parametrize("command", ["list", "show", "replay", "discard"])
def test_help_says_what_a_command_does_and_what_its_exit_codes_mean(platform: Platform, command: str) -> None:
    done = dlq(platform, command, "--help")
    assert done.returncode == 0
    assert "Exit codes" in done.stdout
