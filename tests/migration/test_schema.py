"""Migrating from empty gives the documented schema, once, from however many places at a time."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from event_core.migrations import known_revisions
from tests.support.wait import query
from tools.migrate.__main__ import upgrade
from tools.migrate.describe import describe_schema

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def migrate(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.migrate", *arguments],
        cwd=ROOT,
        env={"DATABASE_URL": url, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_migrating_from_empty_gives_the_documented_schema(empty_database: str) -> None:
    upgrade(empty_database)
    documented = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
    assert describe_schema(empty_database) == documented, "make schema-docs writes docs/schema.md anew"


def test_the_events_table_has_the_columns_that_users_are_promised(database_url: str) -> None:
    rows = query(
        database_url,
        "select column_name, data_type from information_schema.columns"
        " where table_schema = 'public' and table_name = 'events'",
    )
    promised = {
        "event_id": "uuid",
        "user_id": "text",
        "event_name": "text",
        "metadata": "jsonb",
        "timestamp": "timestamp with time zone",
        "processed_at": "timestamp with time zone",
    }
    assert promised.items() <= dict(rows).items()
    [(key,)] = query(
        database_url,
        "select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'public.events'::regclass and contype = 'p'",
    )
    assert key == 'PRIMARY KEY ("timestamp", event_id)'
    [(guard,)] = query(
        database_url,
        "select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'public.event_ids'::regclass and contype = 'p'",
    )
    assert guard == "PRIMARY KEY (event_id)", "what makes an event stored once, whatever its timestamp"


def test_partitions_are_no_part_of_the_documented_schema(database_url: str) -> None:
    before = describe_schema(database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "create table events_20240510 partition of events for values from ('2024-05-10') to ('2024-05-11')"
        )
    assert describe_schema(database_url) == before
    assert 'Partitioned by `RANGE ("timestamp")`' in before


def test_the_command_makes_the_database_and_may_run_again(empty_database: str) -> None:
    url = re.sub(r"/[^/]+$", "/made_by_test_schema", empty_database)
    try:
        first, again, status = migrate(url), migrate(url), migrate(url, "--status")
        assert first.returncode == 0, first.stderr
        assert "database made_by_test_schema made" in first.stdout
        assert again.returncode == 0
        assert "made_by_test_schema made" not in again.stdout
        assert (status.returncode, known_revisions()[-1] in status.stdout) == (0, True)
    finally:
        with psycopg.connect(re.sub(r"/[^/]+$", "/postgres", url), autocommit=True) as connection:
            connection.execute("drop database if exists made_by_test_schema")


def test_runs_at_the_same_time_wait_for_each_other(empty_database: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: migrate(empty_database), range(4)))
    assert [result.returncode for result in results] == [0, 0, 0, 0], [result.stderr[-500:] for result in results]
    assert query(empty_database, "select version_num from alembic_version") == [(known_revisions()[-1],)]


def test_a_schema_from_the_future_is_left_alone(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("update alembic_version set version_num = '9999_of_the_future'")
    result = migrate(database_url)
    assert result.returncode == 1
    assert "newer than this version knows" in result.stderr


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    result = migrate("postgresql://someone:hidden@127.0.0.1:9/events_db", "--wait", "0")
    assert result.returncode == 1
    assert "127.0.0.1:9" in result.stderr
    assert "hidden" not in result.stderr + result.stdout
