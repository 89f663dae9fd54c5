"""The platform as Docker Compose runs it, seen from outside: ports, counts, metrics, traces, a crash, an end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaConsumer
from pymongo import MongoClient

from analytics_service.settings import AnalyticsSettings
from event_consumer.sales.settings import SalesSettings
from event_consumer.settings import ConsumerSettings
from event_core.settings import ServiceSettings, env_names
from ingestion_service.settings import IngestionSettings
from tests.e2e.compose import ADMIN_API_KEY, COMPOSE_FILE, ROOT, Stack, engine_problem, run, wait_for

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

INGESTION_PORTS = ("INGESTION_PORT_8001", "INGESTION_PORT_8004", "INGESTION_PORT_8000")
SERVICES = {
    "ingestion": "INGESTION_PORT_8001",
    "consumer": "CONSUMER_PORT",
    "sales": "SALES_PORT",
    "analytics": "ANALYTICS_PORT",
}
VISIBLE_SECONDS = 120


@pytest.fixture(scope="module")
def engine() -> None:
    problem = engine_problem()
    if problem is None:
        return
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI must run the Compose test, but {problem}")
    pytest.skip(problem)


@pytest.fixture(scope="module")
def stack(engine: None, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The whole stack, built and healthy. Always removed at the end; after a failure its last log lines are printed."""
    stack = Stack.reserve()
    stack.down()  # what an interrupted run may have left
    failed_before = request.session.testsfailed
    up = False
    try:
        stack.up()
        up = True
        yield stack
    finally:
        try:
            if not up or request.session.testsfailed > failed_before:
                print(stack.compose("ps", "--all"))
                for service in stack.services():
                    print(f"---- last log lines of {service}\n{stack.logs(service, tail='60')}")
        finally:
            stack.down()


@dataclass
class Ledger:
    """Events of one test, told from all others by their name, and which of them the platform has acknowledged."""

    event_name: str = field(default_factory=lambda: f"e2e_{uuid.uuid4().hex}")
    acknowledged: list[str] = field(default_factory=list)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def event(self, number: int) -> dict[str, object]:
        return {
            "event_id": str(uuid.uuid4()),
            "user_id": f"user-{number % 30}",
            "event_name": self.event_name,
            "metadata": {"number": number},
            "timestamp": datetime.now(UTC).isoformat(),
        }

    def post(self, stack: Stack, port: str, number: int, headers: dict[str, str] | None = None) -> list[str]:
        """The reply's warnings."""
        event = self.event(number)
        reply = httpx.post(stack.url(port, "/events"), json=event, headers=headers, timeout=30)
        body = reply.json()
        warnings: list[str] = body.pop("warnings", [])
        assert (reply.status_code, body) == (202, {"status": "accepted", "event_id": event["event_id"]}), port
        self.acknowledged.append(str(event["event_id"]))
        return warnings

    def count(self, stack: Stack) -> int:
        """What the analytics API counts of these events."""
        window = {
            "from_ts": (self.began - timedelta(minutes=1)).isoformat(),
            "to_ts": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
            "event_name": self.event_name,
        }
        reply = httpx.get(stack.url("ANALYTICS_PORT", "/analytics/events/count"), params=window, timeout=30)
        assert reply.status_code == 200, reply.text
        count = reply.json()["count"]
        assert isinstance(count, int)
        return count

    def assert_counted_once(self, stack: Stack) -> None:
        """Every acknowledged event is in the database exactly once, say the API and plain SQL, and nothing else is."""
        expected = len(self.acknowledged)
        wait_for(f"a count of {expected}", lambda: self.count(stack) >= expected, VISIBLE_SECONDS)
        assert self.count(stack) == expected
        stored = stack.sql(f"SELECT event_id FROM events WHERE event_name = '{self.event_name}'")
        assert sorted(stored) == sorted(self.acknowledged)


def test_every_published_port_answers(stack: Stack) -> None:
    for variable in (*INGESTION_PORTS, "CONSUMER_PORT", "SALES_PORT", "ANALYTICS_PORT"):
        for path in ("/health", "/health/live", "/health/ready", "/metrics"):
            assert httpx.get(stack.url(variable, path), timeout=30).status_code == 200, (variable, path)
    assert httpx.get(stack.url("SALES_METRICS_PORT", "/metrics"), timeout=30).status_code == 200
    assert httpx.get(stack.url("PROMETHEUS_PORT", "/-/ready"), timeout=30).status_code == 200
    assert httpx.get(stack.url("OTEL_HEALTH_PORT"), timeout=30).status_code == 200
    no_spans = httpx.post(stack.url("OTLP_HTTP_PORT", "/v1/traces"), json={"resourceSpans": []}, timeout=30)
    assert no_spans.status_code == 200
    socket.create_connection(("127.0.0.1", stack.ports["OTLP_GRPC_PORT"]), timeout=10).close()


