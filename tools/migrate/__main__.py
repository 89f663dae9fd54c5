"""Bring the database's schema to the newest version. Safe to run again, and from several places at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

import psycopg
import typer
from alembic import command
from alembic.config import Config
from psycopg import sql

from event_core.errors import ConfigurationError
from event_core.migrations import known_revisions
from event_core.settings import PostgresSettings, load, mask


def _database(url: str) -> tuple[str, str]:
    """(name of the database, URL of the maintenance database beside it)."""
    parts = urlsplit(url)
    name = parts.path.lstrip("/")
    if not name:
        raise ConfigurationError("DATABASE_URL names no database: end it with /events_db")
    return name, urlunsplit(parts._replace(path="/postgres"))


def wait_for(url: str, seconds: float) -> None:
    """Returns once PostgreSQL answers at ``url``; exits with 1 after ``seconds``."""
    deadline = time.monotonic() + seconds
    told = False
    while True:
        try:
            psycopg.connect(url, connect_timeout=3).close()
            return
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                reason = str(error).strip().splitlines()[-1]
                typer.echo(f"PostgreSQL at {mask(url)} did not answer within {seconds:g} s: {reason}", err=True)
                raise typer.Exit(1) from None
            if not told:
                typer.echo(f"waiting for PostgreSQL at {mask(url)}")
                told = True
            time.sleep(0.25)


def create_database(url: str) -> bool:
    """Makes the database that ``url`` names; False where it is there already."""
    name, maintenance = _database(url)
    with psycopg.connect(maintenance, autocommit=True) as connection:
        if connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone():
            return False
        try:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            return False  # somebody else was faster
        return True


def revision_of(url: str) -> str | None:
    """The revision the database stands at, or None where nothing was migrated yet."""
    with psycopg.connect(url) as connection:
        if connection.execute("select to_regclass('alembic_version')").fetchone() == (None,):
            return None
        row = connection.execute("select version_num from alembic_version").fetchone()
        return row[0] if row else None


def upgrade(url: str, revision: str = "head") -> None:
    """Runs every migration that is missing, up to ``revision``, in one transaction under a lock."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    config.attributes["database_url"] = url.replace("postgresql://", "postgresql+psycopg://", 1).replace(
        "postgres://", "postgresql+psycopg://", 1
    )
    command.upgrade(config, revision)


def main(
    status: Annotated[bool, typer.Option("--status", help="Show where the schema stands; change nothing.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for PostgreSQL to answer.")] = 60,
) -> None:
    """Bring the schema of DATABASE_URL to the newest version, making the database where it is missing."""
    try:
        settings = load(PostgresSettings)
        name, maintenance = _database(settings.database_url)
    except ConfigurationError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(2) from None
    wait_for(maintenance, wait)
    newest = known_revisions()[-1]
    if status:
        try:
            revision = revision_of(settings.database_url)
        except psycopg.OperationalError:
            typer.echo(f"the database {name} does not exist; run without --status to make it")
            raise typer.Exit(1) from None
        typer.echo(f"{name}: {revision or 'empty'}; newest is {newest}")
        raise typer.Exit(0 if revision == newest else 1)
    if create_database(settings.database_url):
        typer.echo(f"database {name} made")
    before = revision_of(settings.database_url)
    if before is not None and before not in known_revisions():
        typer.echo(f"{name}: the schema {before} is newer than this version knows ({newest}): upgrade it", err=True)
        raise typer.Exit(1)
    upgrade(settings.database_url)
    typer.echo(f"{name}: schema is {newest}" + ("" if before == newest else f" (was {before or 'empty'})"))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(prog_name="python -m tools.migrate")
