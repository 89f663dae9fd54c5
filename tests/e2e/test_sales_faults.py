"""Rows 16, 17, 20 and 21 of the fault matrix for the sales pipeline: each sale is stored once, whatever dies."""

from __future__ import annotations

import random
import signal
import time

import pytest

from event_consumer.sales.sales_event_pb2 import SalesEvent
from tests.e2e.sales import TS, Sold, assert_each_once, flows, sell, selling
from tests.support.failpoints import (
    AFTER_THE_DOCUMENTS,
    AFTER_THE_LETTERS,
    BEFORE_KAFKAS_COMMIT,
    DOCUMENTS_ANSWERS_LOST,
)
from tests.support.mongo import Mongo
from tests.support.process import Service
from tests.support.selling import Sales
from tests.support.wait import until

pytestmark = pytest.mark.e2e

ALL = [pytest.mark.exhaustive, pytest.mark.timeout(3600)]
SMALL = {"BATCH_SIZE": "50"}
ANONYMOUS = {**SMALL, "KAFKA_GROUP_INSTANCE_ID": ""}


def duplicates(service: Service) -> float:
    return service.metric("sales_events_processed_total", status="duplicate")


# --- 16: killed


@pytest.mark.parametrize("kills", [2, pytest.param(100, marks=ALL)])
@pytest.mark.parametrize("failpoint", [AFTER_THE_DOCUMENTS, AFTER_THE_LETTERS, BEFORE_KAFKAS_COMMIT])
def test_killed_between_the_steps_of_a_write(sales: Sales, failpoint: str, kills: int) -> None:
    sold = Sold()
    service = sales.start(**SMALL)
    until("it knows where to begin", lambda: len(service.get("/stats").json()["kafka"]["partitions"]) == 3)
    assert service.stop() == 0
    for _ in range(kills):
        sell(sales, sold, 200)
        before = sales.committed()
        assert service.run("tests.support.failpoints", "sales", failpoint) == -signal.SIGKILL
        assert sales.committed() == before, "killed before it could commit"
    assert sales.count() > 0, "killed after it had stored"
    service.start()
    assert_each_once(sales, sold)
    assert duplicates(service) > sold.duplicates, "what was stored before the kill came again, and did no harm"


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=ALL)])
def test_killed_again_and_again_under_load(sales: Sales, kills: int) -> None:
    chosen = random.Random(kills)
    sold = Sold()
    service = sales.start(**SMALL)
    with selling(sales, sold):
        for _ in range(kills):
            flows(sales)
            time.sleep(chosen.random() / 5)
            service.kill()
            service.start(ready=False)
    assert_each_once(sales, sold)


def test_the_answer_to_an_insertion_is_lost(sales: Sales) -> None:
    sold = Sold()
    sell(sales, sold, 1_000)
    service = sales.service(**SMALL).start(instead=["tests.support.failpoints", "sales", DOCUMENTS_ANSWERS_LOST])
    assert_each_once(sales, sold)
    until("all is settled", lambda: sum(sales.committed().values()) == 1_000)
    assert service.metric("consumer_database_waits_total") > 0
    assert duplicates(service) == sold.duplicates, "what its own first attempt had stored is no duplicate"
    assert service.metric("sales_events_processed_total", status="stored") == len(sold.first)


# --- 17: rebalance


@pytest.mark.parametrize("rounds", [2, pytest.param(40, marks=ALL)])
def test_a_second_consumer_comes_and_goes(sales: Sales, rounds: int) -> None:
    sold = Sold()
    first = sales.start(**ANONYMOUS)
    with selling(sales, sold):
        flows(sales)
        second = sales.start(**ANONYMOUS)
        for number in range(rounds):
            both_store(first, second)
            time.sleep(3)
            if number % 2:
                assert second.stop() == 0
            else:
                second.kill()
            flows(sales)
            second.start(ready=False)
        both_store(first, second)
        assert second.stop() == 0
    assert_each_once(sales, sold)
    until("no record waits", lambda: first.metric("kafka_consumer_lag_milliseconds") == 0, seconds=30)


def stored(service: Service) -> float:
    return service.metric("sales_events_processed_total", status="stored")


def both_store(first: Service, second: Service) -> None:
    before = [(each, stored(each)) for each in (first, second)]
    until("both store", lambda: all(stored(each) > had for each, had in before), seconds=90)


