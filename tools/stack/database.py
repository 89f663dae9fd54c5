"""PostgreSQL: finding it, making its cluster, starting it (never as root, which it refuses), asking it."""

import os
import pwd
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from tools.stack import processes
from tools.stack.config import StackConfig
from tools.stack.errors import NotInstalledError, StackError
from tools.stack.program import Program

PRIORITY = 10
OLDEST = 15
SYSTEM_USER = "postgres"


@dataclass(frozen=True, slots=True)
class Installation:
    """An installed PostgreSQL: the folder of its programs and its major version."""

    bindir: Path
    major: int


def major_version(text: str) -> int:
    """The major version in what `postgres --version` prints; 0 when there is none."""
    match = re.search(r"\b(\d+)(?:\.\d+|beta\d+|rc\d+|devel)", text)
    return int(match[1]) if match else 0


def installations(environ: Mapping[str, str]) -> list[Installation]:
    """The PostgreSQL servers of this machine: pg_config's, then the system's newest first, then the PATH's."""
    folders: list[Path] = []
    pg_config = shutil.which("pg_config", path=environ.get("PATH"))
    if pg_config:
        folders.append(Path(_output([pg_config, "--bindir"]).strip()))
    system = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(system, key=lambda folder: folder.parent.name.rjust(8), reverse=True)
    on_path = shutil.which("postgres", path=environ.get("PATH"))
    folders += [Path(on_path).resolve().parent] if on_path else []
    servers = [folder for folder in dict.fromkeys(folders) if os.access(folder / "postgres", os.X_OK)]
    return [Installation(folder, major_version(_output([str(folder / "postgres"), "--version"]))) for folder in servers]


def choose(found: Sequence[Installation], data_version: str) -> Installation:
    """The server to run: of the data's version, or for new data the first new enough. Raises NotInstalledError."""
    setup = "Run `make setup`, which installs it."
    if data_version:
        for installation in found:
            if str(installation.major) == data_version:
                return installation
        raise NotInstalledError(
            f"The data was written by PostgreSQL {data_version}, which is not installed.",
            f"Install PostgreSQL {data_version}, or start anew without the data: make clean.",
        )
    for installation in found:
        if installation.major >= OLDEST:
            return installation
    have = f"; found only {', '.join(str(f.major) for f in found)}" if found else ""
    raise NotInstalledError(f"PostgreSQL {OLDEST} or later is needed{have}.", setup)


def find(config: StackConfig, environ: Mapping[str, str]) -> Installation:
    """The server to run for this stack. Raises NotInstalledError."""
    version = config.postgres_data / "PG_VERSION"
    return choose(installations(environ), version.read_text().strip() if version.is_file() else "")


def run_as(data: Path) -> list[str]:
    """The command prefix that runs PostgreSQL as a user it accepts, able to reach `data` (which must exist).

    Nobody but root needs one. Root becomes the system's user `postgres`, which then owns `data`. Where a folder above
    is closed to that user (a clone in /root, say), the process alone gets the right to pass through, and the folders'
    permissions stay as they are. Raises StackError where the kernel does not permit that.
    """
    if os.geteuid() != 0:
        return []
    try:
        user = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise NotInstalledError(
            f"PostgreSQL does not run as root, and there is no user {SYSTEM_USER!r} to run it as.",
            f"Make one (useradd --system {SYSTEM_USER}), or run this as an ordinary user.",
        ) from None
    os.chown(data, user.pw_uid, user.pw_gid)
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    # Reading past permissions is enough; where a container's root lacks that right, it usually has the wider one.
    rights = [
        [f"--inh-caps=-all,+{right}", f"--ambient-caps=-all,+{right}"] for right in ("dac_read_search", "dac_override")
    ]
    for extra in ([], *rights):
        prefix = [*become, *extra, "--"]
        # Not `test -w`: access(2) leaves out what the process may do beyond its user.
        enter = [*prefix, "sh", "-c", 'cd -- "$1"', "sh", str(data)]
        reached = subprocess.run(enter, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        if reached.returncode == 0:
            return prefix
    raise StackError(
        f"User {SYSTEM_USER!r}, as whom root must run PostgreSQL, cannot reach {data}.",
        "Put the state where it can: LOCAL_STACK_HOME=/var/lib/event-platform make up; or be an ordinary user.",
    )


def make_cluster(installation: Installation, config: StackConfig) -> bool:
    """Makes the cluster of a new stack; says whether it had to. A half-made one never gets its name."""
    data = config.postgres_data
    if (data / "PG_VERSION").is_file():
        return False
    making = data.with_name("data.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True, mode=0o700)
    prefix = run_as(making)
    owner = making.stat()
    with tempfile.NamedTemporaryFile("w", dir=making.parent) as password:
        password.write(config.postgres_password + "\n")
        password.flush()
        os.chown(password.name, owner.st_uid, owner.st_gid)
        command = [str(installation.bindir / "initdb"), "--pgdata", str(making), "--username", config.postgres_user]
        command += ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={password.name}"]
        result = subprocess.run(
            [*prefix, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/", check=False
        )
    if result.returncode:
        raise StackError(f"PostgreSQL's cluster could not be made:\n{(result.stdout + result.stderr)[-2000:]}")
    making.rename(data)
    return True


def forget_dead_postmaster(data: Path) -> None:
    """Removes the pid file of a server that is gone: after a reboot its pid may be somebody else's."""
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return
    process = processes.read(pid)
    if process is None or not any("postgres" in part for part in process.command[:1]):
        pid_file.unlink(missing_ok=True)


def program(installation: Installation, config: StackConfig) -> Program:
    """The server as a supervised program. It keeps its default durability: fsync is on."""
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(config.postgres_port),
        # TCP only: a socket's path would be limited to 107 bytes.
        "unix_socket_directories": "",
        "max_connections": "200",
        # The defaults are for a machine of long ago: 30,000 rows a second would make a checkpoint every half minute, and each
        # page that is touched after one goes into the log whole. docker/docker-compose.platform.yml has the same.
        "shared_buffers": "256MB",
        "max_wal_size": "4GB",
        "wal_compression": "on",
    }
    server = [*run_as(config.postgres_data), str(installation.bindir / "postgres"), "-D", str(config.postgres_data)]
    command = server + [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return Program(
        name="postgres",
        command="unset PGDATA PGPORT PGHOST PGUSER PGOPTIONS\nexec " + shlex.join(command),
        directory=Path("/"),
        priority=PRIORITY,
        stop_signal="INT",
        probe=lambda: ask(config),
    )


def ask(config: StackConfig) -> str | None:
    """None when the server answers a query over TCP with the password, else why not."""
    try:
        with psycopg.connect(config.url_of("postgres"), connect_timeout=2) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError as error:
        return str(error).strip().splitlines()[-1]
    return None


def ensure_database(config: StackConfig) -> None:
    """Makes the stack's database if it is missing."""
    with psycopg.connect(config.url_of("postgres"), connect_timeout=5, autocommit=True) as connection:
        query = "SELECT 1 FROM pg_database WHERE datname = %s"
        if connection.execute(query, (config.postgres_db,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(config.postgres_db)))


def _output(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return result.stdout
