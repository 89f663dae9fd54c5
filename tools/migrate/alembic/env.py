"""Alembic's environment: one transaction for all migrations, behind an advisory lock so that two runs wait for each other."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool, text

LOCK = 0x65766E74
"""The advisory lock of the platform's migrations ('evnt')."""

engine = create_engine(context.config.attributes["database_url"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        # Within the transaction: released with it, however it ends.
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        context.run_migrations()
