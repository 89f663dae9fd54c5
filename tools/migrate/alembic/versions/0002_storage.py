"""Partitioned events, their ledger, rollups, and dead letters with a fate."""

from tools.migrate.files import run_sql_file

revision = "0002_storage"
down_revision = "0001_events"


def upgrade() -> None:
    run_sql_file(revision)
