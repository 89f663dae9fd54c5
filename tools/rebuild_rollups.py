"""Rollups made anew from the events, with the difference shown: ``python -m tools.rebuild_rollups``, ``make rebuild-rollups``."""

from __future__ import annotations

import asyncio
import time
from datetime import date, datetime
from typing import Annotated

import asyncpg
import typer

from event_consumer.events.rebuild import Differences, Rebuild
from event_core.errors import ConfigurationError, PlatformError
from event_core.postgres import check_schema, open_pool
from event_core.settings import PostgresSettings, load, mask

PROGRESS_SECONDS = 5.0


async def rebuild(settings: PostgresSettings, first: date | None, last: date | None, *, dry_run: bool) -> Differences:
    """Goes through the days and prints what differs and how far it is."""
    total, told = Differences(), time.monotonic()
    async with open_pool(settings, size=1, application="rebuild_rollups") as pool, pool.acquire() as connection:
        await check_schema(connection)
        work = Rebuild(connection, first, last)
        days = await work.days()
        typer.echo(f"{len(days)} days" + (f", {days[0]} to {days[-1]}" if days else ""))
        for number, day in enumerate(days, 1):
            found = await (work.compare(day) if dry_run else work.rebuild(day))
            total = total.plus(found)
            if found.any:
                typer.echo(f"{day}: {described(found)}")
            if time.monotonic() - told > PROGRESS_SECONDS:
                typer.echo(f"{number} of {len(days)} days")
                told = time.monotonic()
    return total


def described(found: Differences, *, all_tables: bool = False) -> str:
    """One part for each table that differs, or for each."""
    counts, days, seen = found
    parts = [
        (
            counts.rows,
            f"event_counts_15m {counts.rows} rows differ ({counts.too_many} events too many, {counts.too_few} too few)",
        ),
        (days.rows, f"user_days {days.rows} days of users differ ({days.too_many} too many, {days.too_few} too few)"),
        (seen.rows, f"first_seen {seen.rows} users missing or too late"),
    ]
    return "; ".join(text for rows, text in parts if rows or all_tables)


def main(
    from_: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day (UTC); without it the oldest.")
    ] = None,
    to: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="Last day (UTC), included; without it the newest."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only compare: change nothing, make nobody wait. Exits with 1 where anything differs."
        ),
    ] = False,
) -> None:
    """Make event_counts_15m, user_days and first_seen of DATABASE_URL anew from the events, day by day; show what differed.

    Consumers may run: they wait while a day is made anew. first_seen is never moved to a later time, for the event that was
    the first may have been dropped.
    """
    try:
        settings = load(PostgresSettings)
    except ConfigurationError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(2) from None
    first, last = (None if moment is None else moment.date() for moment in (from_, to))
    try:
        total = asyncio.run(rebuild(settings, first, last, dry_run=dry_run))
    except PlatformError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(2) from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        typer.echo(f"PostgreSQL at {mask(settings.database_url)}: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(("difference: " if dry_run else "replaced: ") + described(total, all_tables=True))
    if dry_run and total.any:
        raise typer.Exit(1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(prog_name="python -m tools.rebuild_rollups")
