"""Row 20 of the fault matrix: the disk of Postgres is full."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Platform
from tests.e2e.books import assert_kafka_is_not_ahead, assert_stored_once, event, put, topics_made
from tests.e2e.oracle import Ledger
from tests.support.backend import Backend, NoSmallDisk
from tests.support.wait import count, query, until

pytestmark = pytest.mark.e2e

TABLESPACE = "small"


@pytest.fixture
def small_disk(backend: Backend) -> Iterator[None]:
    """A tablespace on a small disk. It outlives the database of the test, which must be asked for after it."""
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(backend.small_disk())
        except NoSmallDisk as error:
            if os.environ.get("CI"):
                pytest.fail(f"no small disk can be mounted, and this row of the fault matrix must run here: {error}")
            pytest.skip(f"no small disk can be mounted: {error}")
        administer(backend, sql.SQL("create tablespace {} location {}").format(sql.Identifier(TABLESPACE), path))
        yield
        administer(backend, sql.SQL("drop tablespace {}").format(sql.Identifier(TABLESPACE)))


def administer(backend: Backend, statement: sql.Composed) -> None:
    with psycopg.connect(f"{backend.postgres}/postgres", autocommit=True) as connection:
        connection.execute(statement)


def move_there(platform: Platform, backend: Backend) -> None:
    name = sql.Identifier(platform.database_url.rpartition("/")[2])
    administer(backend, sql.SQL("alter database {} set tablespace {}").format(name, sql.Identifier(TABLESPACE)))


def fill(url: str) -> None:
    """Writes until nothing more fits, in ever smaller pieces."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table filling (bytes bytea)")
        connection.execute("alter table filling alter column bytes set storage external")
        for megabytes in (4.0, 1.0, 0.1, 0.008):
            try:
                while True:
                    connection.execute(
                        "insert into filling values (convert_to(repeat('x', %s), 'UTF8'))", [int(megabytes * 2**20)]
                    )
            except psycopg.errors.DiskFull:
                pass


def test_a_full_disk_pauses_the_consumer_without_a_dead_letter(
    small_disk: None, platform: Platform, backend: Backend
) -> None:
    topics_made(platform)
    move_there(platform, backend)
    consumer = platform.start("event_consumer", CONSUMER_BATCH_SIZE="200")
    ledger, url = Ledger(), platform.database_url
    sent = put(platform, ledger, map(event, range(200)))
    until("the first are stored", lambda: count(url) == sent)

    fill(url)
    for _ in range(40):  # until even what the tables have left is used up
        sent += put(platform, ledger, (event(number, context={"more": "x" * 1_000}) for number in range(500)), 0, 1, 2)
        if consumer.metric("consumer_database_waits_total", sqlstate_class="53"):
            break
    until("it meets the full disk", lambda: consumer.metric("consumer_database_waits_total", sqlstate_class="53") >= 2)
    moved = "select topic, partition, next_offset, updated_at from consumer_offsets order by topic, partition"
    stored, offsets = count(url), query(url, moved)
    time.sleep(3)
    assert query(url, moved) == offsets, "it pauses, without a commit"
    assert count(url) == stored < sent
    assert count(url, "dead_letters") == 0
    assert consumer.running()
    assert_kafka_is_not_ahead(platform)

    with psycopg.connect(url) as connection:
        connection.execute("drop table filling")
    assert_stored_once(platform, ledger, sent)
