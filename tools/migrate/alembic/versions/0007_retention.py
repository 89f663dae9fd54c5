"""Retention."""

from tools.migrate.files import run_sql_file

revision = "0007_retention"
down_revision = "0006_funnel"


def upgrade() -> None:
    run_sql_file(revision)
