"""`python -m tools.offsets`: where the consumer reads on, and an operator's decision to read on elsewhere.

A partition whose log is not the one that was read, or that lost unread records, is not read on until somebody decides: a *gap*.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Annotated, Any, NamedTuple

import asyncpg
import orjson
import typer

from event_consumer.gaps import Gap, GapKind, Position, can_verify, check, mark, not_the_same
from event_consumer.settings import ConsumerSettings
from event_core.clock import rfc3339
from event_core.errors import ConfigurationError, PlatformError, Unavailable
from event_core.kafka.logs import LogReader
from event_core.postgres import Connection, check_schema, open_pool, opened, unavailable
from event_core.settings import load
from event_core.source import Log
from event_core.sqlfiles import load_sql
from event_core.topics import TopicPartition

GROUP_OFFSETS = load_sql("event_consumer.sql", "group_offsets")
RESET_OFFSET = load_sql("event_consumer.sql", "reset_offset")

EPILOG = """
Exit codes: 0 done; 1 it cannot be done (Kafka or PostgreSQL is away, no such partition or offset, moved meanwhile); 2 wrong
usage.
"""
DIFFERENT_LOG = (GapKind.CLUSTER, GapKind.BEYOND_END, GapKind.RECREATED)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Show where the consumer reads on in each partition, and decide it anew.",
    epilog=EPILOG,
)


class Refused(Exception):
    """What was asked cannot be done; the message says why and what can."""


class Seen(NamedTuple):
    """One partition, in the database and in Kafka; None where it is not there."""

    partition: TopicPartition
    position: Position | None
    log: Log | None
    gap: Gap | None

    @property
    def lag(self) -> int | None:
        if self.position is None or self.log is None:
            return None
        return max(0, self.log.end - self.position.next_offset)


class Move(NamedTuple):
    """A partition that is to be read on at ``to``."""

    partition: TopicPartition
    expected: int
    to: int
    skipped: int
    """Records that will not be read."""
    again: int
    """Records that were read before."""


def planned(seen: Seen, to: str) -> Move:
    """What setting ``seen`` to ``to`` (earliest, latest or an offset) means.

    Raises:
        Refused: the partition was never read or is not in Kafka, or the offset is not in its log.
    """
    name, position, log = seen.partition, seen.position, seen.log
    if log is None:
        raise Refused(f"Kafka has no partition {name}: correct --topic and --partition (`show` lists them)")
    if position is None:
        raise Refused(f"{name} was never read by this group: there is nothing to reset (is KAFKA_GROUP_ID right?)")
    if to == "earliest":
        offset = log.begin
    elif to == "latest":
        offset = log.end
    else:
        offset = int(to)
    if not log.begin <= offset <= log.end:
        raise Refused(f"{name} has no offset {offset}: its log goes from {log.begin} to {log.end}; choose one of these")
    if seen.gap is not None and seen.gap.kind in DIFFERENT_LOG:
        return Move(name, position.next_offset, offset, offset - log.begin, 0)
    moved = offset - position.next_offset
    return Move(name, position.next_offset, offset, max(0, moved), max(0, -moved))


class Desk:
    """The database and Kafka, as the settings name them."""

    def __init__(self, settings: ConsumerSettings, connection: Connection, reader: LogReader) -> None:
        self._settings = settings
        self._connection = connection
        self._reader = reader
        self.cluster_id = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, settings: ConsumerSettings) -> AsyncGenerator[Desk]:
        """Raises BrokerUnavailable and DatabaseUnavailable."""
        async with contextlib.AsyncExitStack() as stack:
            pool = await stack.enter_async_context(opened(open_pool(settings, size=1, application="tools.offsets")))
            try:
                connection = await stack.enter_async_context(pool.acquire())
                await check_schema(connection)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise unavailable(error, settings) from error
            yield cls(settings, connection, await stack.enter_async_context(LogReader.opened(settings)))

    async def look(self) -> list[Seen]:
        """Every partition of the platform's topics, and of those that the group has read."""
        rows = await self._connection.fetch(GROUP_OFFSETS, self._settings.kafka_group_id)
        positions = {TopicPartition(topic, partition): Position(*rest) for topic, partition, *rest in rows}
        ours = {self._settings.kafka_topic, self._settings.kafka_product_topic, self._settings.dlq_topic}
        logs = await self._reader.logs(sorted(ours | {partition.topic for partition in positions}))
        self.cluster_id = logs.cluster_id
        gaps: dict[TopicPartition, Gap] = {}
        unsure: dict[TopicPartition, int] = {}
        for partition, position in positions.items():
            if (log := logs.of.get(partition)) is None:
                continue
            if (gap := check(position, log, logs.cluster_id)) is not None:
                gaps[partition] = gap
            elif can_verify(position, log):
                unsure[partition] = position.next_offset - 1
        for partition, record in (await self._reader.first_records(unsure)).items():
            if record.offset == unsure[partition] and mark(record) != positions[partition].last_mark:
                gaps[partition] = not_the_same(positions[partition])
        return [
            Seen(partition, positions.get(partition), logs.of.get(partition), gaps.get(partition))
            for partition in sorted(positions.keys() | logs.of.keys())
        ]

    async def carry_out(self, moves: Sequence[Move]) -> None:
        """All of ``moves`` or, where one offset was moved meanwhile, none. Raises Refused."""
        async with self._connection.transaction():
            for partition, expected, to, skipped, _ in sorted(moves):
                row = (self._settings.kafka_group_id, *partition)
                if await self._connection.fetchval(RESET_OFFSET, *row, expected, to, skipped) is None:
                    raise Refused(
                        f"{partition} was moved meanwhile, nothing was changed: look again, then decide again"
                    )


