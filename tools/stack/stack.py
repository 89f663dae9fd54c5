"""The local stack: Kafka, PostgreSQL, a MongoDB server, the migration and the services, supervised, without Docker."""

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.stack import broker, database, mongod, ports, processes, services
from tools.stack.config import ALL_PROGRAMS, SERVICES, StackConfig, is_setting
from tools.stack.errors import NotReadyError, StackError
from tools.stack.program import Program
from tools.stack.supervision import STOP_SECONDS, ProgramState, Supervisor, render, socket_path

Report = Callable[[str], None]
"""Takes one line of progress."""

READY_SECONDS = 90.0
# Nobody needs to wait for a program that was started this often (about once a second) and ended each time.
MOST_STARTS = 12
# Of the terminal, of make and of this Python process, none of which the programs should see.
NOT_INHERITED = (
    "MAKE",
    "MFLAGS",
    "PYTEST_",
    "COLUMNS",
    "LINES",
    "OLDPWD",
    "PWD",
    "SHLVL",
    "LOCAL_STACK_",
    "STACK",
    "VIRTUAL_ENV",
)


@dataclass(frozen=True, slots=True)
class Status:
    """One program's row in `make status`."""

    program: str
    state: str
    """The supervisor's word, or "down" where there is no supervisor."""
    pid: int | None
    uptime: int
    """Seconds."""
    ports: tuple[int, ...]
    ready: bool
    reason: str
    """Why it is not ready."""


