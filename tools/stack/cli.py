"""The stack at the keyboard: up, down, status, logs, restart, clean, doctor, for the local stack and for Compose."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tools.stack import doctor as examination
from tools.stack import logs as log_files
from tools.stack import ports
from tools.stack.compose import Compose, Memory, choose, requested
from tools.stack.config import ALL_PROGRAMS, DEFAULTS, REPOSITORY, SERVERS, StackConfig, read_stack_choice
from tools.stack.errors import StackError
from tools.stack.stack import LocalStack

app = typer.Typer(
    help="Runs the platform on this machine: Kafka, PostgreSQL, a MongoDB server and the services, without Docker "
    "(STACK=compose uses Docker Compose instead). State and logs are in .local/.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False, soft_wrap=True)
COLOURS = ("green", "yellow", "magenta", "cyan", "blue", "red", "bright_magenta", "bright_green", "bright_black")

Home = Annotated[
    Path,
    typer.Option(
        "--home", envvar="LOCAL_STACK_HOME", help="Where the local stack keeps its state.", show_default=".local"
    ),
]
Program = Annotated[str, typer.Argument(help=f"One of {', '.join(ALL_PROGRAMS)}.")]
DEFAULT_HOME = REPOSITORY / ".local"


def report(line: str) -> None:
    """Prints one line of progress."""
    out.print(f"  {line}", markup=False)


def local_stack(home: Path, programs: Sequence[str] = ALL_PROGRAMS) -> LocalStack:
    """The stack of a home directory, with the settings of the environment and of .env."""
    return LocalStack(StackConfig.for_home(home, programs=programs), report)


def chosen(home: Path, default: str = "local", *, heed_memory: bool = True) -> str:
    """ "compose" or "local"."""
    remembered = Memory(home).read() if heed_memory else None
    stack = requested(read_stack_choice(os.environ), remembered=remembered, default=default)
    if stack != "auto":
        return stack
    if remembered:
        return remembered
    choice = choose(Compose(REPOSITORY), local_is_up=local_stack(home).is_up(), report=report)
    report(f"using the {choice.stack} stack: {choice.reason}")
    return choice.stack


def bring_up(home: Path, stack: str, timeout: float, *, servers_only: bool = False) -> None:
    """Brings a stack up and waits until it is ready; with `servers_only` without the platform's own services."""
    if stack == "compose":
        compose = Compose(REPOSITORY)
        if local_stack(home).is_up():
            raise StackError("The local stack is up, on the same ports.", "First: make down STACK=local")
        if not compose.running():
            uses = compose.port_uses()
            ports.require_distinct(uses)
            taken = ports.taken(uses, host="127.0.0.1", own=lambda process: False)
            ports.refuse(taken, "make up STACK=compose", uses)
        options = ["--detach", "--build", "--wait", "--wait-timeout", str(int(timeout) + 90)]
        code = compose.call("up", *options, *(SERVERS if servers_only else ()))
        if code:
            raise StackError("Docker Compose did not bring the platform up.", "See above, and: make logs STACK=compose")
    else:
        local_stack(home, SERVERS if servers_only else ALL_PROGRAMS).up(timeout)
    Memory(home).write(stack)


@app.command()
def up(
    home: Home = DEFAULT_HOME,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each program.")] = 90.0,
    servers_only: Annotated[
        bool, typer.Option("--servers-only", help="Only Kafka, Postgres and MongoDB, without the services.")
    ] = False,
) -> None:
    """Start everything and wait until it is ready. Safe to repeat; follows changed settings."""
    began = time.monotonic()
    # Compose holds the ports as long as it is up, so `make up` after a `make run` that chose it means that one.
    stack = chosen(home, heed_memory=Memory(home).read() == "compose" and Compose(REPOSITORY).running())
    bring_up(home, stack, timeout, servers_only=servers_only)
    what = "Kafka, Postgres and MongoDB are up" if servers_only else "The platform is up"
    out.print(f"[green]{what}[/] ({stack} stack, {time.monotonic() - began:.1f} s).")
    if stack == "local":
        config = StackConfig.for_home(home)
        for name, address in {**({} if servers_only else services_of(config)), **servers_of(config)}.items():
            out.print(f"  {name:<11}{address}", markup=False)
    if servers_only:
        out.print(
            "Next: .venv/bin/python -m event_consumer sales (or another service), make status, make logs, make down."
        )
    else:
        out.print("Next: make run (sends events and counts them), make status, make logs, make down.")


def services_of(config: StackConfig) -> dict[str, str]:
    """Where a person finds each service of the local stack."""
    first, *others = config.ingestion_ports
    also = f"  (also {', '.join(map(str, others))})" if others else ""
    return {
        "ingestion": f"http://{config.reach}:{first}/docs{also}",
        "analytics": f"http://{config.reach}:{config.analytics_port}/docs",
        "consumer": f"http://{config.reach}:{config.consumer_port}/health",
        "sales": f"http://{config.reach}:{config.sales_port}/health",
    }


def servers_of(config: StackConfig) -> dict[str, str]:
    """The addresses of the local stack's servers, with their passwords only as long as those are the public ones."""
    postgres_is_public = config.postgres_password == DEFAULTS["POSTGRES_PASSWORD"]
    mongo_is_public = config.mongo_password == DEFAULTS["MONGO_PASSWORD"]
    return {
        "Kafka": config.kafka_bootstrap,
        "Postgres": config.database_url if postgres_is_public else config.url_without_password,
        "MongoDB": config.mongodb_url if mongo_is_public else config.mongodb_url_without_password,
    }


