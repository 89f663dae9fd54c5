"""How far reading is behind, as of the moment somebody asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import isnan

import pytest
from prometheus_client import CollectorRegistry

from event_consumer.gaps import Gap, GapKind
from event_consumer.progress import Progress
from event_core.topics import TopicPartition

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)
START = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Scraped:
    """Progress whose clock the test sets, read through its metrics."""

    def __init__(self) -> None:
        self.now = START
        self.progress = Progress(lambda: self.now)
        self._registry = CollectorRegistry()
        self._registry.register(self.progress)

    def value(self, name: str, partition: TopicPartition = P0, **labels: str) -> float | None:
        labels = {"topic": partition.topic, "partition": str(partition.partition), **labels}
        return self._registry.get_sample_value(name, labels)

    def lag(self, partition: TopicPartition = P0) -> tuple[float | None, float | None]:
        return self.value("consumer_lag_records", partition), self.value("consumer_lag_seconds", partition)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def test_lag_in_seconds_grows_while_nothing_is_stored() -> None:
    scraped = Scraped()
    scraped.progress.take({P0: 0}, {P0: 10})
    scraped.progress.store(P0, 4, ms(START - timedelta(seconds=5)))
    assert scraped.lag() == (6, 5.0)
    scraped.wait(60)
    assert scraped.lag() == (6, 65.0)
    scraped.progress.hear({P0: 100})
    scraped.wait(3600)
    assert scraped.lag() == (96, 3665.0)


def test_lag_is_0_when_nothing_waits_however_old_the_last_record_is() -> None:
    scraped = Scraped()
    scraped.progress.take({P0: 0}, {P0: 10})
    scraped.progress.store(P0, 10, ms(START - timedelta(days=1)))
    scraped.wait(3600)
    assert scraped.lag() == (0, 0.0)
    scraped.progress.hear({P0: 5})  # an answer that was under way for long
    assert scraped.lag() == (0, 0.0)


def test_a_time_that_lies_ahead_is_no_negative_lag() -> None:
    scraped = Scraped()
    scraped.progress.take({P0: 0}, {P0: 10})
    scraped.progress.store(P0, 4, ms(START + timedelta(hours=1)))
    assert scraped.lag() == (6, 0.0)


def test_where_records_wait_and_nobody_knows_since_when_the_lag_is_no_number() -> None:
    scraped = Scraped()
    scraped.progress.take({P0: 0}, {P0: 10})
    scraped.progress.store(P0, 4, -1)
    records, seconds = scraped.lag()
    assert records == 6
    assert seconds is not None
    assert isnan(seconds)


def test_what_is_in_hand_is_as_old_as_its_oldest_record() -> None:
    scraped = Scraped()
    scraped.progress.take({P0: 0}, {P0: 10})
    scraped.progress.read(P0, 0, ms(START - timedelta(seconds=40)))
    scraped.progress.read(P0, 5, ms(START - timedelta(seconds=20)))
    assert scraped.lag() == (10, 40.0)
    scraped.progress.store(P0, 5, ms(START - timedelta(seconds=21)))
    assert scraped.lag() == (5, 20.0)
    scraped.progress.take({P0: 5}, {P0: 10})
    assert scraped.lag() == (5, 21.0), "read again later: known is the one before"


def test_an_assignment_forgets_what_is_no_longer_ours_and_keeps_the_times_of_the_rest() -> None:
    scraped = Scraped()
    scraped.progress.take({P0: 0, P1: 0}, {P0: 10, P1: 10})
    scraped.progress.store(P0, 4, ms(START))
    scraped.progress.stuck(P1, Gap(GapKind.EXPIRED, "why"), 2)
    scraped.wait(10)
    scraped.progress.take({P0: 4}, {P0: 20})
    assert scraped.lag(P0) == (16, 10.0)
    assert scraped.lag(P1) == (None, None)
    assert scraped.progress.gaps == {}
    scraped.progress.hear({P1: 50})
    assert scraped.lag(P1) == (None, None)


@pytest.mark.parametrize("kind", list(GapKind))
def test_a_gap_is_told_by_its_kind_until_it_is_closed(kind: GapKind) -> None:
    scraped = Scraped()

    def told() -> dict[GapKind, float | None]:
        return {each: scraped.value("consumer_gap", kind=each.value) for each in GapKind}

    scraped.progress.take({P0: 3}, {P0: 10})
    assert set(told().values()) == {0.0}
    scraped.progress.stuck(P0, Gap(kind, "why"), 3)
    scraped.progress.take({P0: 3}, {P0: 10})  # looked at again: still so until the contrary is found
    assert told() == {**dict.fromkeys(GapKind, 0.0), kind: 1.0}
    assert scraped.progress.gaps[P0].explanation == "why"
    scraped.progress.unstuck(P0)
    scraped.progress.unstuck(P0)
    assert set(told().values()) == {0.0}


def test_what_comes_after_a_quiet_time_has_waited_since_it_came() -> None:
    scraped = Scraped()
    scraped.progress.take({P0: 10}, {P0: 10})
    scraped.progress.store(P0, 10, ms(START))
    scraped.wait(3600)
    assert scraped.lag() == (0, 0.0)
    scraped.progress.hear({P0: 11})
    scraped.wait(5)
    scraped.progress.hear({P0: 12})
    assert scraped.lag() == (2, 5.0)


def test_of_a_log_that_is_not_the_one_that_was_read_everything_waits() -> None:
    scraped = Scraped()
    scraped.progress.take({P0: 4594}, {P0: 40})
    scraped.progress.store(P0, 4594, ms(START))
    scraped.progress.stuck(P0, Gap(GapKind.BEYOND_END, "why"), 0)
    scraped.wait(60)
    assert scraped.lag() == (40, 60.0)
