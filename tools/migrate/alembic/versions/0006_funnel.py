"""Funnels."""

from tools.migrate.files import run_sql_file

revision = "0006_funnel"
down_revision = "0005_users"


def upgrade() -> None:
    run_sql_file(revision)
