"""What is written for the supervisor, its programs and the broker, and how those programs read it back."""

import configparser
import os
import subprocess
import time
from pathlib import Path

import pytest

from tools.stack import StackConfig, broker, database, mongod, services
from tools.stack.database import Installation
from tools.stack.errors import NotInstalledError
from tools.stack.program import Program
from tools.stack.stack import inherited
from tools.stack.supervision import LONGEST_SOCKET, render, socket_path

AWKWARD = 'it\'s 100% "awkward" $HOME `id` ; #\n\\end'


def config(home: Path, **arguments: object) -> StackConfig:
    return StackConfig.for_home(home, environ={}, env_file=None, **arguments)  # type: ignore[arg-type]  # test brevity


def parsed(programs: list[Program], home: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))  # as supervisord reads it
    parser.read_string(render(programs, home))
    return parser


def echo(name: str = "echo", **arguments: object) -> Program:
    return Program(name=name, command="exec env", directory=Path("/"), priority=1, **arguments)  # type: ignore[arg-type]


def test_every_program_is_restarted_at_once_and_without_limit(tmp_path: Path) -> None:
    section = parsed([echo()], tmp_path)["program:echo"]
    assert section["autorestart"] == "true"
    assert section["startsecs"] == "0"  # any longer, and a quick end counts as a failure with a growing pause
    assert int(section["stopwaitsecs"]) == 35


def test_a_one_shot_is_repeated_only_when_it_fails(tmp_path: Path) -> None:
    section = parsed([echo(one_shot=True)], tmp_path)["program:echo"]
    assert (section["autorestart"], section["exitcodes"]) == ("unexpected", "0")


def test_only_the_sales_service_stays_ended_when_it_ended_well(tmp_path: Path) -> None:
    programs = services.programs(config(tmp_path))
    parser = parsed(programs, tmp_path)
    stays = {p.name for p in programs if parser[f"program:{p.name}"]["autorestart"] == "unexpected" and not p.one_shot}
    assert stays == {"sales"}


def test_logs_are_bounded(tmp_path: Path) -> None:
    parser = parsed([echo()], tmp_path)
    assert parser["program:echo"]["stdout_logfile_maxbytes"] == "10MB"
    assert parser["supervisord"]["logfile_maxbytes"] == "1MB"


def test_programs_start_before_those_that_use_them_and_stop_after_them(tmp_path: Path) -> None:
    ours = config(tmp_path)
    order = {program.name: program.priority for program in services.programs(ours)}
    assert database.PRIORITY < mongod.PRIORITY < broker.PRIORITY < order["migrate"] < order["ingestion"]
    assert order["ingestion"] == order["consumer"] == order["sales"] == order["analytics"]


def test_a_launcher_hands_over_any_value_unchanged(tmp_path: Path) -> None:
    script = tmp_path / "echo.sh"
    script.write_text(echo(environment={"AWKWARD": AWKWARD}).launcher(tmp_path))
    printed = subprocess.run(["sh", script], capture_output=True, text=True, check=True).stdout
    assert f"AWKWARD={AWKWARD}\n" in printed
    assert f"LOCAL_STACK_MEMBER={tmp_path}\n" in printed
    assert "LOCAL_STACK_PROGRAM=echo\n" in printed


def test_a_launcher_becomes_the_program_so_that_its_pid_is_the_programs(tmp_path: Path) -> None:
    script = tmp_path / "sleep.sh"
    script.write_text(Program("sleep", "exec sleep 60", Path("/"), 1).launcher(tmp_path))
    with subprocess.Popen(["sh", script]) as child:
        deadline = time.monotonic() + 20
        while "sleep" not in os.readlink(f"/proc/{child.pid}/exe") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "sleep" in Path(f"/proc/{child.pid}/cmdline").read_text()
        child.kill()


def test_a_change_of_settings_changes_the_revision_that_makes_the_supervisor_restart(tmp_path: Path) -> None:
    first = echo(environment={"LOG_LEVEL": "INFO"}).revision(tmp_path)
    assert echo(environment={"LOG_LEVEL": "INFO"}).revision(tmp_path) == first
    assert echo(environment={"LOG_LEVEL": "DEBUG"}).revision(tmp_path) != first
    assert echo(environment={"LOG_LEVEL": "INFO"}, watched="x").revision(tmp_path) != first


