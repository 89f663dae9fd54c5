"""``python -m tools.dlq``: look at dead letters, mend them, send them again, give them up."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import typer

from event_consumer.letters.desk import MOST_LISTED, Content, Desk, Full, Summary, with_ids
from event_consumer.letters.errors import BadSelection, CannotReplay, NoSuchLetter
from event_consumer.letters.mend import Mend
from event_consumer.letters.plan import ReplayOptions
from event_consumer.letters.replay import Outcome
from event_consumer.letters.selection import Cursor, Selection, require_narrow
from event_consumer.settings import ConsumerSettings
from event_core.errors import ConfigurationError, DatabaseUnavailable, PlatformError
from event_core.postgres import open_pool, opened
from event_core.settings import load

DONE, FAILED, USAGE, NOTHING, PARTLY = 0, 1, 2, 3, 4
PROGRESS_SECONDS: Final = 2.0
_CODES = (
    "Exit codes: 0 done; 1 the database, Kafka or the ingestion service is away (what was done stays done: run it again); 2 "
    "wrong usage or settings; 3 no letter is meant; 4 done, but some letters were left out or refused again."
)
_SETTINGS = "DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS and INGESTION_URL say where everything is: environment, then .env."

T = TypeVar("T")

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Dead letters: list, show, replay, discard.",
    epilog=f"{_SETTINGS} {_CODES}",
)


class States(StrEnum):
    open = "open"
    replayed = "replayed"
    resolved = "resolved"
    discarded = "discarded"
    any = "any"


Ids = Annotated[list[UUID] | None, typer.Argument(metavar="[ID]...", help="Letters by id.", show_default=False)]
Reason = Annotated[str | None, typer.Option(help="Only this reason, e.g. invalid_event.", show_default=False)]
Topic = Annotated[
    str | None, typer.Option(help="Only what came from this topic, or was meant for it.", show_default=False)
]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant's.", show_default=False)]
EventId = Annotated[UUID | None, typer.Option(help="Only letters of this event.", show_default=False)]
Source = Annotated[
    str | None, typer.Option(help="Only what this service gave up, e.g. ingestion_service.", show_default=False)
]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Failed then or later: 2026-01-31T12:00:00Z.", show_default=False)
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Failed before then.", show_default=False)]
State = Annotated[States, typer.Option(help="What became of them.")]
Everything = Annotated[
    bool, typer.Option("--all", help="All letters of that state: needed where nothing else is given.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Limit = Annotated[int | None, typer.Option(min=1, help="So many letters at most.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable: JSON on standard output.")]


@app.command("list", epilog=_CODES)
def list_letters(
    reason: Reason = None,
    topic: Topic = None,
    tenant: Tenant = None,
    event_id: EventId = None,
    source: Source = None,
    state: State = States.open,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_LISTED, help="So many at most.")] = 50,
    after: Annotated[
        str | None, typer.Option(help="Go on where the page before ended; it says with what.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Letters, the latest first."""

    async def work(desk: Desk) -> int:
        selection = _selection(reason, topic, tenant, event_id, source, state, since, until)
        page = await desk.list(selection, limit=limit, after=Cursor.read(after) if after else None)
        if as_json:
            letters = [letter.model_dump(mode="json") for letter in page.letters]
            typer.echo(json.dumps({"letters": letters, "next": str(page.after) if page.after else None}, indent=2))
        elif page.letters:
            for letter in page.letters:
                typer.echo(_line(letter))
            if page.after:
                _say(f"there are more: --after {page.after}")
        else:
            _say("no letters")
        return DONE

    _run(work)


@app.command("show", epilog=_CODES)
def show_letter(
    letter: Annotated[UUID, typer.Argument(metavar="ID", help="The letter's id, as list shows it.")],
    as_json: Json = False,
) -> None:
    """All of one letter: the original bytes, headers, where it came from and what became of it."""

    async def work(desk: Desk) -> int:
        found = await desk.show(letter)
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2) if as_json else _page(found))
        return DONE

    _run(work)


