"""What the tests of the analytics' SQL share; a file that wants another zone has a connection of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.reading import Reader


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """To the test's own database, in UTC, each statement by itself."""
    with psycopg.connect(database_url, autocommit=True) as made:
        made.execute("set timezone to 'UTC'")
        yield made


@pytest.fixture
def reader(database_url: str) -> Iterator[Reader]:
    """Of the test's own database."""
    this = Reader(database_url)
    yield this
    this.close()