@app.command()
def down(home: Home = DEFAULT_HOME) -> None:
    """Stop everything. No process is left, and the data is kept."""
    stack = chosen(home)
    if stack == "compose":
        if Compose(REPOSITORY).call("down"):
            raise StackError("Docker Compose did not stop.", "See above.")
    else:
        local_stack(home).down()
    Memory(home).write(None)
    out.print(f"The {stack} stack is down; its data is kept.")


@app.command()
def status(
    home: Home = DEFAULT_HOME,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 unless everything is ready.")] = False,
) -> None:
    """Show each program: state, pid, uptime, ports, and whether it is ready."""
    if chosen(home) == "compose":
        raise typer.Exit(Compose(REPOSITORY).call("ps", "--all"))
    rows = local_stack(home).status()
    table = Table("program", "state", "pid", "up for", "ports", "ready", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        ready = "[green]yes[/]" if row.ready else "[red]no[/]"
        uptime = f"{row.uptime // 3600}:{row.uptime // 60 % 60:02}:{row.uptime % 60:02}" if row.pid else ""
        table.add_row(row.program, row.state, str(row.pid or ""), uptime, ", ".join(map(str, row.ports)), ready)
    out.print(table)
    for row in rows:
        if not row.ready and row.state != "down":
            out.print(f"{row.program}: {row.reason}", markup=False)
    if check and not all(row.ready for row in rows):
        raise typer.Exit(1)


@app.command()
def logs(
    program: Annotated[str, typer.Argument(help="Only this program; else all.")] = "",
    home: Home = DEFAULT_HOME,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines of each log to begin with.")] = 20,
) -> None:
    """Show the end of every program's log."""
    if chosen(home) == "compose":
        options = [f"--tail={lines}", *(["--follow"] if follow else []), *([program] if program else [])]
        raise typer.Exit(Compose(REPOSITORY).call("logs", *options))
    config = StackConfig.for_home(home)
    names = (*ALL_PROGRAMS, "supervisord")
    if program and program not in names:
        raise StackError(f"No program is called {program}.", f"There are: {', '.join(names)}.")
    wanted = [name for name in names if name in (program or name)] if not program else [program]
    width = max(map(len, wanted))

    def emit(name: str, line: str) -> None:
        # Not through rich: a line of a log is shown as it is, whatever it holds.
        colour = COLOURS[names.index(name)]
        with out.capture() as prefix:
            out.print(f"[{colour}]{name:<{width}} |[/] ", end="")
        sys.stdout.write(f"{prefix.get()}{line}\n")
        sys.stdout.flush()

    try:
        log_files.show({name: config.log(name) for name in wanted}, lines, emit, follow=follow)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command()
def restart(program: Program, home: Home = DEFAULT_HOME) -> None:
    """Stop one program, start it, and wait until it is ready; for example after a change of its code."""
    if program not in ALL_PROGRAMS:
        raise StackError(f"No program is called {program}.", f"There are: {', '.join(ALL_PROGRAMS)}.")
    if chosen(home) == "compose":
        raise typer.Exit(Compose(REPOSITORY).call("restart", program))
    local_stack(home).restart(program)


@app.command()
def clean(
    home: Home = DEFAULT_HOME,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop everything and delete its data and logs. The downloaded jars stay."""
    stack = chosen(home)
    what = f"in {home}" if stack == "local" else "in the containers' volumes"
    if not yes:
        if not sys.stdin.isatty():
            raise StackError(
                "This deletes all events and sales, and there is nobody to ask.", "Say so: make clean YES=1"
            )
        typer.confirm(f"Delete all events, sales, topics and logs of the {stack} stack, {what}?", abort=True)
    if stack == "compose":
        if Compose(REPOSITORY).call("down", "--volumes", "--remove-orphans"):
            raise StackError("Docker Compose did not clean up.", "See above.")
    else:
        local_stack(home).clean()
    Memory(home).write(None)
    out.print(f"The {stack} stack is down, and its data is gone.")


@app.command()
def doctor(home: Home = DEFAULT_HOME) -> None:
    """Check programs, versions, ports, disk and memory: what is missing, and how to get it."""
    stack = requested(read_stack_choice(os.environ), remembered=None, default="auto")
    checks = examination.examine(local_stack(home))
    table = Table("", "what", "found", box=None, pad_edge=False, header_style="bold")
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[red]no[/]" if check.needed_by else "[yellow]--[/]"
        table.add_row(mark, check.name, check.found)
    out.print(table)
    for check in checks:
        if not check.ok:
            out.print(f"{check.name}: {check.remedy}", markup=False)
    able, sentence = examination.verdict(checks, stack)
    out.print(f"[{'green' if able else 'red'}]{sentence}[/]")
    if not able:
        raise typer.Exit(1)


def fail(error: StackError) -> None:
    """Prints an error with its remedy, and ends the command with 1."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    errors.print(f"[bold red]{'error:'}[/] ", end="")
    errors.print(error.message, markup=False)
    if error.remedy:
        errors.print(error.remedy, markup=False, style="bold")
    sys.exit(1)


def quieten() -> None:
    """While the broker starts, its client complains about every try; we say what we wait for ourselves."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def main() -> None:
    """Runs the command line."""
    quieten()
    try:
        app()
    except StackError as error:
        fail(error)