# --- the commands

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog=EPILOG)
def show(as_json: Json = False) -> None:
    """Show each partition: stored offset, what its log holds, lag, and why it is not read on where it is not."""

    async def work(settings: ConsumerSettings) -> None:
        async with Desk.opened(settings) as desk:
            seen = await desk.look()
        if as_json:
            _print_json(
                {
                    "group": settings.kafka_group_id,
                    "cluster_id": desk.cluster_id,
                    "partitions": [_as_json(each) for each in seen],
                }
            )
            return
        typer.echo(f"group {settings.kafka_group_id}, cluster {desk.cluster_id}")
        _print_table(
            ("partition", "next offset", "log begins", "log ends", "lag", "last record"), [_row(each) for each in seen]
        )
        for each in seen:
            if each.gap is not None:
                typer.echo(f"{each.partition} is not read on ({each.gap.kind.value}): {each.gap.explanation}")
            elif each.log is None:
                typer.echo(f"{each.partition} is not in Kafka (any more)")
        if any(each.gap for each in seen):
            typer.echo(
                "decide with: python -m tools.offsets reset --all-gaps --to earliest (or latest); --dry-run shows"
            )

    _run(work)


@app.command(epilog=EPILOG)
def reset(
    to: Annotated[str, typer.Option(help="earliest, latest, or an offset.", metavar="earliest|latest|OFFSET")],
    topic: Annotated[
        str | None, typer.Option(help="The topic; with --partition only that one of its partitions.")
    ] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="The partition.")] = None,
    all_gaps: Annotated[bool, typer.Option("--all-gaps", help="Every partition that is not read on.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Read on elsewhere. A running consumer takes it up by itself; what it reads again it knows by its event_id."""

    async def work(settings: ConsumerSettings) -> None:
        async with Desk.opened(settings) as desk:
            moves = [planned(each, to) for each in _chosen(await desk.look(), topic, partition, all_gaps=all_gaps)]
            if not as_json:
                for move in moves:
                    typer.echo(_said(move))
            if moves and not dry_run:
                _ask(yes)
                await desk.carry_out(moves)
        if as_json:
            done = [
                {**move.partition._asdict(), **move._asdict(), "partition": move.partition.partition} for move in moves
            ]
            _print_json({"group": settings.kafka_group_id, "changed": bool(moves) and not dry_run, "partitions": done})
        else:
            typer.echo(
                "no partition has a gap: nothing to do" if not moves else "nothing was changed" if dry_run else "done"
            )

    if to not in ("earliest", "latest") and not to.isdecimal():
        raise typer.BadParameter(f"{to!r} is not earliest, latest or an offset", param_hint="--to")
    if all_gaps == (topic is not None) or (all_gaps and partition is not None):
        raise typer.BadParameter("say either --topic (and --partition), or --all-gaps")
    if to.isdecimal() and partition is None:
        raise typer.BadParameter("an offset is of one partition: say --topic and --partition, or --to earliest|latest")
    _run(work)


def _chosen(seen: Sequence[Seen], topic: str | None, partition: int | None, *, all_gaps: bool) -> list[Seen]:
    if all_gaps:
        return [each for each in seen if each.gap is not None]
    of_topic = [each for each in seen if each.partition.topic == topic]
    if not of_topic:
        known = ", ".join(sorted({each.partition.topic for each in seen})) or "none"
        raise Refused(
            f"the topic {topic} is none of the events', nor was it ever read by this group (known: {known}). Offsets of sales are"
            " Kafka's own: see event_consumer/sales/README.md, Gaps"
        )
    if partition is None:
        return [each for each in of_topic if each.position is not None] or of_topic
    return [each for each in of_topic if each.partition.partition == partition] or [
        Seen(TopicPartition(topic or "", partition), None, None, None)
    ]


def _ask(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused("nothing was changed: say --yes where nobody can be asked")
    if not typer.confirm("do it?", err=True):
        raise Refused("nothing was changed")


def _said(move: Move) -> str:
    what = [
        f"{count} {'record' if count == 1 else 'records'} {fate}"
        for count, fate in ((move.skipped, "will be skipped"), (move.again, "will be read again"))
        if count
    ]
    return f"{move.partition}: from {move.expected} to {move.to}: {' and '.join(what) or 'nothing is skipped or read again'}"


def _row(seen: Seen) -> tuple[str, ...]:
    position, log = seen.position, seen.log
    at = position.last_record_at if position else None
    cells = (position and position.next_offset, log and log.begin, log and log.end, seen.lag)
    return (str(seen.partition), *("-" if cell is None else str(cell) for cell in cells), rfc3339(at) if at else "-")


def _as_json(seen: Seen) -> dict[str, Any]:
    position, log, gap = seen.position, seen.log, seen.gap
    return {
        **seen.partition._asdict(),
        "next_offset": position.next_offset if position else None,
        "log_begin": log.begin if log else None,
        "log_end": log.end if log else None,
        "lag": seen.lag,
        "cluster_id": position.cluster_id if position else None,
        "last_record_at": rfc3339(position.last_record_at) if position and position.last_record_at else None,
        "gap": {"kind": gap.kind.value, "explanation": gap.explanation} if gap else None,
    }


def _print_json(what: dict[str, Any]) -> None:
    typer.echo(orjson.dumps(what, option=orjson.OPT_INDENT_2).decode())


def _print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        first, *rest = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        typer.echo("  ".join((first, *rest)).rstrip())


def _run(work: Callable[[ConsumerSettings], Awaitable[None]]) -> None:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it would say, ours say better

    async def told() -> None:
        settings = load(ConsumerSettings)
        try:
            await work(settings)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise unavailable(error, settings) from error

    try:
        asyncio.run(told())
    except ConfigurationError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(2) from None
    except Refused as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except PlatformError as error:
        remedy = " (start it with `make up`, or wait and try again)" if isinstance(error, Unavailable) else ""
        typer.echo(f"{error.message}{remedy}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app(prog_name="python -m tools.offsets")
