"""The events, the consumer's offsets, the dead letters."""

from tools.migrate.files import run_sql_file

revision = "0001_events"
down_revision = None


def upgrade() -> None:
    run_sql_file(revision)
