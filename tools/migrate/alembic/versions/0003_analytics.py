"""The schema analytics: its reader, its views, and filters."""

from tools.migrate.files import run_sql_file

revision = "0003_analytics"
down_revision = "0002_storage"


def upgrade() -> None:
    run_sql_file(revision)
