"""Unique users: exact from days, or sketched."""

from tools.migrate.files import run_sql_file

revision = "0005_users"
down_revision = "0004_counts"


def upgrade() -> None:
    run_sql_file(revision)
