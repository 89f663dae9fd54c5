"""The SQL of a revision: event_core/sql/migrations/<revision>.sql."""

from __future__ import annotations

from alembic import op

from event_core.migrations import MIGRATIONS


def run_sql_file(revision: str) -> None:
    """Runs the revision's file, which may hold many statements, within the migration's transaction."""
    sql = (MIGRATIONS / f"{revision}.sql").read_text(encoding="utf-8")
    # The driver's own cursor: SQLAlchemy would take a colon or a percent sign in the file for a parameter.
    cursor = op.get_bind().connection.cursor()
    try:
        cursor.execute(sql)
    finally:
        cursor.close()
