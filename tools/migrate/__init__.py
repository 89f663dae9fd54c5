"""Schema migrations: raw SQL files of event_core, run by Alembic under a lock."""
