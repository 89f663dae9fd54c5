"""The process supervisor (supervisord): its configuration, its start, and talking to it over its Unix socket."""

import hashlib
import http.client
import os
import socket
import stat
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tools.stack.errors import StackError
from tools.stack.processes import MEMBER_VARIABLE, PROGRAM_VARIABLE, SUPERVISOR
from tools.stack.program import Program

# A Unix socket's address holds 107 bytes, and supervisord first binds a name with its pid appended.
LONGEST_SOCKET = 95
STOP_SECONDS = 35
NO_SUCH_PROGRAM, NOT_RUNNING, ALREADY_STARTED = 10, 70, 60  # supervisor.xmlrpc.Faults


@dataclass(frozen=True, slots=True)
class ProgramState:
    """What the supervisor says of a program. `state` is one of its names: RUNNING, EXITED, STOPPED, ..."""

    name: str
    state: str
    pid: int | None
    seconds: int
    """Since the last start."""
    exit_status: int


def socket_path(home: Path) -> Path:
    """The supervisor's socket: in the home directory or, where that path is too long, in a private folder."""
    direct = home / "supervisor.sock"
    if len(os.fsencode(direct)) <= LONGEST_SOCKET:
        return direct
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    # Not TMPDIR: the next command may run with another one, and has to find the socket.
    folder = Path("/tmp") / f"local-stack-{os.geteuid()}-{digest}"  # noqa: S108 - made private, and checked to be
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StackError(f"{folder} is not a private folder of this user.", f"Remove it: rm -r {folder}")
    return folder / "supervisor.sock"


def render(programs: Sequence[Program], home: Path) -> str:
    """supervisord's configuration. Its paths are relative to the home directory, from where supervisord is started, so
    that no path has to be quoted; the programs' own settings are in their launchers."""
    sections = [
        f"""\
; Written by `make up` at every start: changes here are lost.
[supervisord]
logfile=logs/supervisord.log
logfile_maxbytes=1MB
logfile_backups=1
pidfile=supervisord.pid
childlogdir=logs
minfds=1
{"user=root" if os.geteuid() == 0 else ""}

[unix_http_server]
file={str(socket_path(home)).replace("%", "%%")}
chmod=0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
    ]
    # startsecs=0: every start counts as a success, so that there is no growing pause and no giving up.
    sections += [
        f"""\
[program:{program.name}]
command=/bin/sh run/{program.name}.sh
environment=LOCAL_STACK_REVISION="{program.revision(home)}"
priority={program.priority}
startsecs=0
startretries=1000000000
autorestart={"unexpected" if program.one_shot or program.may_end else "true"}
exitcodes=0
stopsignal={program.stop_signal}
stopwaitsecs={STOP_SECONDS}
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{program.name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""
        for program in programs
    ]
    return "\n".join(sections)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__()
        self._path = path
        self._timeout = timeout

    def make_connection(self, host: object) -> http.client.HTTPConnection:
        # A connection for each call: the supervisor may have been replaced since the last one.
        connection = http.client.HTTPConnection("localhost", timeout=self._timeout)
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix.settimeout(self._timeout)
        try:
            unix.connect(str(self._path))
        except OSError:
            unix.close()
            raise
        connection.sock = unix
        self._connection = "localhost", connection  # where close() looks
        return connection


class Supervisor:
    """The supervisor of one home directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.pid_file = home / "supervisord.pid"

    def _call(self, method: str, *arguments: object) -> Any:
        with xmlrpc.client.ServerProxy(
            "http://localhost", transport=_UnixTransport(socket_path(self.home), 15.0)
        ) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    def alive(self) -> bool:
        """Whether it answers."""
        try:
            self._call("getPID")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False
        return True

    def launch(self, environ: Mapping[str, str]) -> None:
        """Starts it in the background; it starts all its programs. It keeps neither this terminal nor any open file."""
        environment = {**environ, MEMBER_VARIABLE: str(self.home), PROGRAM_VARIABLE: SUPERVISOR}
        # supervisord turns itself into a daemon and the command returns, so that no caller has a child to reap.
        result = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", "supervisord.conf"],
            cwd=self.home,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise StackError(f"The supervisor did not start:\n{(result.stdout + result.stderr)[-2000:]}")
        deadline = time.monotonic() + 15.0
        while not self.alive():
            if time.monotonic() > deadline:
                raise StackError("The supervisor does not answer.", f"See {self.home / 'logs' / 'supervisord.log'}.")
            time.sleep(0.05)

    def states(self) -> dict[str, ProgramState]:
        """The state of every program that it knows."""
        found = {}
        for info in cast("list[dict[str, Any]]", self._call("getAllProcessInfo")):
            running = info["pid"] or None
            seconds = max(0, int(info["now"]) - int(info["start"])) if running else 0
            name = str(info["name"])
            found[name] = ProgramState(name, str(info["statename"]), running, seconds, int(info["exitstatus"]))
        return found

    def start(self, name: str) -> None:
        """Starts a program; one that runs already is left alone."""
        self._ignoring(ALREADY_STARTED, "startProcess", name, False)

    def stop(self, names: Sequence[str]) -> None:
        """Stops programs, all at once, and returns when they have ended."""
        deadline = time.monotonic() + STOP_SECONDS + 15.0
        while time.monotonic() < deadline:
            states = self.states()
            left = [states[name] for name in names if name in states and states[name].state != "STOPPED"]
            # A program that ended well and may, and one that gave up, are not coming back.
            left = [
                state
                for state in left
                if state.state != "FATAL" and not (state.state == "EXITED" and state.exit_status == 0)
            ]
            if not left:
                return
            for state in left:
                # EXITED: about to be started again, so it is asked again until it can be told to stop.
                if state.state != "STOPPING":
                    self._ignoring(NOT_RUNNING, "stopProcess", state.name, False)
            time.sleep(0.05)
        raise StackError(f"{', '.join(names)} did not stop.", "See `make logs`; then try `make down` again.")

    def update(self, order: Sequence[str]) -> list[str]:
        """Follows a changed configuration: programs that changed are restarted, new ones started, others removed.

        `order` names all programs in the order of their start; they are stopped the other way round. Returns the names
        of the programs that were touched.
        """
        [[added, changed, removed]] = cast("list[list[list[str]]]", self._call("reloadConfig"))
        for name in sorted([*changed, *removed], key=order.index, reverse=True):
            self.stop([name])
            self._call("removeProcessGroup", name)
        for name in sorted([*added, *changed], key=order.index):
            self._call("addProcessGroup", name)
        return sorted([*added, *changed, *removed], key=order.index)

    def shutdown(self) -> None:
        """Ends the supervisor and whatever it still runs. Does not wait."""
        self._call("shutdown")

    def _ignoring(self, code: int, method: str, *arguments: object) -> None:
        try:
            self._call(method, *arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == NO_SUCH_PROGRAM:
                raise StackError(f"The stack runs no program called {arguments[0]}.") from fault
            if fault.faultCode != code:
                raise