def test_posts_to_each_port_are_counted(stack: Stack) -> None:
    ledger = Ledger()
    for number in range(60):
        ledger.post(stack, INGESTION_PORTS[number % 3], number)
    ledger.assert_counted_once(stack)


def test_clients_on_the_host_reach_kafka_and_postgres(stack: Stack) -> None:
    """The broker must advertise an address that the host can connect to; S2's Postgres URI must work."""
    ledger = Ledger()
    ledger.post(stack, "INGESTION_PORT_8001", 0)
    ledger.assert_counted_once(stack)
    (event_id,) = ledger.acknowledged

    async def in_topic() -> bool:
        servers = f"localhost:{stack.ports['KAFKA_PORT']}"
        async with asyncio.timeout(60):
            async with AIOKafkaConsumer("events", bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
                async for record in consumer:
                    if json.loads(record.value)["event_id"] == event_id:
                        return True
        return False

    async def in_table() -> object:
        uri = f"postgresql://postgres:postgres@localhost:{stack.ports['POSTGRES_PORT']}/events_db"
        connection = await asyncpg.connect(uri, timeout=30)
        try:
            return await connection.fetchval("SELECT count(*) FROM events WHERE event_id = $1", uuid.UUID(event_id))
        finally:
            await connection.close()

    assert asyncio.run(in_topic())
    assert asyncio.run(in_table()) == 1


def test_creating_the_database_by_hand_does_no_harm(stack: Stack) -> None:
    """S2's step 2; the stack has done it already, so psql says that the database exists."""
    with pytest.raises(AssertionError, match="already exists"):
        run("docker", "exec", stack.postgres, "psql", "-U", "postgres", "-c", "CREATE DATABASE events_db;")
    ledger = Ledger()
    ledger.post(stack, "INGESTION_PORT_8004", 0)
    ledger.assert_counted_once(stack)


def test_clients_on_the_host_reach_mongodb_at_the_documented_url(stack: Stack) -> None:
    url = f"mongodb://admin:password@localhost:{stack.ports['MONGO_PORT']}/sales_db?authSource=admin"
    with MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=30_000) as client:
        indexes = client.get_default_database()["raw_sales"].index_information()
        # The sales service has been there before.
        assert any(index.get("unique") and index["key"] == [("event_id", 1)] for index in indexes.values()), indexes


def test_sales_are_stored_once_and_the_bad_set_aside(stack: Stack) -> None:
    def events() -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(stack.url("SALES_PORT", "/stats"), timeout=30).json()["events"]
        return found

    before = events()
    shares = (
        "--sales",
        "400",
        "--duplicates",
        "0.1",
        "--conflicts",
        "0.05",
        "--bad",
        "0.05",
        "--json-summary",
        "--quiet",
    )
    servers = f"localhost:{stack.ports['KAFKA_PORT']}"
    sent = json.loads(run(sys.executable, "tools/send_sales.py", *shares, "--bootstrap-servers", servers))
    assert (sent["stored"], sent["duplicate"], sent["dead_letters"]) == (320, 40, 40)

    def settled() -> dict[str, int]:
        now = events()
        aside = sum(now["dead_letters"].values()) - sum(before["dead_letters"].values())
        return {
            "stored": now["stored"] - before["stored"],
            "duplicate": now["duplicates"] - before["duplicates"],
            "dead_letters": aside,
        }

    wait_for("all of them", lambda: settled() == {name: sent[name] for name in settled()}, VISIBLE_SECONDS)


def test_the_sales_service_stays_ended_when_it_was_asked_to_end(stack: Stack) -> None:
    reply = httpx.post(stack.url("SALES_PORT", "/shutdown"), headers={"X-API-Key": ADMIN_API_KEY}, timeout=30)
    assert reply.status_code == 202
    try:
        wait_for("the end of the service", lambda: stack.state("sales")["Status"] == "exited", 60)
        time.sleep(3)  # longer than a restart takes
        state = stack.state("sales")
        assert (state["Status"], state["ExitCode"]) == ("exited", 0)
    finally:
        stack.compose("up", "-d", "--wait", "--wait-timeout", "180", timeout=240)


