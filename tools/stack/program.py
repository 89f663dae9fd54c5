"""A supervised program, and the launcher script that the supervisor runs for it."""

import hashlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.stack.processes import MEMBER_VARIABLE, PROGRAM_VARIABLE

Probe = Callable[[], str | None]
"""Asks a program whether it can serve: None when it can, else the reason why not. Answers within about two seconds."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program of the stack."""

    name: str
    command: str
    """One line of shell that ends in `exec ...`, or sets arguments and then does."""
    directory: Path
    priority: int
    """Lower ones start first and stop last."""
    environment: Mapping[str, str] = field(default_factory=dict)
    watched: str = ""
    """Text outside the launcher whose change must restart the program too, e.g. a configuration file."""
    stop_signal: str = "TERM"
    one_shot: bool = False
    """Runs to its end once; restarted only when it fails."""
    may_end: bool = False
    """A service that ends for good, with 0, when it is asked to over its API; restarted when it fails."""
    probe: Probe | None = None
    """None for a one-shot: that is ready when it ended with 0."""

    def launcher(self, home: Path) -> str:
        """The script that becomes the program. Within it, `$0` is the script's own path.

        A program that keeps dying is started at most about once a second, so that a broken one leaves the machine
        usable; the pause does not grow, and there is none for a program that had been running.
        """
        exports = {**self.environment, MEMBER_VARIABLE: str(home), PROGRAM_VARIABLE: self.name}
        lines = [
            "#!/bin/sh",
            "# Written by `make up` at every start: changes here are lost.",
            'now=$(date +%s); last=; [ -f "$0.last" ] && read -r last < "$0.last"',
            'if [ "$last" = "$now" ]; then sleep 0.9; fi',
            'date +%s > "$0.last"',
            # Services hold a socket per client; the usual soft limit of 1024 is for programs that use select().
            'ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"',
            *(f"export {name}={shlex.quote(value)}" for name, value in sorted(exports.items())),
            f"cd -- {shlex.quote(str(self.directory))} || exit 1",
            self.command,
        ]
        return "\n".join(lines) + "\n"

    def revision(self, home: Path) -> str:
        """Changes when the program has to be restarted to follow its settings."""
        return hashlib.sha256((self.launcher(home) + self.watched).encode()).hexdigest()[:16]
