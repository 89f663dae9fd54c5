"""Which stack is used, and what the doctor says of a machine."""

from pathlib import Path
from typing import Any

import pytest

from tools import run
from tools.stack import StackConfig, StackError, compose, doctor
from tools.stack.compose import Choice, Compose, Memory, base_images, choose, requested
from tools.stack.database import Installation
from tools.stack.logs import Follower, tail
from tools.stack.ports import PortUse, TakenPort

JAVA_17 = 'openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment'


class FakeDocker:
    """Answers `compose.run` as a machine with an engine would: `images` are there, `registry` can be pulled."""

    def __init__(self, *, engine: bool = True, images: tuple[str, ...] = (), registry: tuple[str, ...] = ()) -> None:
        self.engine, self.images, self.registry = engine, list(images), registry

    def __call__(self, command: list[str], timeout: float, cwd: Path | None = None) -> str | None:
        match command[1:]:
            case ["version", *_]:
                return "26.1" if self.engine else None
            case ["compose", "version", *_]:
                return "2.26.1"
            case ["compose", "-f", _, "config", *_]:
                return '{"services": {"kafka": {"image": "kafka:1"}, "postgres": {"image": "postgres:1"}}}'
            case ["image", "inspect", image]:
                return "[]" if image in self.images else None
            case ["manifest", "inspect", image]:
                return "{}" if image in self.registry else None
            case ["pull", "--quiet", image]:
                self.images.append(image)
                return image
        raise AssertionError(command)


def chosen(monkeypatch: pytest.MonkeyPatch, docker: FakeDocker, *, local_is_up: bool = False) -> Choice:
    monkeypatch.setattr(compose, "run", docker)
    return choose(Compose(Path("/nowhere")), local_is_up=local_is_up, report=lambda line: None)


def test_compose_is_chosen_where_the_images_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, FakeDocker(images=("kafka:1", "postgres:1"))).stack == "compose"


def test_missing_images_are_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    docker = FakeDocker(images=("kafka:1",), registry=("postgres:1",))
    assert chosen(monkeypatch, docker).stack == "compose"
    assert "postgres:1" in docker.images


def test_local_is_chosen_without_an_engine_or_a_registry_or_when_it_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, FakeDocker(engine=False)) == Choice("local", "no Docker engine answers")
    without_registry = chosen(monkeypatch, FakeDocker(images=("kafka:1",)))
    assert without_registry.stack == "local"
    assert "postgres:1" in without_registry.reason
    assert chosen(monkeypatch, FakeDocker(images=("kafka:1", "postgres:1")), local_is_up=True).stack == "local"


def test_what_was_asked_for_wins_over_what_is_up_and_that_over_the_default() -> None:
    assert requested("Compose", remembered="local", default="auto") == "compose"
    assert requested(None, remembered="compose", default="local") == "compose"
    assert requested(None, remembered=None, default="auto") == "auto"
    with pytest.raises(StackError, match="STACK=docker"):
        requested("docker", remembered=None, default="local")


def test_the_stack_that_was_brought_up_is_remembered_until_it_is_down(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "home")
    assert memory.read() is None
    memory.write("compose")
    assert Memory(tmp_path / "home").read() == "compose"
    memory.write(None)
    assert memory.read() is None


def test_the_images_a_dockerfile_starts_from_are_not_its_own_stages() -> None:
    text = "ARG SERVICE=x\nFROM --platform=linux/amd64 python:3.13-slim AS base\nFROM base AS a\nFROM ${SERVICE}\nfrom scratch"
    assert base_images(text) == ["python:3.13-slim"]


def lacking(checks: list[doctor.Check]) -> set[str]:
    return {check.name for check in checks if not check.ok}


def test_the_doctor_judges_versions() -> None:
    assert doctor.java_check(JAVA_17).ok
    assert not doctor.java_check('java version "1.8.0_402"').ok
    assert not doctor.java_check("").ok
    assert doctor.python_check((3, 11), "3.11.7").ok
    assert not doctor.python_check((3, 10), "3.10.1").ok
    assert doctor.postgres_check([Installation(Path("/17"), 17)], "").ok
    assert not doctor.postgres_check([Installation(Path("/14"), 14)], "").ok
    assert not doctor.postgres_check([Installation(Path("/17"), 17)], "15").ok


