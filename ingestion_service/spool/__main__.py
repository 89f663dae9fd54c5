"""``python -m ingestion_service.spool``: what is in the disk buffer. Only reads; works while the service runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final, TextIO

from event_core.codec import Record
from event_core.errors import ConfigurationError
from event_core.settings import load
from ingestion_service.settings import IngestionSettings
from ingestion_service.spool import columns, disk, files, quarantine, view
from ingestion_service.spool.journal import LOG_SUFFIX
from ingestion_service.spool.text import as_json, from_json
from ingestion_service.spool.view import Seen

FOUND_DAMAGE: Final = 3
_PROGRESS_SECONDS: Final = 2.0
_EPILOG: Final = """\
examples:
  python -m ingestion_service.spool list
  python -m ingestion_service.spool show slot-0/000001.journal --limit 5
  python -m ingestion_service.spool export --output events.jsonl

A lane is a twelfth of a topic's keys: Kafka's partition is decided when an event is sent.

exit codes: 0 done; 1 the folder or file cannot be read; 2 wrong usage; 3 done, but something is damaged
"""


class Problems:
    """Tells what is damaged on standard error, once each."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def __call__(self, problem: str) -> None:
        if problem not in self.told:
            self.told.add(problem)
            _say(f"warning: {problem}")


class Failure(Exception):
    """The command cannot do what was asked; the message says why."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    options = _parser().parse_args(arguments)
    problems = Problems()
    try:
        directory: Path = options.directory or _directory()
        if not directory.is_dir():
            raise Failure(
                f"{directory} is no folder: name it with --directory, or set BUFFER_DIR as the service has it"
            )
        options.command(directory, options, problems)
        sys.stdout.flush()
    except Failure as failure:
        _say(f"error: {failure}")
        return 1
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return FOUND_DAMAGE if problems.told else 0


def _directory() -> Path:
    try:
        directory = load(IngestionSettings).buffer_dir
    except ConfigurationError as error:
        raise Failure(f"{error.message}; or name the folder with --directory") from error
    if directory is None:
        raise Failure("BUFFER_DIR is set to nothing, which turns the buffer off: name a folder with --directory")
    return directory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ingestion_service.spool",
        description="Looks into the disk buffer of the ingestion service. Only reads; the service may run meanwhile.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--directory",
        type=Path,
        help="the buffer's folder (default: BUFFER_DIR as the service reads it, .env included)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", parents=[common], help="slots, files, sizes, and how many events wait where")
    listing.set_defaults(command=_list)
    show = commands.add_parser("show", parents=[common], help="events, for people to read")
    show.add_argument(
        "file", metavar="FILE|all", help="a file as `list` names it (also of quarantine or damaged), or all"
    )
    show.add_argument("--limit", type=_positive, default=10, metavar="N", help="events to show (default: %(default)s)")
    show.set_defaults(command=_show)
    export = commands.add_parser("export", parents=[common], help="every waiting and quarantined event as JSON lines")
    export.add_argument("--output", type=Path, metavar="PATH", help="where to write (default: standard output)")
    export.set_defaults(command=_export)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return int(text)


def _list(directory: Path, _: argparse.Namespace, problems: Problems) -> None:
    slots = view.slots(directory)
    total = 0
    for slot in slots:
        found = view.summary(slot, columns.unpack, problems)
        waiting = sum(found.waiting.values())
        total += waiting
        owner = f"process {found.owner}" if found.owner is not None else ("orphaned" if found.files else "free")
        print(f"{slot.name}: {owner}; {waiting} events in {len(found.files)} files, {_mib(found.size)}")
        times = sorted(time for time in map(_received, found.ends) if time)
        if times:
            print(f"  received: {times[0]} to {times[-1]}")
        for lane, count in sorted(found.waiting.items()):
            print(f"  {lane.topic} lane {lane.number} of {lane.of}: {count} events")
        for path in found.files:
            print(f"  {path.relative_to(directory)}  {_size(path)}")
    kept = quarantine.files(directory)
    for path in kept:
        print(f"{path.relative_to(directory)}: {sum(1 for _ in _quarantined(path, problems))} events in quarantine")
    for path in _damaged(directory):
        print(f"{path.relative_to(directory)}: damaged, kept aside, {_size(path)}")
    print(f"in all: {total} events wait in {len(slots)} slots")


def _show(directory: Path, options: argparse.Namespace, problems: Problems) -> None:
    left: int = options.limit
    for place, record, note in _chosen(directory, options.file, problems):
        if not left:
            print(f"(the first {options.limit}; --limit shows more)")
            return
        left -= 1
        print(f"{place}{note}")
        print(f"  key      {record.key.decode(errors='replace')!r}")
        for name, value in record.headers:
            print(f"  header   {name}: {value.decode(errors='replace')!r}")
        print(f"  value    {_readable(record.value)}")
    if left == options.limit:
        print("no events")


def _chosen(directory: Path, name: str, problems: Problems) -> Iterator[tuple[str, Record, str]]:
    """Where a record lies, the record, what is said of it."""
    if name == "all":
        for slot in view.slots(directory):
            yield from (_place(directory, seen) for seen in view.waiting(slot, columns.unpack, problems))
        for path in quarantine.files(directory):
            yield from _in_quarantine(directory, path, problems)
        return
    matches = [path for path in (directory / name, Path(name)) if path.is_file()][:1]
    if not matches and Path(name).name == name:
        matches = [path for path in directory.glob(f"*/{name}") if path.is_file()]
    if len(matches) != 1:
        found = ", ".join(str(path.relative_to(directory)) for path in matches)
        raise Failure(
            f"{name} could be each of {found}" if matches else f"{name}: there is no such file in {directory}"
        )
    (path,) = matches
    if path.suffix == quarantine.SUFFIX:
        yield from _in_quarantine(directory, path, problems)
        return
    file = files.named(path) or files.SpoolFile(path, 0, 0)
    yield from (_place(directory, seen) for seen in view.all_of(file, columns.unpack, problems))


def _place(directory: Path, seen: Seen) -> tuple[str, Record, str]:
    path = seen.file.relative_to(directory) if seen.file.is_relative_to(directory) else seen.file
    lane = f"{seen.lane.topic} lane {seen.lane.number} of {seen.lane.of}, number {seen.position}"
    return str(path), seen.record, f": {lane}"


def _in_quarantine(directory: Path, path: Path, problems: Problems) -> Iterator[tuple[str, Record, str]]:
    for line in _quarantined(path, problems):
        note = (
            f": {line['topic']}, {line['reason']} after {line['retry_count']} retries at {line['at']}: {line['error']}"
        )
        yield path.name, from_json(line), note


def _export(directory: Path, options: argparse.Namespace, problems: Problems) -> None:
    written, told = 0, monotonic()
    with _output(options.output) as output:
        for line in _lines(directory, problems):
            output.write(json.dumps(line) + "\n")
            written += 1
            if monotonic() - told > _PROGRESS_SECONDS:
                told = monotonic()
                _say(f"{written} events …")
    for path in _damaged(directory):
        problems(f"{path} is damaged and kept aside; `show {path.relative_to(directory)}` tells what can be read of it")
    _say(f"{written} events exported")


def _lines(directory: Path, problems: Problems) -> Iterator[dict[str, Any]]:
    for slot in view.slots(directory):
        for seen in view.waiting(slot, columns.unpack, problems):
            yield {"topic": seen.lane.topic, "lane": seen.lane.number, **as_json(seen.record)}
    for path in quarantine.files(directory):
        for line in _quarantined(path, problems):
            yield {**line, "quarantined": True}


def _quarantined(path: Path, problems: Problems) -> Iterator[dict[str, Any]]:
    """The lines that are whole; a last one without an end was never acknowledged."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                given = json.loads(line)
                from_json(given)
                yield given
            except (ValueError, KeyError, TypeError):
                problems(f"{path}: line {number} is damaged")


def _damaged(directory: Path) -> list[Path]:
    return sorted(path for path in (directory / view.DAMAGED).glob("*") if path.is_file())


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    with path.open("w", encoding="utf-8") as output:
        yield output


def _readable(value: bytes) -> str:
    try:
        return json.dumps(json.loads(value), indent=2, ensure_ascii=False).replace("\n", "\n           ")
    except ValueError:
        return repr(value.decode(errors="replace"))


def _received(record: Record) -> str | None:
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(record.value)["received_at"])
    return None


def _size(path: Path) -> str:
    return _mib(disk.size_of(path) + disk.size_of(path.with_name(path.name + LOG_SUFFIX)))


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.2f} MiB"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
