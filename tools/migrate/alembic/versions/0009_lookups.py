"""Single events, lists of them, and what is new."""

from tools.migrate.files import run_sql_file

revision = "0009_lookups"
down_revision = "0008_experiments"


def upgrade() -> None:
    run_sql_file(revision)