def test_maven_is_needed_only_until_the_jars_are_there() -> None:
    assert doctor.verdict(doctor.jars_check(kafka=True, mongo=True, maven=""), "local")[0]
    for kafka, mongo in ((False, True), (True, False)):
        able, sentence = doctor.verdict(doctor.jars_check(kafka=kafka, mongo=mongo, maven=""), "local")
        assert not able
        assert "Maven" in sentence


def test_every_lack_comes_with_a_remedy() -> None:
    use = PortUse(5432, "postgres", "POSTGRES_PORT")
    checks = [
        doctor.java_check(""),
        doctor.postgres_check([], ""),
        *doctor.jars_check(kafka=False, mongo=False, maven=""),
        *doctor.docker_checks(None, None, None),
        *doctor.docker_checks("26.1", "2.26", ["postgres:17"]),
        *doctor.port_checks([use], [TakenPort(use, None)]),
        doctor.disk_check(1),
        doctor.memory_check("MemAvailable:  1 kB"),
        doctor.descriptor_check(256),
    ]
    assert len(lacking(checks)) == 12
    assert all(check.remedy for check in checks if not check.ok)


def test_the_verdict_is_about_the_chosen_stack() -> None:
    checks = [doctor.java_check(""), *doctor.docker_checks("26.1", "2.26", [])]
    assert doctor.verdict(checks, "compose")[0]
    assert not doctor.verdict(checks, "local")[0]
    assert doctor.verdict(checks, "auto") == (True, "The local stack lacks: Java >= 17; the compose stack can run.")


def test_little_memory_is_a_warning_and_not_a_lack() -> None:
    check = doctor.memory_check("MemTotal: 9 kB\nMemAvailable:     1000 kB\n")
    assert not check.ok
    assert doctor.verdict([check], "local")[0]


def test_the_sender_is_pointed_at_its_own_port_or_else_the_first(tmp_path: Path) -> None:
    def sender(ports: str) -> int:
        config = StackConfig.for_home(tmp_path, environ={"INGESTION_PORTS": ports}, env_file=None)
        return run.addresses("local", config, Compose(tmp_path)).ingestion

    assert sender("8001,8004,8000") == 8004
    assert sender("9001,9004") == 9001


def test_compose_is_reached_by_its_published_ports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    services: dict[str, Any] = {
        "ingestion": {"ports": [{"published": "8001"}, {"published": "8004"}]},
        "analytics": {"ports": [{"published": "9002"}]},
        "consumer": {"ports": [{"published": "9003"}]},
        "sales": {"ports": [{"published": "9005"}, {"published": "9006"}]},
    }
    project = Compose(tmp_path)
    monkeypatch.setattr(project, "services", services)
    config = StackConfig.for_home(tmp_path, environ={}, env_file=None)
    assert run.addresses("compose", config, project) == run.Addresses("localhost", 8004, 9002, 9003, 9005, 9006)
    services.pop("analytics")
    with pytest.raises(StackError, match="analytics"):
        run.addresses("compose", config, project)


def test_a_time_in_a_count_url_is_encoded() -> None:
    assert run.count_path("2026-01-01T00:00:00+00:00", "x").endswith(
        "from_ts=2026-01-01T00%3A00%3A00%2B00%3A00&to_ts=x"
    )


def test_a_followed_log_goes_on_across_its_rotation(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("old\n")
    follower = Follower(log)
    with log.open("a") as file:
        file.write("one\ntw")
    assert list(follower.lines()) == ["one"]
    with log.open("a") as file:
        file.write("o\n")
    assert list(follower.lines()) == ["two"]
    log.rename(tmp_path / "a.log.1")
    log.write_text("three\n")
    assert list(follower.lines()) == ["three"]
    assert tail(log, 5) == ["three"]
    assert tail(tmp_path / "missing", 5) == []
