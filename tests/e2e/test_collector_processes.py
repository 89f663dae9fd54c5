"""Collectors that end, are killed, and share a folder: what was acknowledged is stored, once and in order."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.conftest import Platform
from tests.e2e.clients import Posted, post_batches, post_events
from tests.e2e.load import assert_each_once, events, events_flow, learner_events, load, mixed_events
from tests.e2e.oracle import Ledger
from tests.support.backend import Backend
from tests.support.process import Service
from tests.support.wait import until

pytestmark = pytest.mark.e2e

EXIT_SECONDS = 30.0


def waiting(service: Service) -> int:
    """Events on disk."""
    return int(service.get("/api/v1/metrics").json()["buffer_events_count"])


def healthy(service: Service) -> bool:
    return bool(service.get("/api/v1/health").json()["status"] == "healthy")


def long(rounds: int) -> object:
    return pytest.param(rounds, marks=[pytest.mark.exhaustive, pytest.mark.timeout(1800)])


@pytest.mark.parametrize("kills", [4, long(100)])
def test_killed_again_and_again_while_kafka_goes_and_comes(platform: Platform, backend: Backend, kills: int) -> None:
    ingestion = platform.start("ingestion_service")
    platform.start("event_consumer")
    away = False
    with load(ingestion, mixed_events, rate=500) as work:
        try:
            events_flow(platform, 100)
            for number in range(kills):
                if number % 3 == 0:
                    backend.kill_kafka()
                    away = True
                elif number % 3 == 2:
                    backend.start_kafka()
                    away = False
                time.sleep(0.3 * (number % 4))
                ingestion.kill()
                ingestion.start()
        finally:
            if away:
                backend.start_kafka()
        until("all is in Kafka", lambda: healthy(ingestion))
    assert work.posted.statuses() <= {0, 202}
    assert ingestion.metric("ingestion_spool_damaged_records") == 0
    assert_each_once(platform, work.ledger, work.posted)


def test_row_15_two_processes_share_a_folder_and_one_adopts_what_the_other_left(
    platform: Platform, backend: Backend
) -> None:
    ledger, posted = Ledger(), Posted()

    def send(service: Service, user: str) -> None:
        """Some events of one process's users: their order is known."""
        url = service.url
        post_events(url + "/events", events(200, user), ledger, posted=posted)
        post_batches(url + "/api/v1/collect", learner_events(1_000, f"{user}-learner"), ledger, posted=posted)

    backend.kill_kafka()
    try:
        one, other = (platform.start("ingestion_service") for _ in range(2))
        send(one, "one")
        send(other, "other")
        assert (waiting(one), waiting(other)) == (1_200, 1_200)
        one.kill()
        until("the other has adopted them", lambda: waiting(other) == 2_400)
        send(other, "one")  # its users turn to the other: what they send now comes after what was adopted
        one.start()
        send(one, "another")
        assert (waiting(one), waiting(other)) == (1_200, 3_600)
    finally:
        backend.start_kafka()
    until("all is in Kafka", lambda: healthy(one) and healthy(other))
    platform.start("event_consumer")
    assert posted.statuses() == {200, 202}
    assert assert_each_once(platform, ledger, posted) == 0


@contextlib.contextmanager
def stalled_upload(service: Service) -> Iterator[None]:
    """A client that sent the beginning of a body, and nothing since."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(
            b"POST /api/v1/collect HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n[" + b" " * 10_000
        )
        yield


@pytest.mark.parametrize("rounds", [1, long(5)])
def test_row_27_sigterm_under_load(platform: Platform, rounds: int) -> None:
    """Four services at once."""
    services = [platform.start("ingestion_service", ready=number == 3) for number in range(4)]
    platform.start("event_consumer")

    def end(service: Service) -> tuple[int, float]:
        with stalled_upload(service):
            time.sleep(0.5)
            began = time.monotonic()
            code = service.stop()
            return code, time.monotonic() - began

    with contextlib.ExitStack() as stack:
        loads = [
            stack.enter_context(load(service, partial(events, prefix=f"service{number}"), rate=150, workers=2))
            for number, service in enumerate(services)
        ]
        events_flow(platform, 200)
        for _ in range(rounds):
            with ThreadPoolExecutor(4) as pool:
                ended = list(pool.map(end, services))
                assert [code for code, _ in ended] == [0] * 4
                assert max(seconds for _, seconds in ended) < EXIT_SECONDS
                list(pool.map(Service.start, services))
            events_flow(platform, 200)
    assert_each_once(platform, Ledger.of(*(work.ledger for work in loads)), *(work.posted for work in loads))
    for service in services:
        assert "failed unexpectedly" not in service.log.read_text()
        platform.must_stay_sound.remove(service)  # uvicorn reports each upload that it cut off, with a traceback


def test_sigterm_while_kafka_is_frozen_keeps_what_is_in_flight_on_disk(platform: Platform, backend: Backend) -> None:
    ingestion = platform.start("ingestion_service")
    platform.start("event_consumer")
    with load(ingestion, mixed_events, rate=300) as work:
        events_flow(platform, 100)
        backend.pause_kafka()
        try:
            time.sleep(0.5)
            began = time.monotonic()
            assert ingestion.stop() == 0
            assert time.monotonic() - began < EXIT_SECONDS
            ingestion.start()
        finally:
            backend.resume_kafka()
        until("all is in Kafka", lambda: healthy(ingestion))
    assert_each_once(platform, work.ledger, work.posted)


def test_more_connections_than_it_may_have_open_files_do_not_end_it(platform: Platform) -> None:
    ingestion = platform.start("ingestion_service")
    until("it is connected", lambda: healthy(ingestion))
    _, most = resource.prlimit(ingestion.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(ingestion.pid, resource.RLIMIT_NOFILE, (64, most))
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", ingestion.port), timeout=20))
        time.sleep(3)
        assert ingestion.running(), ingestion.tail()
    ledger = Ledger()
    posted = post_events(ingestion.url + "/events", events(50), ledger)
    platform.start("event_consumer")
    assert_each_once(platform, ledger, posted)
