"""Which migrations this code ships. Pure, so that the migration job needs no asyncpg."""

from __future__ import annotations

from importlib import resources

MIGRATIONS = resources.files("event_core") / "sql" / "migrations"


def known_revisions() -> list[str]:
    """The migrations that this code ships, oldest first; the last is the schema it needs."""
    return sorted(file.name.removesuffix(".sql") for file in MIGRATIONS.iterdir() if file.name.endswith(".sql"))