@app.command("replay", epilog=_CODES)
def replay_letters(
    ids: Ids = None,
    reason: Reason = None,
    topic: Topic = None,
    tenant: Tenant = None,
    event_id: EventId = None,
    source: Source = None,
    state: State = States.open,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    limit: Limit = None,
    to_topic: Annotated[
        str | None,
        typer.Option("--to-topic", help="Send messages there, instead of where they came from.", show_default=False),
    ] = None,
    value_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Mend ONE letter: its new value.", show_default=False),
    ] = None,
    put: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=JSON",
            help="Mend ONE letter: change a field, e.g. metadata.price=9.5 or 'user_id=\"u\"'.",
            show_default=False,
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="PATH", help="Mend ONE letter: take a field out.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also letters that were replayed 5 times or more.")] = False,
    note: Annotated[str | None, typer.Option(help="Kept with the letters.", show_default=False)] = None,
    yes: Yes = False,
) -> None:
    """Send letters again, oldest first: messages to their topic, what the door refused through the door.

    An event keeps its id, so it is stored once however often it is sent. Interrupted, simply run it again: what was sent is no
    longer open. Two at once share the work.
    """

    async def work(desk: Desk) -> int:
        selection = _meant(ids, everything, _selection(reason, topic, tenant, event_id, source, state, since, until))
        value = value_file.read_bytes() if value_file else None
        options = ReplayOptions(
            topics=desk.topics,
            mend=Mend(value, _changes(put or []), drop or []),
            to_topic=to_topic,
            force=force,
            dry_run=dry_run,
            limit=limit,
            note=note,
        )
        if not await _agreed(desk, selection, "replay", limit, ask=not yes and not dry_run):
            return NOTHING
        return _told(await desk.replay(selection, options, _progress()), dry_run=dry_run)

    _run(work)


@app.command("discard", epilog=_CODES)
def discard_letters(
    note: Annotated[str, typer.Option(help="Why; it is kept with the letters.")],
    ids: Ids = None,
    reason: Reason = None,
    topic: Topic = None,
    tenant: Tenant = None,
    event_id: EventId = None,
    source: Source = None,
    state: State = States.open,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    limit: Limit = None,
    yes: Yes = False,
) -> None:
    """Give letters up. They stay in the table, with the note; `replay --state discarded` takes that back."""

    async def work(desk: Desk) -> int:
        if not note.strip():
            raise BadSelection("--note is empty: say why they are given up")
        selection = _meant(ids, everything, _selection(reason, topic, tenant, event_id, source, state, since, until))
        if not await _agreed(desk, selection, "discard", limit, ask=not yes and not dry_run):
            return NOTHING
        outcome = await desk.discard(selection, note, dry_run=dry_run, limit=limit, progress=_progress())
        return _told(outcome, dry_run=dry_run)

    _run(work)


# --- running


def _run(work: Callable[[Desk], Awaitable[int]]) -> None:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it would say of an outage is said below, once
    try:
        code = asyncio.run(_with_desk(load(ConsumerSettings), work))
    except (ConfigurationError, BadSelection, CannotReplay) as error:
        _say(f"error: {error.message}")
        raise typer.Exit(USAGE) from None
    except NoSuchLetter as error:
        _say(f"error: {error.message}")
        raise typer.Exit(NOTHING) from None
    except PlatformError as error:
        _say(f"error: {_with_remedy(error)}")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        _say("interrupted: what was done stays done, run it again for the rest")
        raise typer.Exit(130) from None
    raise typer.Exit(code)


async def _with_desk(settings: ConsumerSettings, work: Callable[[Desk], Awaitable[int]]) -> int:
    async with opened(open_pool(settings, size=2, application="dlq")) as pool:
        return await work(Desk(pool, settings))


def _with_remedy(error: PlatformError) -> str:
    if isinstance(error, DatabaseUnavailable) and "migrate" not in error.message:
        return f"{error.message}. Is it running there? DATABASE_URL says where it is"
    return error.message


# --- what is meant


def _selection(
    reason: str | None,
    topic: str | None,
    tenant: str | None,
    event_id: UUID | None,
    source: str | None,
    state: States,
    since: str | None,
    until: str | None,
) -> Selection:
    return Selection(
        None, reason, topic, tenant, event_id, source, state.value, _time("--since", since), _time("--until", until)
    )


