"""Who migrates need not be a superuser, as long as the role that answers questions can be made or is granted."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import psycopg
import pytest
from psycopg import sql

from tests.support.backend import Backend
from tools.migrate.__main__ import upgrade

pytestmark = pytest.mark.integration


class Owner(NamedTuple):
    """A role without any privilege but its own database."""

    name: str
    url: str
    admin: str


@pytest.fixture
def owner(backend: Backend) -> Iterator[Owner]:
    name = f"owner_{uuid.uuid4().hex[:8]}"
    admin = f"{backend.postgres}/postgres"
    identifier = sql.Identifier(name)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("create role {} login password 'secret'").format(identifier))
        connection.execute(sql.SQL("create database {} owner {}").format(identifier, identifier))
    url = re.sub(r"//[^@]*@", f"//{name}:secret@", backend.postgres)
    yield Owner(name, f"{url}/{name}", admin)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(identifier))
        connection.execute(sql.SQL("drop role {}").format(identifier))


def test_an_owner_that_may_not_take_on_the_role_is_told_what_to_grant(owner: Owner) -> None:
    with pytest.raises(Exception, match=f"grant analytics_reader to {owner.name}"):
        upgrade(owner.url)


def test_an_owner_that_was_granted_the_role_migrates_and_its_services_answer(owner: Owner) -> None:
    with psycopg.connect(owner.admin, autocommit=True) as connection:
        connection.execute(sql.SQL("grant analytics_reader to {}").format(sql.Identifier(owner.name)))
    upgrade(owner.url)
    with psycopg.connect(owner.url, options="-c role=analytics_reader") as connection:
        row = connection.execute(
            "select analytics.count_events('2026-01-01', '2026-01-02'), current_user::text"
        ).fetchone()
    assert row == (0, "analytics_reader")
