"""Experiments."""

from tools.migrate.files import run_sql_file

revision = "0008_experiments"
down_revision = "0007_retention"


def upgrade() -> None:
    run_sql_file(revision)