def _time(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise BadSelection(f"{option}: {text} is no time; write it as 2026-01-31T12:00:00Z") from None


def _meant(ids: list[UUID] | None, everything: bool, selection: Selection) -> Selection:
    selection = with_ids(selection, ids or [])
    require_narrow(selection, everything=everything)
    return selection


def _changes(given: list[str]) -> dict[str, Any]:
    changes = {}
    for change in given:
        path, separator, text = change.partition("=")
        if not separator or not path:
            raise BadSelection(f"--set {change}: write it as PATH=JSON, e.g. metadata.price=9.5")
        try:
            changes[path] = json.loads(text)
        except ValueError:
            raise BadSelection(
                f"--set {change}: what is behind the = is no JSON; a text needs its quotes: --set '{path}=\"{text}\"'"
            ) from None
    return changes


async def _agreed(desk: Desk, selection: Selection, verb: str, limit: int | None, *, ask: bool) -> bool:
    """Whether the work is to be done: something is meant and, of more than one letter named by id, a person says so."""
    if selection.ids is not None and len(selection.ids) == 1:
        return True
    found = await desk.count(selection)
    total = sum(found.values())
    if not total and selection.ids is None:
        _say("no letter is meant: `list` with the same filters shows what there is")
        return False
    if not ask:
        return True
    if not sys.stdin.isatty():
        raise BadSelection(f"{total} letters are meant, and nobody can be asked here: say --yes, or --dry-run")
    reasons = ", ".join(f"{reason}: {letters}" for reason, letters in found.items())
    _say(f"{total} letters ({reasons})")
    number = total if limit is None else min(limit, total)
    if await asyncio.to_thread(typer.confirm, f"{verb} {number} of them?", err=True):
        return True
    _say("nothing was done")
    return False


# --- what is said


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _progress() -> Callable[[Outcome], None]:
    told = asyncio.get_running_loop().time()

    def progress(outcome: Outcome) -> None:
        nonlocal told
        now = asyncio.get_running_loop().time()
        if now - told >= PROGRESS_SECONDS:
            told = now
            _say(f"{outcome.seen} letters …")

    return progress


def _told(outcome: Outcome, *, dry_run: bool) -> int:
    would = "would be " if dry_run else ""
    for topic, letters in outcome.sent.items():
        typer.echo(f"{letters} {would}sent to {topic}")
    if outcome.accepted:
        typer.echo(f"{outcome.accepted} {would}{'sent to' if dry_run else 'taken by'} the ingestion service")
    for reason, letters in outcome.refused.items():
        typer.echo(f"{letters} refused by the ingestion service again ({reason}): open, with the new reason")
    if outcome.discarded:
        typer.echo(f"{outcome.discarded} {would}discarded")
    for why, letters in outcome.left_out.items():
        one = next((f", e.g. {letter}" for letter, because in outcome.examples if because == why), "")
        typer.echo(f"{letters} left out{one if letters > 1 else one.replace(', e.g. ', ': ')}: {why}")
    if outcome.busy:
        typer.echo(f"{outcome.busy} left out: somebody else is working on them")
    if outcome.problem is not None:
        _say(f"error: {_with_remedy(outcome.problem)}")
        _say("what was done stays done; run it again for the rest")
        return FAILED
    if not outcome.seen:
        _say("no letter is meant")
        return NOTHING
    if not outcome.complete:
        typer.echo("there are more: run it again, or without --limit")
    return PARTLY if outcome.left_out or outcome.refused or outcome.busy else DONE


def _line(letter: Summary) -> str:
    place = letter.topic if letter.partition is None else f"{letter.topic}-{letter.partition}@{letter.offset}"
    size = "no value" if letter.bytes is None else f"{letter.bytes} bytes"
    replays = f", replayed {letter.retry_count}×" if letter.retry_count else ""
    return (
        f"{letter.dead_letter_id}  {letter.failed_at:%Y-%m-%d %H:%M:%S}Z  {letter.state}{replays}  {letter.reason}  {place}  "
        f"{size}\n    {_printable(letter.error)[:200]}"
    )


def _page(letter: Full) -> str:
    lines = []
    for name, value in letter.model_dump(mode="json", exclude={"key", "value", "headers"}).items():
        if value is not None:
            lines.append(f"{name:<15} {_printable(str(value))}")
    lines.append(f"{'key':<15} {_content(letter.key)}")
    lines += [f"{'header':<15} {_printable(header.name)}: {_content(header.value)}" for header in letter.headers]
    lines.append(f"{'value':<15} {_content(letter.value)}")
    return "\n".join(lines)


def _content(content: Content | None) -> str:
    if content is None:
        return "(none)"
    return _printable(content.data) if content.encoding == "utf-8" else f"(base64) {content.data}"


def _printable(text: str) -> str:
    """``text`` that cannot drive a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def main() -> None:
    app(prog_name="python -m tools.dlq")


if __name__ == "__main__":
    main()