class LocalStack:
    """One stack, in its home directory. All methods are idempotent, and block until they are done."""

    def __init__(self, config: StackConfig, report: Report = lambda line: None) -> None:
        self.config = config
        self._report = report
        self._supervisor = Supervisor(config.home)

    @property
    def kafka_bootstrap(self) -> str:
        """The broker, as `host:port`."""
        return self.config.kafka_bootstrap

    @property
    def database_url(self) -> str:
        """The superuser's URL of the platform's database."""
        return self.config.database_url

    @property
    def mongodb_url(self) -> str:
        """The URL of the MongoDB server, which names the sales' database."""
        return self.config.mongodb_url

    def is_up(self) -> bool:
        """Whether it was brought up: its supervisor runs, though a program may be down or not ready."""
        return self._supervisor.alive()

    def up(self, timeout: float = READY_SECONDS) -> None:
        """Starts what does not run, restarts what must follow changed settings, waits until every program is ready.

        `timeout` is for each program, in seconds. Raises StackError: a missing program, a taken port, a program
        that is not ready in time.
        """
        with self._locked():
            alive = self._supervisor.alive()
            if not alive and self._end_members():
                self._report("ended the processes that an earlier stack had left behind")
            ports.refuse(self.taken_ports(), "make up", self.config.port_uses())
            programs = self._prepare(fresh=not alive)
            self._write(programs)
            if alive:
                touched = self._supervisor.update(ALL_PROGRAMS)
                if touched:
                    self._report(f"settings changed: restarted or stopped {', '.join(touched)}")
                for name in self._supervisor.states():
                    self._supervisor.start(name)
            else:
                self._supervisor.launch(inherited(os.environ))
            for program in programs:
                self.wait_ready(program.name, timeout)
            if "postgres" in self.config.programs and "migrate" not in self.config.programs:
                database.ensure_database(self.config)

    def down(self) -> None:
        """Stops everything in order: services, Kafka, MongoDB, PostgreSQL. Nothing is lost, and no process is left."""
        with self._locked():
            self._down()

    def _down(self) -> None:
        states = self._supervisor.states() if self._supervisor.alive() else {}
        if states:
            for group in (("migrate", *SERVICES), ("kafka",), ("mongo",), ("postgres",)):
                names = [name for name in group if name in states]
                if names:
                    self._report(f"stopping {', '.join(names)}")
                    self._supervisor.stop(names)
                if "kafka" in names:
                    self._keep_archive(self._supervisor.states()["kafka"])
            self._supervisor.shutdown()
            processes.wait_gone([m.process for m in self._members()], 10.0)
        ended = self._end_members()
        if ended:
            self._report("ended processes that had no supervisor any more")
        if states or ended:
            ports.wait_free({port for given in self._noted_ports().values() for port in given}, 5.0)

    def clean(self) -> None:
        """Stops everything and deletes the data and the logs. The downloaded jars stay."""
        if not self.config.home.is_dir():
            return
        with self._locked():
            self._down()
            files = ("supervisord.conf", "supervisord.pid", "supervisor.sock")
            for name in ("kafka", "mongo", "postgres", "buffer", "logs", "run", *files):
                path = self.config.home / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            socket = socket_path(self.config.home)
            if socket.parent != self.config.home:
                shutil.rmtree(socket.parent)

    def status(self) -> list[Status]:
        """Every program of the stack, in the order of their start."""
        states = self._supervisor.states() if self._supervisor.alive() else {}
        probes = {program.name: program.probe for program in self._programs()} if states else {}
        rows = []
        for name in self.config.programs:
            uses = tuple(use.port for use in self.config.port_uses() if use.program == name)
            state = states.get(name)
            if state is None:
                rows.append(Status(name, "down", None, 0, uses, ready=False, reason="not started"))
                continue
            reason = self._not_ready(state, probes.get(name))
            rows.append(Status(name, state.state.lower(), state.pid, state.seconds, uses, reason is None, reason or ""))
        return rows

    def pid(self, program: str) -> int | None:
        """The pid of a program, None when it does not run at this moment."""
        if not self._supervisor.alive():
            return None
        state = self._supervisor.states().get(program)
        return state.pid if state else None

    def taken_ports(self) -> list[ports.TakenPort]:
        """Those of this stack's ports that somebody else holds."""
        mine = {member.process.pid for member in self._members()}
        states = self._supervisor.states() if self._supervisor.alive() else {}
        noted = self._noted_ports()
        return ports.taken(
            self.config.port_uses(),
            host=self.config.host,
            own=lambda process: process.pid in mine,
            own_ports={port for name, state in states.items() if state.pid for port in noted.get(name, [])},
        )

    def stop(self, program: str) -> None:
        """Stops one program, which then stays down until `start` or `up`."""
        self._require_running()
        self._supervisor.stop([program])

    def start(self, program: str) -> None:
        """Starts one program that was stopped. Does not wait until it is ready."""
        self._require_running()
        self._supervisor.start(program)

    def restart(self, program: str, timeout: float = READY_SECONDS) -> None:
        """Stops a program, starts it, and waits until it is ready."""
        self.stop(program)
        self.start(program)
        self.wait_ready(program, timeout)

    def wait_ready(self, program: str, timeout: float = READY_SECONDS) -> None:
        """Returns once the program can serve. Raises NotReadyError after `timeout` seconds, with its log's end."""
        probe = {p.name: p.probe for p in self._programs()}[program]
        began = time.monotonic()
        next_report = 3.0
        starts: set[int] = set()
        while True:
            state = self._supervisor.states().get(program)
            reason = self._not_ready(state, probe) if state else "not started"
            waited = time.monotonic() - began
            if reason is None:
                self._report(f"{program} {'done' if probe is None else 'ready'} after {waited:.1f} s")
                return
            starts |= {state.pid} if state and state.pid else set()
            if waited > timeout or len(starts) > MOST_STARTS:
                what = f"was not ready after {waited:.0f} s" if waited > timeout else "ends again and again"
                ours = program in SERVICES
                remedy = "See to what its log names, then: make up." if ours else "Without the data so far: make clean."
                raise NotReadyError(
                    f"{program} {what}: {reason}\n{self._end_of_log(program)}",
                    f"More of its log: make logs P={program}. Machine and ports: make doctor. {remedy}",
                )
            if waited > next_report:
                self._report(f"waiting for {program}: {waited:.0f} s ({reason})")
                next_report += 3.0
            time.sleep(0.1)

    def _not_ready(self, state: ProgramState, probe: Callable[[], str | None] | None) -> str | None:
        if probe is None:
            if state.state != "EXITED":
                return f"still {state.state.lower()}"
            return f"ended with {state.exit_status}" if state.exit_status else None
        if state.pid is None:
            # Only one that may end is seen so for longer than a moment.
            return f"ended with {state.exit_status}" if state.state == "EXITED" else state.state.lower()
        return probe()

    def _programs(self) -> list[Program]:
        found: list[Program] = []
        if "postgres" in self.config.programs:
            found.append(database.program(database.find(self.config, os.environ), self.config))
        if "mongo" in self.config.programs:
            found.append(mongod.program(broker.find_java(os.environ), self.config))
        if "kafka" in self.config.programs:
            found.append(broker.program(broker.find_java(os.environ), self.config))
        return found + services.programs(self.config)

    def _prepare(self, *, fresh: bool) -> list[Program]:
        """Makes the data directories of a new stack, both at once: each takes about a second."""
        with ThreadPoolExecutor() as pool:
            jobs = []
            if "postgres" in self.config.programs:
                installation = database.find(self.config, os.environ)
                jobs.append(("PostgreSQL's cluster", pool.submit(database.make_cluster, installation, self.config)))
            if "mongo" in self.config.programs:
                mongod.require_classes(self.config)
                self.config.mongo_data.parent.mkdir(parents=True, exist_ok=True)
            if "kafka" in self.config.programs:
                broker.require_jars(self.config)
                java = broker.find_java(os.environ)
                jobs.append(("Kafka's storage", pool.submit(broker.format_storage, java, self.config)))
        for what, job in jobs:
            if job.result():
                self._report(f"made {what}")
        if fresh:
            database.forget_dead_postmaster(self.config.postgres_data)
        return self._programs()

    def _write(self, programs: Sequence[Program]) -> None:
        home = self.config.home
        for folder in (home / "run", home / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        for program in programs:
            _replace(home / "run" / f"{program.name}.sh", program.launcher(home), 0o700)
        if "kafka" in self.config.programs:
            properties = broker.render_properties(broker.server_properties(self.config))
            _replace(home / "kafka" / "server.properties", properties, 0o644)
        given = {name: [u.port for u in self.config.port_uses() if u.program == name] for name in self.config.programs}
        _replace(home / "run" / "ports.json", json.dumps(given), 0o644)
        _replace(home / "supervisord.conf", render(programs, home), 0o644)

    def _keep_archive(self, kafka: ProgramState) -> None:
        # 143: ended by SIGTERM in Java's own way, with the archive written.
        if kafka.exit_status == 143:
            broker.keep_archive(broker.find_java(os.environ), self.config)

    def _members(self) -> list[processes.Member]:
        return processes.members(self.config.home, self.config.postgres_data)

    def _end_members(self) -> int:
        """Ends processes of this stack that no supervisor answers for, its own hung one first."""
        last = (processes.SUPERVISOR,)
        found = [member.process for member in self._members() if member.program in last]
        processes.end(found, signal.SIGTERM, 2.5 * STOP_SECONDS)
        return len(found) + processes.end_in_order(self._members, ("kafka", "mongo", "postgres"), STOP_SECONDS)

    def _noted_ports(self) -> dict[str, list[int]]:
        """The ports that each program was last given."""
        try:
            noted: dict[str, list[int]] = json.loads((self.config.home / "run" / "ports.json").read_text())
        except (OSError, ValueError):
            return {}
        return noted

    def _require_running(self) -> None:
        if not self._supervisor.alive():
            raise StackError("The local stack is not up.", "Run `make up`.")

    def _end_of_log(self, program: str, lines: int = 20) -> str:
        try:
            text = self.config.log(program).read_text(errors="replace")
        except OSError:
            return "(no log yet)"
        return "\n".join(f"  {program} | {line}" for line in text.splitlines()[-lines:])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One `up`, `down` or `clean` at a time, whoever runs it."""
        home = self.config.home
        home.mkdir(parents=True, exist_ok=True)
        owner = home.stat().st_uid
        if owner != os.geteuid():
            raise StackError(
                f"{home} belongs to the user with id {owner}, not to this one.",
                f"Work as that user, or remove it (its data with it): rm -r {home}",
            )
        with (home / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._report("another command works on this stack: waiting for it to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What the programs inherit of an environment: not the platform's settings, which each launcher states, and nothing
    of the terminal."""
    return {
        name: value for name, value in environ.items() if not name.startswith(NOT_INHERITED) and not is_setting(name)
    }


def _replace(path: Path, text: str, mode: int) -> None:
    """Writes a file in one step: a program may be reading it at this moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)


__all__ = ["ALL_PROGRAMS", "LocalStack", "Report", "Status"]