def test_prometheus_scrapes_everything(stack: Stack) -> None:
    def health() -> dict[str, str]:
        reply = httpx.get(stack.url("PROMETHEUS_PORT", "/api/v1/targets"), params={"state": "active"}, timeout=30)
        return {target["labels"]["job"]: target["health"] for target in reply.json()["data"]["activeTargets"]}

    jobs = {*SERVICES, "prometheus", "otel-collector"}
    wait_for("every target up", lambda: health() == dict.fromkeys(jobs, "up"), 60)


def test_one_trace_from_the_post_to_the_write(stack: Stack) -> None:
    """A client's trace goes on in ingestion and, through Kafka's headers, in the consumer; both reach the collector."""
    ledger = Ledger()
    trace_id = uuid.uuid4().hex
    ledger.post(stack, "INGESTION_PORT_8001", 0, headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
    expected = {"ingestion_service", "event_consumer"}
    wait_for(
        f"spans of {expected} in trace {trace_id}",
        lambda: expected <= {service for service, _ in stack.spans(trace_id)},
        VISIBLE_SECONDS,
        pause=2,
    )


def test_settings_of_the_environment_reach_the_services(stack: Stack) -> None:
    stack.environment["LOG_LEVEL"] = "WARNING"
    try:
        for service, module in (("ingestion", "ingestion_service"), ("analytics", "analytics_service")):
            shown = stack.compose("run", "--rm", "--no-deps", service, "python", "-m", module, "--print-config")
            assert re.search(r"^LOG_LEVEL +WARNING +environment", shown, re.MULTILINE), shown
            assert re.search(r"^HOST +0\.0\.0\.0 ", shown, re.MULTILINE), shown
    finally:
        del stack.environment["LOG_LEVEL"]


def test_containers_run_without_privileges(stack: Stack) -> None:
    for service in SERVICES:
        container = json.loads(run("docker", "inspect", stack.container(service)))[0]
        assert container["Config"]["User"] == "10001:10001"
        assert container["HostConfig"]["ReadonlyRootfs"]
        assert container["HostConfig"]["Memory"] > 0
        assert not container["State"]["OOMKilled"]


def test_both_topics_are_counted(stack: Stack) -> None:
    ledger = Ledger()
    ledger.post(stack, "INGESTION_PORT_8001", 0)
    event_id = str(uuid.uuid4())
    typed = {
        "event_id": event_id,
        "user_id": "user-1",
        "event_type": ledger.event_name,
        "event_time": int(time.time() * 1000),
        "experiment_id": "exp_1",
        "variant": "A",
        "properties": {"number": 1},
    }
    reply = httpx.post(stack.url("INGESTION_PORT_8001", "/events"), json=typed, timeout=30)
    assert (reply.status_code, reply.json()["event_id"]) == (202, event_id)
    ledger.acknowledged.append(event_id)
    ledger.assert_counted_once(stack)
    shown = stack.sql(f"SELECT experiment_id, variant FROM events WHERE event_id = '{event_id}'")
    assert shown == ["exp_1|A"]


def test_what_was_accepted_without_a_broker_survives_the_death_of_the_service(stack: Stack) -> None:
    """The disk buffer lies in a volume: a new container finds what the old one had acknowledged."""
    ledger = Ledger()
    stack.compose("stop", "kafka")
    try:
        warnings = [ledger.post(stack, "INGESTION_PORT_8001", number) for number in range(30)]
        assert warnings[-1], "an event that only the disk has is accepted with a warning"
        stack.compose("rm", "--stop", "--force", "ingestion")
        stack.compose("up", "-d", "--no-deps", "ingestion")
        wait_for(
            "the service to accept again",
            lambda: httpx.get(stack.url("INGESTION_PORT_8001", "/health/ready"), timeout=10).status_code == 200,
            VISIBLE_SECONDS,
        )
        for number in range(30, 40):
            ledger.post(stack, "INGESTION_PORT_8001", number)
    finally:
        stack.compose("up", "-d", "--wait", "--wait-timeout", "180", timeout=240)
    ledger.assert_counted_once(stack)


def test_broker_killed_under_load_loses_and_doubles_nothing(stack: Stack) -> None:
    """Clients send each event again, under the same event_id, until it is acknowledged, as the 503 tells them to."""
    ledger = Ledger()
    restarts = stack.state("kafka")["RestartCount"]
    healthy_again = 0

    async def post_until_acknowledged(client: httpx.AsyncClient, number: int) -> None:
        event = ledger.event(number)
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            try:
                reply = await client.post("/events", json=event)
            except httpx.TransportError:  # no reply is no acknowledgement
                await asyncio.sleep(0.5)
                continue
            if reply.status_code == 202:
                assert reply.json()["event_id"] == event["event_id"]
                ledger.acknowledged.append(str(event["event_id"]))
                return
            assert reply.status_code == 503, reply.text
            assert reply.json()["retryable"] is True
            await asyncio.sleep(min(float(reply.headers["retry-after"]), 3))
        raise AssertionError("an event was refused for 240 s")

    def restarted() -> bool:
        state = stack.state("kafka")
        return bool(state["RestartCount"] > restarts and state["Health"]["Status"] == "healthy")

    async def load() -> None:
        nonlocal healthy_again
        done = asyncio.Event()
        url = stack.url("INGESTION_PORT_8001")

        async def client_of(first: int) -> None:
            number = first
            while not done.is_set():
                await post_until_acknowledged(client, number)
                number += 8
                await asyncio.sleep(0.02)

        async with httpx.AsyncClient(base_url=url, timeout=60) as client, asyncio.TaskGroup() as clients:
            for first in range(8):
                clients.create_task(client_of(first))
            await asyncio.sleep(3)
            assert ledger.acknowledged, "nothing was acknowledged before the crash"
            await asyncio.to_thread(stack.kill_broker)
            await asyncio.to_thread(wait_for, "the broker back after its crash", restarted, 180)
            healthy_again = len(ledger.acknowledged)
            await asyncio.sleep(5)
            done.set()

    asyncio.run(load())
    assert len(ledger.acknowledged) > healthy_again, "nothing was acknowledged after the crash"
    ledger.assert_counted_once(stack)
    wait_for(
        "every service ready again",
        lambda: all(httpx.get(stack.url(port, "/health/ready")).status_code == 200 for port in SERVICES.values()),
        VISIBLE_SECONDS,
    )


def test_services_stop_in_order_and_lose_nothing(stack: Stack) -> None:
    """Exit code 0 within the grace period (a kill at its end would be 137); what was acknowledged is still there."""
    ledger = Ledger()
    for number in range(30):
        ledger.post(stack, "INGESTION_PORT_8001", number)
    stack.compose("stop", *SERVICES)
    assert {service: stack.state(service)["ExitCode"] for service in SERVICES} == dict.fromkeys(SERVICES, 0)
    stack.compose("up", "-d", "--wait", "--wait-timeout", "180", timeout=240)
    ledger.assert_counted_once(stack)


def config(cwd: Path, *arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """The services as Compose understands them."""
    shown = run("docker", "compose", *arguments, "config", "--format", "json", cwd=cwd, env=env)
    services: dict[str, Any] = json.loads(shown)["services"]
    return services


@pytest.mark.parametrize(("directory", "arguments"), [("docker", ()), (".", ("-f", "docker/docker-compose.yml"))])
def test_the_roots_env_file_counts_wherever_compose_is_called(
    engine: None, tmp_path: Path, directory: str, arguments: tuple[str, ...]
) -> None:
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    (tmp_path / ".env").write_text(
        "POSTGRES_PORT=15432\nPOSTGRES_PASSWORD=other\nKAFKA_PUBLISH_TIMEOUT_SECONDS=7\nKAFKA_BOOTSTRAP_SERVERS=localhost:9092\n"
        "KAFKA_TOPIC=mine\nMONGO_PASSWORD=secret\nMONGODB_URL=mongodb://localhost/\n"
    )
    bare = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
    services = config(tmp_path / directory, *arguments, env=bare)
    assert services["postgres"]["ports"][0]["published"] == "15432"
    assert services["analytics"]["environment"]["DATABASE_URL"] == "postgresql://postgres:other@postgres:5432/events_db"
    assert services["ingestion"]["environment"]["KAFKA_PUBLISH_TIMEOUT_SECONDS"] == "7"
    # Where the host finds Kafka is not where a container does.
    assert services["ingestion"]["environment"]["KAFKA_BOOTSTRAP_SERVERS"] == "kafka:9092"
    sales = services["sales"]["environment"]
    assert sales["MONGODB_URL"] == "mongodb://admin:secret@mongo:27017/sales_db?authSource=admin"
    assert sales["SALES_TOPIC"] == "sales_txn"  # KAFKA_TOPIC names the events'


@pytest.mark.parametrize(
    ("service", "settings"),
    [
        ("ingestion", IngestionSettings),
        ("consumer", ConsumerSettings),
        ("sales", SalesSettings),
        ("analytics", AnalyticsSettings),
    ],
)
def test_every_setting_can_be_given_to_compose(engine: None, service: str, settings: type[ServiceSettings]) -> None:
    given = config(ROOT, "-f", str(COMPOSE_FILE))[service]["environment"]
    assert [names[0] for names in env_names(settings).values() if names[0] not in given] == []