def test_programs_inherit_neither_makes_variables_nor_the_terminals_nor_stale_settings() -> None:
    environ = {
        "PATH": "/bin",
        "MAKEFLAGS": " -j --jobserver-auth=3,4",
        "PYTEST_VERSION": "9",
        "KAFKA_PORT": "1",
        "SHLVL": "2",
    }
    assert inherited(environ) == {"PATH": "/bin"}


def test_a_long_home_gets_a_short_private_socket(tmp_path: Path) -> None:
    assert socket_path(tmp_path).parent == tmp_path
    deep = tmp_path / ("x" * 120)
    path = socket_path(deep)
    try:
        assert len(os.fsencode(path)) <= LONGEST_SOCKET
        assert path == socket_path(deep)
        assert path.parent.stat().st_mode & 0o077 == 0
    finally:
        path.parent.rmdir()


def test_the_broker_listens_on_loopback_and_is_known_as_localhost(tmp_path: Path) -> None:
    properties = broker.server_properties(config(tmp_path, kafka_port=1234, controller_port=1235))
    assert properties["listeners"] == "BROKER://127.0.0.1:1234,CONTROLLER://127.0.0.1:1235"
    assert properties["advertised.listeners"] == "BROKER://localhost:1234"


def test_a_changed_password_restarts_the_mongodb_server_and_is_not_on_its_command_line(tmp_path: Path) -> None:
    java = Path("/java")
    first, second = (
        mongod.program(java, StackConfig.for_home(tmp_path, environ={"MONGO_PASSWORD": word}, env_file=None))
        for word in ("first-word", "second-word")
    )
    assert first.revision(tmp_path) != second.revision(tmp_path)
    assert "first-word" not in first.command


def test_given_properties_win_over_the_stacks_own(tmp_path: Path) -> None:
    ours = config(tmp_path, kafka_properties={"message.max.bytes": "1000", "num.io.threads": "8"})
    properties = broker.server_properties(ours)
    assert (properties["message.max.bytes"], properties["num.io.threads"]) == ("1000", "8")


def test_a_java_that_is_too_old_is_passed_over(tmp_path: Path) -> None:
    def install(folder: str, version: str) -> Path:
        java = tmp_path / folder / "bin" / "java"
        java.parent.mkdir(parents=True)
        java.write_text("#!/bin/sh\n")
        java.chmod(0o755)
        (tmp_path / folder / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
        return java

    old, new = install("old", "11.0.2"), install("new", "21.0.1")
    assert broker.find_java({"JAVA_HOME": str(old.parents[1]), "PATH": str(new.parent)}) == new


@pytest.mark.parametrize(
    ("value", "line"),
    [("/a b", "k=/a b\n"), ("C:\\x", "k=C:\\\\x\n"), ("/föhn", "k=/f\\u00f6hn\n"), ("/😀", "k=/\\ud83d\\ude00\n")],
)
def test_properties_are_written_as_java_reads_them(value: str, line: str) -> None:
    assert broker.render_properties({"k": value}) == line


@pytest.mark.parametrize(
    ("text", "major"),
    [("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", 15), ("postgres (PostgreSQL) 18beta1", 18), ("", 0)],
)
def test_the_major_version_of_postgres_is_read(text: str, major: int) -> None:
    assert database.major_version(text) == major


def test_existing_data_is_served_by_its_own_version() -> None:
    found = [Installation(Path("/17"), 17), Installation(Path("/15"), 15)]
    assert database.choose(found, "").major == 17
    assert database.choose(found, "15").major == 15
    with pytest.raises(NotInstalledError, match="written by PostgreSQL 16"):
        database.choose(found, "16")


def test_a_postgres_that_is_too_old_is_not_used() -> None:
    with pytest.raises(NotInstalledError, match=r"15 or later .* only 14"):
        database.choose([Installation(Path("/14"), 14)], "")
    with pytest.raises(NotInstalledError, match="make setup"):
        database.choose([], "")


def test_the_pid_file_of_a_dead_postmaster_is_forgotten_and_a_live_ones_is_kept(tmp_path: Path) -> None:
    pid_file = tmp_path / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{tmp_path}\n")  # a pid that now belongs to somebody else
    database.forget_dead_postmaster(tmp_path)
    assert not pid_file.exists()
    fake = tmp_path / "postgres"
    fake.symlink_to("/bin/sleep")
    with subprocess.Popen([fake, "60"]) as server:
        pid_file.write_text(f"{server.pid}\n")
        database.forget_dead_postmaster(tmp_path)
        server.kill()
    assert pid_file.exists()