@pytest.mark.parametrize("seconds", [15, pytest.param(60, marks=ALL)])
def test_a_consumer_that_was_frozen_for_longer_than_its_session(sales: Sales, seconds: int) -> None:
    sold = Sold()
    first, second = sales.start(**ANONYMOUS), sales.start(**ANONYMOUS)
    with selling(sales, sold):
        both_store(first, second)
        with first.frozen():
            time.sleep(seconds)
            flows(sales)
        both_store(first, second)
    assert_each_once(sales, sold)


# --- 20: MongoDB away


@pytest.mark.parametrize("seconds", [10, pytest.param(300, marks=ALL)])
def test_mongodb_killed_under_load_and_away_for_any_length_of_time(sales: Sales, mongo: Mongo, seconds: int) -> None:
    sold = Sold()
    service = sales.start(**SMALL)
    with selling(sales, sold):
        for outage in (2, seconds):
            flows(sales)
            mongo.kill()
            try:
                time.sleep(outage)
                committed = sales.committed()
                until("it is noticed", lambda: service.get("/health/ready").status_code == 503)
                assert service.get("/health/live").status_code == 200
                stats = service.get("/stats").json()
                assert (stats["mongodb"]["status"], stats["kafka"]["status"]) == ("down", "up")
                assert service.metric("kafka_consumer_lag_milliseconds") > 0
                time.sleep(1)
                assert sales.committed() == committed, "nothing is committed meanwhile"
            finally:
                mongo.start()
            flows(sales)
    service.wait("/health/ready")
    assert_each_once(sales, sold)


@pytest.mark.parametrize("seconds", [8, pytest.param(120, marks=ALL)])
def test_mongodb_frozen_under_load(sales: Sales, mongo: Mongo, seconds: int) -> None:
    sold = Sold()
    service = sales.start(**SMALL, MONGODB_TIMEOUT_SECONDS="3")
    with selling(sales, sold):
        flows(sales)
        mongo.pause()
        try:
            time.sleep(seconds)
        finally:
            mongo.resume()
        flows(sales)
    assert service.metric("consumer_database_waits_total") > 0
    assert_each_once(sales, sold)


def test_started_while_mongodb_is_away(sales: Sales, mongo: Mongo) -> None:
    sold = Sold()
    sell(sales, sold, 200)
    mongo.kill()
    try:
        service = sales.service().start(ready=False)
        time.sleep(3)
        assert service.get("/health/ready").status_code == 503
    finally:
        mongo.start()
    assert_each_once(sales, sold)


@pytest.mark.parametrize("how", ["dead", "frozen"])
def test_ends_in_order_within_half_a_minute_while_mongodb_is_away(sales: Sales, mongo: Mongo, how: str) -> None:
    away, back = (mongo.kill, mongo.start) if how == "dead" else (mongo.pause, mongo.resume)
    sold = Sold()
    service = sales.start(**SMALL)
    sell(sales, sold, 100)
    assert_each_once(sales, sold)
    away()
    try:
        sell(sales, sold, 200)
        until("they are in hand", lambda: service.metric("kafka_consumer_lag_milliseconds") > 0)
        time.sleep(1)
        assert service.stop(30) == 0
    finally:
        back()
    service.start()
    assert_each_once(sales, sold)


# --- 21: poison


@pytest.mark.parametrize("place", [0, 500, 999])
def test_poison_among_a_thousand(sales: Sales, place: int) -> None:
    sales.start(BATCH_SIZE="1000")
    good = [
        SalesEvent(sku="s", qty=1, price=1, ts=TS, event_id=f"{number}").SerializeToString() for number in range(1_000)
    ]
    for poison in (b"\xff", b"", SalesEvent(sku="s", qty=-1, price=1, ts=TS).SerializeToString()):
        values: list[bytes | None] = [*good]
        values[place] = poison
        sales.put(values)
    elsewhere = SalesEvent(sku="s", qty=1, price=1, ts=TS, event_id="elsewhere").SerializeToString()
    sales.put([elsewhere], partition=1)
    until("its neighbours and the other partition are stored", lambda: sales.count() == 1_000)
    assert set(sales.documents()) == {"elsewhere", *(str(number) for number in range(1_000) if number != place)}
    letters = sales.letters(3).values()
    assert {int(letter.headers["__connect.errors.offset"]) for letter in letters} == {
        place,
        1_000 + place,
        2_000 + place,
    }
