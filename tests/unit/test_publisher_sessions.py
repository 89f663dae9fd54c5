"""The breaker against a Kafka whose faults are scripted, with the real spool on disk; Kafka itself is in tests/contract."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from event_core.codec import Record
from event_core.errors import BrokerUnavailable, Overloaded, TooLarge
from event_core.topics import partition_for
from ingestion_service.delivery import Delivery, Stored
from ingestion_service.errors import BufferFull
from ingestion_service.kafka_publisher import KafkaPublisher
from ingestion_service.link import Opened
from ingestion_service.metrics import Metrics
from ingestion_service.settings import IngestionSettings
from ingestion_service.spool.store import Chunk
from tests.unit.scripted_kafka import ScriptedKafka

DEADLINE = 0.2

Start = Callable[..., Awaitable[KafkaPublisher]]


@pytest.fixture
def kafka() -> ScriptedKafka:
    return ScriptedKafka()


@pytest.fixture
async def start(kafka: ScriptedKafka, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a publisher; with ``buffer_dir=None`` one without a spool."""
    made: list[KafkaPublisher] = []

    async def start(**settings: Any) -> KafkaPublisher:
        given = {"buffer_dir": tmp_path / "buffer", "kafka_publish_timeout_seconds": DEADLINE, **settings}
        publisher = KafkaPublisher(IngestionSettings(**given), Metrics(), connect=kafka.connect)
        await publisher.start()
        made.append(publisher)
        return publisher

    yield start
    for publisher in made:
        await publisher.stop()


def record(number: int = 0, key: bytes = b"u", size: int = 0) -> Record:
    return Record(key, b"%d" % number + b"x" * size, [("event-id", b"%d" % number)])


async def settled(deliveries: Iterable[Delivery]) -> list[Stored]:
    async with asyncio.timeout(10):
        return [await delivery.wait() for delivery in deliveries]


async def until(true: Callable[[], object], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


async def connected(publisher: KafkaPublisher) -> None:
    await until(lambda: publisher.status().kafka_connected and not publisher.status().spooling)


async def test_while_kafka_is_there_nothing_goes_to_disk(kafka: ScriptedKafka, start: Start) -> None:
    publisher = await start()
    await connected(publisher)
    assert await settled(publisher.publish("events", [record(n) for n in range(5)])) == [Stored.KAFKA] * 5
    assert kafka.of_key("events", b"u") == [b"0", b"1", b"2", b"3", b"4"]
    assert publisher.status().buffered_events == 0


async def test_before_kafka_is_there_events_are_durable_on_disk_and_reach_it_later(
    kafka: ScriptedKafka, start: Start
) -> None:
    kafka.down = True
    publisher = await start()
    assert await settled(publisher.publish("events", [record(n) for n in range(5)])) == [Stored.DISK] * 5
    assert publisher.status().spooling
    kafka.down = False
    await connected(publisher)
    assert kafka.of_key("events", b"u") == [b"0", b"1", b"2", b"3", b"4"]
    await until(lambda: publisher.status().buffered_events == 0)


@pytest.mark.parametrize("fault", ["down", "frozen"])
async def test_what_was_in_flight_when_kafka_went_goes_to_disk_before_anything_newer(
    kafka: ScriptedKafka, start: Start, fault: str
) -> None:
    publisher = await start()
    await connected(publisher)
    await settled(publisher.publish("events", [record(0)]))
    setattr(kafka, fault, True)
    began = time.monotonic()
    waiting = publisher.publish("events", [record(1)])
    await asyncio.sleep(0)
    waiting += publisher.publish("events", [record(2)])
    assert await settled(waiting) == [Stored.DISK] * 2
    assert time.monotonic() - began < 10 * DEADLINE
    assert await settled(publisher.publish("events", [record(3)])) == [Stored.DISK]
    setattr(kafka, fault, False)
    await connected(publisher)
    assert await settled(publisher.publish("events", [record(4)])) == [Stored.KAFKA]
    assert kafka.of_key("events", b"u") == [b"0", b"1", b"2", b"3", b"4"]
    assert kafka.sessions[0].abandoned


async def test_one_stuck_partition_spools_while_the_others_go_on(kafka: ScriptedKafka, start: Start) -> None:
    publisher = await start()
    await connected(publisher)
    keys = {partition_for(key, 3): key for key in (b"user-%d" % n for n in range(50))}
    kafka.stuck = {("events", 0)}
    assert await settled(publisher.publish("events", [record(1, keys[0])])) == [Stored.DISK]
    await until(lambda: publisher.status().kafka_connected)
    async with asyncio.timeout(10):
        while await publisher.publish("events", [record(2, keys[1])])[0].wait() is not Stored.KAFKA:
            await asyncio.sleep(0.01)
    began = time.monotonic()
    assert await settled(publisher.publish("events", [record(3, keys[0])])) == [Stored.DISK]
    assert time.monotonic() - began < DEADLINE, "a partition known to be stuck makes nobody wait for it"
    kafka.stuck = set()
    await connected(publisher)
    assert kafka.of_key("events", keys[0]) == [b"1", b"3"]


async def test_a_restart_drains_what_the_process_before_left_on_disk(kafka: ScriptedKafka, start: Start) -> None:
    kafka.down = True
    first = await start()
    await settled(first.publish("events", [record(n) for n in range(3)]))
    await first.stop()
    kafka.down = False
    second = await start()
    await connected(second)
    await settled(second.publish("events", [record(3)]))
    assert kafka.of_key("events", b"u") == [b"0", b"1", b"2", b"3"]


async def test_more_partitions_than_when_it_was_spooled_keep_each_users_order(
    kafka: ScriptedKafka, start: Start
) -> None:
    kafka.down = True
    publisher = await start(kafka_topic_partitions=3)
    keys = [b"user-%d" % n for n in range(20)]
    await settled(publisher.publish("events", [record(n, key) for n in range(5) for key in keys]))
    kafka.partitions["events"] = 7
    kafka.down = False
    await connected(publisher)
    await settled(publisher.publish("events", [record(5, key) for key in keys]))
    for key in keys:
        assert kafka.of_key("events", key) == [b"%d" % n for n in range(6)]
        assert {p for (t, p), log in kafka.logs.items() if t == "events" and any(r.key == key for r in log)} == {
            partition_for(key, 7)
        }


async def test_a_record_that_the_broker_refuses_becomes_a_dead_letter_alone(kafka: ScriptedKafka, start: Start) -> None:
    publisher = await start()
    await connected(publisher)
    kafka.largest["events"] = 1_000
    large = record(7, size=2_000)
    deliveries = publisher.publish(
        "events", [*(record(n) for n in range(7)), large, *(record(n) for n in range(8, 20))]
    )
    assert await settled(deliveries) == [Stored.DISK] * 20
    await until(lambda: publisher.status().buffered_events == 0)
    assert kafka.of_key("events", b"u") == [b"%d" % n for n in range(20) if n != 7]
    await connected(publisher)
    (letter,) = kafka.logs["events-dlq", partition_for(b"u", 3)]
    assert letter.value == large.value
    assert dict(letter.headers)["__connect.errors.topic"] == b"events"
    assert await settled(publisher.publish("events", [record(20)])) == [Stored.KAFKA]


@pytest.mark.parametrize("guilty", [5, 30])
async def test_many_refused_records_become_one_dead_letter_each(
    kafka: ScriptedKafka, start: Start, guilty: int
) -> None:
    kafka.down = True
    publisher = await start()
    kafka.largest["events"] = 1_000
    every = 1_000 // guilty
    sent = [record(n, size=2_000 if n % every == 0 else 0) for n in range(every * guilty)]
    await settled(publisher.publish("events", sent))
    kafka.down = False
    await until(lambda: publisher.status().buffered_events == 0, seconds=90)
    letters = [letter for (topic, _), log in kafka.logs.items() if topic == "events-dlq" for letter in log]
    assert sorted(letter.value for letter in letters) == sorted(one.value for one in sent if len(one.value) > 1_000)
    assert kafka.of_key("events", b"u") == [one.value for one in sent if len(one.value) < 1_000]


async def test_a_refused_record_that_can_be_set_aside_nowhere_stays_on_disk(
    kafka: ScriptedKafka, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise BufferFull("the quarantine is full")

    publisher = await start()
    await connected(publisher)
    kafka.largest = {"events": 10, "events-dlq": 10}
    with monkeypatch.context() as patch:
        patch.setattr("ingestion_service.spool.quarantine.Quarantine.keep", full)
        await settled(publisher.publish("events", [record(1, size=50)]))
        await asyncio.sleep(2)
        assert publisher.status().buffered_events >= 1
    kafka.largest = {}
    await until(lambda: publisher.status().buffered_events == 0)
    letters = [letter for (topic, _), log in kafka.logs.items() if topic == "events-dlq" for letter in log]
    assert letters
    # Its own topic refused it while the event was being set aside: it may come again, as the same letter.
    assert len({dict(letter.headers)["dead-letter-id"] for letter in letters}) == 1


async def test_a_task_that_is_cancelled_before_its_first_step_leaves_its_partition_usable(
    kafka: ScriptedKafka, start: Start
) -> None:
    publisher = await start()
    await connected(publisher)
    deliveries = publisher.publish("events", [record(1)])
    publisher._link.lose(kafka.session_of(publisher), "within the same step")
    assert await settled(deliveries) == [Stored.DISK]
    await connected(publisher)
    assert await settled(publisher.publish("events", [record(2)])) == [Stored.KAFKA]
    assert kafka.of_key("events", b"u") == [b"1", b"2"]


async def test_an_unreadable_disk_stops_neither_new_events_nor_other_partitions(
    kafka: ScriptedKafka, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise OSError(24, "too many open files")

    kafka.down = True
    publisher = await start(kafka_topic_partitions=3)
    keys = {partition_for(key, 3): key for key in (b"user-%d" % n for n in range(50))}
    await settled(publisher.publish("events", [record(1, keys[0])]))
    with monkeypatch.context() as patch:
        patch.setattr("ingestion_service.spool.store.SpoolStore.read", unreadable)
        kafka.down = False
        await until(lambda: publisher.status().kafka_connected)
        assert await settled(publisher.publish("events", [record(2, keys[1])])) == [Stored.KAFKA]
        for number in range(20):
            assert await settled(publisher.publish("events", [record(3 + number, keys[0])])) == [Stored.DISK]
        assert len(kafka.sessions) == 1, "Kafka is not to blame"
    await connected(publisher)
    assert kafka.of_key("events", keys[0]) == [b"1", *(b"%d" % (3 + number) for number in range(20))]


async def test_a_topic_that_fails_at_once_leaves_the_others_to_kafka(kafka: ScriptedKafka, start: Start) -> None:
    publisher = await start()
    await connected(publisher)
    kafka.forbidden = {"product_events"}
    assert await settled(publisher.publish("product_events", [record(1)])) == [Stored.DISK]
    where = []
    for number in range(60):
        where += await settled(publisher.publish("events", [record(number)]))
        await asyncio.sleep(0.05)
    assert where.count(Stored.KAFKA) > 30
    assert len(kafka.sessions) < 10
    kafka.forbidden = set()
    await until(lambda: publisher.status().buffered_events == 0)
    assert kafka.values("product_events")[-1] == b"1"


async def test_an_adopted_buffer_goes_before_what_is_queued_and_keeps_the_order(
    kafka: ScriptedKafka, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = await start()
    await connected(publisher)
    kafka.delay = 0.05
    first = publisher.publish("events", [record(1)])
    await asyncio.sleep(0.01)
    second = publisher.publish("events", [record(2)])
    assert publisher._buffer is not None
    publisher._adopted(set(publisher._groups["events"][partition_for(b"u", 3)].lanes))
    third = publisher.publish("events", [record(3)])
    assert await settled([*first, *second, *third]) == [Stored.KAFKA, Stored.DISK, Stored.DISK]
    await until(lambda: publisher.status().buffered_events == 0)
    assert kafka.of_key("events", b"u") == [b"1", b"2", b"3"]


async def test_a_dead_letter_that_even_its_topic_refuses_goes_to_quarantine(
    kafka: ScriptedKafka, start: Start, tmp_path: Path
) -> None:
    publisher = await start()
    await connected(publisher)
    kafka.largest = {"events": 10, "events-dlq": 10}
    await settled(publisher.publish("events", [record(1, size=50)]))
    folder = tmp_path / "buffer" / "quarantine"
    await until(lambda: folder.is_dir() and any(b"xxxxx" in file.read_bytes() for file in folder.iterdir()))
    await connected(publisher)
    assert await settled(publisher.publish("events", [record(2)])) == [Stored.KAFKA]


async def test_a_dead_sender_task_is_noticed_without_traffic(kafka: ScriptedKafka, start: Start) -> None:
    publisher = await start()
    await connected(publisher)
    kafka.sessions[0].alive = False
    with pytest.raises(BrokerUnavailable):
        await publisher.ping()
    await until(lambda: len(kafka.sessions) == 2)
    await connected(publisher)
    await publisher.ping()
    assert await settled(publisher.publish("events", [record()])) == [Stored.KAFKA]


async def test_a_silent_broker_is_noticed_without_traffic(
    kafka: ScriptedKafka, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingestion_service.link.TICK_SECONDS", 0.01)
    monkeypatch.setattr("ingestion_service.link.PING_SECONDS", 0.05)
    publisher = await start()
    await connected(publisher)
    kafka.frozen = True
    await until(lambda: not publisher.status().kafka_connected)
    kafka.frozen = False
    await connected(publisher)


async def test_a_full_buffer_refuses_with_a_time_to_wait_and_takes_again_once_it_has_drained(
    kafka: ScriptedKafka, start: Start
) -> None:
    kafka.down = True
    publisher = await start(max_buffer_size_mb=8)
    noise = random.Random(1)
    stored, refused = 0, None
    while refused is None:
        try:
            (where,) = await settled(
                publisher.publish("events", [Record(b"u%d" % stored, noise.randbytes(200_000), [])])
            )
            stored += where is Stored.DISK
        except BufferFull as error:
            refused = error
    assert stored > 10
    assert 1 <= refused.retry_after <= 60
    with pytest.raises(BufferFull):
        await publisher.ping_disk()
    kafka.down = False
    await until(lambda: publisher.status().buffered_events == 0)
    assert len(set(kafka.values("events"))) == stored
    kafka.down = True
    await until(lambda: not publisher.status().kafka_connected)
    assert await settled(publisher.publish("events", [Record(b"u", b"again", [])])) == [Stored.DISK]
    await publisher.ping_disk()


async def test_without_a_buffer_whatever_goes_wrong_everybody_is_answered_and_a_new_session_takes_over(
    kafka: ScriptedKafka, start: Start
) -> None:
    publisher = await start(buffer_dir=None)
    await connected(publisher)
    kafka.frozen = True
    waiting = publisher.publish("events", [record(1)])
    with pytest.raises(BrokerUnavailable):
        await settled(waiting)
    with pytest.raises(BrokerUnavailable):
        publisher.publish("events", [record(2)])
    with pytest.raises(BrokerUnavailable):
        await publisher.ping()
    kafka.frozen = False
    await connected(publisher)
    assert await settled(publisher.publish("events", [record(3)])) == [Stored.KAFKA]


async def test_without_a_buffer_a_record_that_the_broker_refuses_is_refused(kafka: ScriptedKafka, start: Start) -> None:
    publisher = await start(buffer_dir=None)
    await connected(publisher)
    kafka.largest["events"] = 100
    with pytest.raises(TooLarge):
        await settled(publisher.publish("events", [record(1, size=200)]))
    await connected(publisher)
    assert await settled(publisher.publish("events", [record(2)])) == [Stored.KAFKA]


async def test_without_a_buffer_only_the_guilty_record_is_refused_for_good(kafka: ScriptedKafka, start: Start) -> None:
    publisher = await start(buffer_dir=None)
    await connected(publisher)
    kafka.largest["events"] = 100
    records = [record(n, size=200 if n == 3 else 0) for n in range(6)]
    done: dict[int, str] = {}
    async with asyncio.timeout(20):
        while len(done) < 6:
            waiting: list[tuple[int, Delivery]] = []
            for number, one in enumerate(records):
                if number in done:
                    continue
                try:
                    waiting += [(number, delivery) for delivery in publisher.publish("events", [one])]
                except TooLarge:
                    done[number] = "refused"
                except BrokerUnavailable:
                    pass
            for number, delivery in waiting:
                try:
                    done[number] = (await delivery.wait()).value
                except TooLarge:
                    done[number] = "refused"
                except BrokerUnavailable:
                    pass
            await asyncio.sleep(0.02)
    assert done == {number: "refused" if number == 3 else "kafka" for number in range(6)}


async def test_too_much_at_once_is_refused_whole(kafka: ScriptedKafka, start: Start) -> None:
    publisher = await start(ingestion_max_pending_bytes=1 << 20)
    await connected(publisher)
    with pytest.raises(Overloaded):
        publisher.publish("events", [record(n, size=600_000) for n in range(2)])
    await asyncio.sleep(0.05)
    assert kafka.values("events") == []


async def test_a_keeper_that_dies_is_told_and_named(tmp_path: Path) -> None:
    async def impossible(_: Iterable[str]) -> Opened:
        raise ValueError("not an address")

    told: list[BaseException] = []
    settings = IngestionSettings(buffer_dir=tmp_path)
    publisher = KafkaPublisher(settings, Metrics(), on_failure=told.append, connect=impossible)
    await publisher.start()
    await until(lambda: told)
    assert str(told[0]) == "not an address"
    with pytest.raises(BrokerUnavailable, match="not an address"):
        await publisher.ping()
    await publisher.stop()


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_acknowledged_is_lost_and_each_users_order_holds_whatever_happens(
    kafka: ScriptedKafka, start: Start, seed: int
) -> None:
    """Random faults and restarts under load; what was acknowledged must be in the log, in each user's order."""
    chance = random.Random(seed)
    publisher = await start()
    keys = [b"user-%d" % n for n in range(12)]
    number = 0
    waiting: list[tuple[Record, Delivery]] = []
    for _ in range(60):
        match chance.randrange(14):
            case 0:
                kafka.down = True
            case 1:
                kafka.frozen = True
            case 2:
                kafka.stuck = {("events", chance.randrange(3))}
            case 3:
                kafka.delay = chance.choice([0.0, 0.01, 0.05])
            case 4 if chance.random() < 0.5:
                await publisher.stop()
                publisher = await start()
            case 5 if kafka.sessions:
                kafka.sessions[-1].alive = False
            case 6 | 7 | 8:
                kafka.down = kafka.frozen = False
                kafka.stuck = set()
        for _ in range(chance.randrange(8)):
            records = [record(number + n, chance.choice(keys)) for n in range(chance.randrange(1, 6))]
            number += len(records)
            waiting += zip(records, publisher.publish("events", records), strict=True)
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.02, 0.1]))
    kafka.down = kafka.frozen = False
    kafka.stuck = set()
    await connected(publisher)
    await settled(delivery for _, delivery in waiting)
    await until(lambda: publisher.status().buffered_events == 0)
    for key in keys:
        assert kafka.of_key("events", key) == [sent.value for sent, _ in waiting if sent.key == key]


async def test_what_kafka_has_is_forgotten_even_if_its_group_is_cancelled_meanwhile(
    kafka: ScriptedKafka, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka.down = True
    publisher = await start()
    await settled(publisher.publish("events", [record(n) for n in range(500)]))
    buffer = publisher._buffer
    assert buffer is not None
    real, calls = buffer.forget, 0

    async def forget(chunk: Chunk) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            buffer._reader.submit(time.sleep, 0.2)  # another group's read, or a step of compaction
            session = kafka.session_of(publisher)
            asyncio.get_running_loop().call_later(0.02, publisher._link.lose, session, "another group failed")
        await real(chunk)

    monkeypatch.setattr(buffer, "forget", forget)
    kafka.down = False
    await until(lambda: publisher.status().buffered_events == 0)
    assert kafka.values("events") == [b"%d" % n for n in range(500)], "each once"


async def test_a_stop_in_the_middle_of_sending_leaves_no_producer_behind(kafka: ScriptedKafka, start: Start) -> None:
    publisher = await start()
    await connected(publisher)
    kafka.delay = DEADLINE * 0.7
    waiting = publisher.publish("events", [record(1)])
    await asyncio.sleep(0.02)
    waiting += publisher.publish("events", [record(2)])
    await asyncio.sleep(0.02)
    await publisher.stop()
    assert Stored.DISK in await settled(waiting)
    assert all(session.abandoned for session in kafka.sessions)


async def test_a_producer_that_cannot_be_closed_keeps_nobody_from_closing_the_disk(
    kafka: ScriptedKafka, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = await start()
    await connected(publisher)

    async def close() -> None:
        raise RuntimeError("one of its tasks had died")

    monkeypatch.setattr(kafka.session_of(publisher), "close", close)
    await publisher.stop()
    assert kafka.sessions[0].abandoned
    assert publisher._buffer is not None
    assert publisher._buffer._writer._shutdown


async def test_partitions_that_acknowledged_are_not_sent_again_when_another_one_fails(
    kafka: ScriptedKafka, start: Start
) -> None:
    kafka.partitions = dict.fromkeys(kafka.partitions, 5)
    publisher = await start(kafka_topic_partitions=5)
    await connected(publisher)
    records = [record(n, b"key-%d" % n) for n in range(50)]
    order = list(dict.fromkeys(partition_for(one.key, 5) for one in records))
    kafka.stuck = {("events", order[-1])}
    assert await settled(publisher.publish("events", records)) == [Stored.DISK] * 50
    kafka.stuck = set()
    await until(lambda: publisher.status().buffered_events == 0)
    for (topic, partition), log in kafka.logs.items():
        if topic == "events" and partition != order[-1]:
            assert len(log) == len({one.value for one in log})
    assert set(kafka.values("events")) == {one.value for one in records}
