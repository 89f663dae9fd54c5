"""Waiting for what must come, with a bound that only a fault reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg


def until(what: str, holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Returns once ``holds()``; fails naming ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def query(database_url: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of ``statement``, over a connection of its own."""
    with psycopg.connect(database_url) as connection:
        return connection.execute(statement, parameters or None).fetchall()


def count(database_url: str, table: str = "events") -> int:
    """How many rows ``table`` has."""
    return int(query(database_url, f"select count(*) from {table}")[0][0])
