"""Finding and ending processes, by what /proc says of them. Where there is no /proc nothing is found and nothing ended.

Every process of a stack carries `MEMBER_VARIABLE=<its home directory>` and `PROGRAM_VARIABLE=<its program>` in its
environment. So members are found even when their supervisor is gone, and a recycled pid is never mistaken for one.
"""

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MEMBER_VARIABLE = "LOCAL_STACK_MEMBER"
PROGRAM_VARIABLE = "LOCAL_STACK_PROGRAM"
SUPERVISOR = "supervisord"
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process when looked at; `started` (clock ticks since boot) tells it from a later one of the same pid."""

    pid: int
    started: int
    command: tuple[str, ...]

    @property
    def short_command(self) -> str:
        """The command line, cut to a readable length."""
        text = " ".join(self.command)
        return text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True, slots=True)
class Member:
    """A process that belongs to a stack, and its program ("supervisord" for the supervisor itself)."""

    process: Process
    program: str


def pids() -> Iterator[int]:
    """The pids of all visible processes."""
    try:
        names = os.listdir(PROC)
    except OSError:
        return
    yield from (int(name) for name in names if name.isdigit())


def read(pid: int) -> Process | None:
    """The process with this pid; None when there is none or only its unreaped remains."""
    try:
        # The name in parentheses may itself hold spaces and parentheses.
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        command = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return None
    if fields[0] in ("Z", "X"):
        return None
    return Process(pid, int(fields[19]), tuple(os.fsdecode(part) for part in command.rstrip(b"\0").split(b"\0")))


def alive(process: Process) -> bool:
    """Whether this very process still runs."""
    now = read(process.pid)
    return now is not None and now.started == process.started


def _environment(pid: int) -> dict[str, str]:
    try:
        raw = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in raw.split(b"\0"))
    return {name: value for name, _, value in pairs}


def _is_postgres_of(process: Process, data: Path) -> bool:
    """PostgreSQL's children write their titles over their environment, but all of them work in the data directory."""
    command = process.command
    if command and os.path.basename(command[0]) == "postgres" and ("-D", str(data)) in itertools.pairwise(command):
        return True
    if not command or not command[0].startswith("postgres"):
        return False
    try:
        return os.readlink(PROC / str(process.pid) / "cwd") == str(data)
    except OSError:
        return False


def members(home: Path, postgres_data: Path) -> list[Member]:
    """The live processes that belong to the stack of this home directory, without the calling one."""
    found = []
    for pid in pids():
        process = read(pid) if pid != os.getpid() else None
        if process is None:
            continue
        environment = _environment(pid)
        if environment.get(MEMBER_VARIABLE) == str(home):
            found.append(Member(process, environment.get(PROGRAM_VARIABLE, SUPERVISOR)))
        elif _is_postgres_of(process, postgres_data):
            found.append(Member(process, "postgres"))
    return found


def wait_gone(gone: Sequence[Process], timeout: float) -> list[Process]:
    """Waits up to `timeout` seconds for the processes to end; returns those that still run."""
    deadline = time.monotonic() + timeout
    while True:
        left = [process for process in gone if alive(process)]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def end(group: Sequence[Process], how: signal.Signals, grace: float) -> None:
    """Asks the processes to end with a signal, and kills those that have not within `grace` seconds."""
    _signal(group, how)
    left = wait_gone(group, grace)
    _signal(left, signal.SIGKILL)
    wait_gone(left, 5.0)


def end_in_order(found: Callable[[], Sequence[Member]], order: Sequence[str], grace: float) -> int:
    """Ends the members that `found` gives, program after program; returns how many there were.

    `order` names the programs to end last, the last of all at its end; programs it does not name go first, together.
    `found` is asked again for each step, as members may have ended, or started others, meanwhile.
    """
    ended = 0
    for step in ("", *order):
        group = [member for member in found() if (member.program == step if step else member.program not in order)]
        ended += len(group)
        # PostgreSQL reads SIGINT as "roll back, write a checkpoint, stop"; SIGTERM would wait for its clients.
        how = signal.SIGINT if step == "postgres" else signal.SIGTERM
        end([member.process for member in group], how, grace)
    return ended


def _signal(group: Sequence[Process], number: signal.Signals) -> None:
    for process in group:
        if alive(process):
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue
