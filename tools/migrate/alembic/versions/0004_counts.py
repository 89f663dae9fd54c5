"""Counts: in total, over time, by anything."""

from tools.migrate.files import run_sql_file

revision = "0004_counts"
down_revision = "0003_analytics"


def upgrade() -> None:
    run_sql_file(revision)
