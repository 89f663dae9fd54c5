"""The API, the views and Superset say the same number, also while events arrive."""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import httpx
import pytest

from tests.conftest import Platform
from tests.support.numbers import Ask, Numbers, Source, of_api, of_superset, of_view
from tests.support.process import Service
from tests.support.superset import Superset, SupersetError, open_superset
from tests.support.wait import count, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]  # the first run installs Superset

NAMES = ("page_view", "search", "add_to_cart", 'it\'s "new"')
TENANTS = ("default", "acme", "globex")
DAY, HOUR, MICROSECOND = timedelta(days=1), timedelta(hours=1), timedelta(microseconds=1)
ROUNDS = 3


class Sent(NamedTuple):
    timestamp: datetime
    event_name: str
    tenant_id: str


@pytest.fixture(scope="module")
def superset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Superset]:
    with open_superset(tmp_path_factory.mktemp("superset")) as running:
        yield running


def of_events(events: Sequence[Sent]) -> Source:
    """Counted one by one: the oracle."""

    def ask(what: Ask) -> Numbers:
        return Counter[object](
            {None: "all", "event_name": event.event_name, "day": midnight(event.timestamp)}[what.by]
            for event in events
            if what.from_ts <= event.timestamp < what.to_ts and what.event_name in (None, event.event_name)
        )

    return ask


def midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def some(chance: random.Random, number: int, start: datetime, end: datetime) -> list[Sent]:
    return [
        Sent(
            start + MICROSECOND * chance.randrange((end - start) // MICROSECOND),
            chance.choice(NAMES),
            chance.choice(TENANTS),
        )
        for _ in range(number)
    ]


def post(ingestion: Service, events: Sequence[Sent], *, again: bool = False) -> None:
    """Returns once all are acknowledged; ``again``: all are sent twice."""
    body = [
        {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "source": "/shop",
            "type": event.event_name,
            "time": event.timestamp.isoformat(),
            "tenantid": event.tenant_id,
            "userid": f"user_{number}",
        }
        for number, event in enumerate(events)
    ]
    for _ in range(1 + again):
        reply = httpx.post(
            f"{ingestion.url}/events",
            json=body,
            headers={"Content-Type": "application/cloudevents-batch+json"},
            timeout=30,
        )
        assert reply.status_code == 202, reply.text


@contextmanager
def arriving(ingestion: Service, sent: list[Sent], ranges: Sequence[tuple[datetime, datetime]]) -> Iterator[None]:
    """Events of the ``ranges`` and of now come in all the while; those acknowledged are added to ``sent``."""
    stop = threading.Event()

    def send() -> None:
        chance = random.Random(7)
        while not stop.wait(0.02):
            now = datetime.now(UTC)
            events = [*some(chance, 5, *chance.choice(ranges)), *some(chance, 5, now - HOUR, now)]
            post(ingestion, events, again=chance.random() < 0.2)
            sent.extend(events)

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        try:
            yield
        finally:
            stop.set()
        sending.result()


class Days:
    """Of four days ago on. The second is over for good, of the first and the third only the first six hours: in the rest of
    them events still arrive, late."""

    def __init__(self) -> None:
        self.first = midnight(datetime.now(UTC)) - 4 * DAY
        self.second, self.third, self.fourth = (self.first + n * DAY for n in (1, 2, 3))
        self.late = [(self.first + 6 * HOUR, self.second), (self.third + 6 * HOUR, self.fourth)]

    def settled(self) -> list[Sent]:
        """Events of the hours that are over, and some at the very edges."""
        chance = random.Random(5)
        edges = (self.second, self.third, self.first + 6 * HOUR)
        return [
            *(Sent(edge - before, NAMES[0], "acme") for edge in edges for before in (0 * MICROSECOND, MICROSECOND)),
            *some(chance, 300, self.second, self.third),
            *some(chance, 100, self.first, self.first + 6 * HOUR),
            *some(chance, 100, self.third, self.third + 6 * HOUR),
        ]

    def closed(self) -> list[Ask]:
        day = Ask(self.second, self.third)
        by_name, by_day = day._replace(by="event_name"), day._replace(by="day")
        return [day, by_name, by_day, day._replace(event_name=NAMES[3]), Ask(self.first, self.first + 6 * HOUR)]

    def ragged(self) -> list[Ask]:
        """Closed, but no whole quarters of an hour, which alone the stored counts know."""
        start, end = timedelta(hours=1, minutes=7, seconds=31.5), timedelta(minutes=2, microseconds=1)
        return [Ask(self.second + start, self.third - end), Ask(self.second + start, self.third - end, by="event_name")]

    def growing(self) -> list[Ask]:
        whole = Ask(self.first, self.first + 10 * DAY)
        return [whole, whole._replace(by="event_name"), whole._replace(by="day"), whole._replace(event_name=NAMES[0])]


def agree(sources: Sequence[Source], asks: Sequence[Ask], events: Sequence[Sent]) -> None:
    """All say exactly how many of ``events`` there are."""
    for what in asks:
        expected = of_events(events)(what)
        assert [source(what) for source in sources] == [expected] * len(sources), what


def compare_growing(sources: Sequence[Source], what: Ask) -> bool:
    """Each is asked once the one before it has answered; as events only become more, so must the answers, from one source to
    the next and around. Returns whether they did become more meanwhile."""
    answers = [source(what) for source in (*sources, *sources)]
    for earlier, later in pairwise(answers):
        assert earlier <= later, what
    return answers[0] != answers[-1]


def test_api_views_and_superset_say_the_same_while_events_arrive(platform: Platform, superset: Superset) -> None:
    ingestion, api = platform.start("ingestion_service"), platform.start("analytics_service")
    platform.start("event_consumer")
    days, url = Days(), platform.database_url
    settled = days.settled()
    post(ingestion, settled)
    until("all are stored", lambda: count(url) == len(settled))
    sent = list(settled)
    with superset.reading(url) as analyst:
        of_any_range = [
            of_view(url, "events", "count(*)", "timestamp"),
            of_api(api),
            of_superset(analyst, "events", "COUNT(*)", "timestamp"),
        ]
        everybody = [
            *of_any_range,
            of_view(url, "event_counts", "sum(events)", "bucket"),
            of_superset(analyst, "event_counts", "SUM(events)", "bucket"),
        ]
        changes = 0
        with arriving(ingestion, sent, days.late):
            for _ in range(ROUNDS):
                before = count(url)
                changes += sum(compare_growing(everybody, what) for what in days.growing())
                agree(everybody, days.closed(), settled)
                agree(of_any_range, days.ragged(), settled)
                until("more have arrived", partial(has_more, url, before))
        assert changes, "nothing arrived while the answers were compared"
        until("all are stored", lambda: count(url) == len(sent))
        agree(everybody, [*days.growing(), *days.closed()], sent)
        agree(of_any_range, days.ragged(), sent)


def has_more(database_url: str, events: int) -> bool:
    return count(database_url) > events


def test_by_way_of_superset_the_views_can_be_read_and_nothing_else(database_url: str, superset: Superset) -> None:
    with superset.reading(database_url) as analyst:
        assert analyst.run("select count(*) as n from analytics.events") == [{"n": 0}]
        for statement, what in (
            ("select count(*) from public.events", "table events"),
            ("select * from public.event_counts_15m", "table event_counts_15m"),
            ("delete from analytics.events", "view events"),
            ("update analytics.event_counts set events = 0", "view event_counts"),
            ("create table analytics.mine (a integer)", "schema analytics"),
            ("create table public.mine (a integer)", "schema public"),
        ):
            with pytest.raises(SupersetError, match=f"permission denied for {what}"):
                analyst.run(statement)
        table = analyst.dataset("events", schema="public")
        now = datetime.now(UTC)
        with pytest.raises(SupersetError, match="permission denied for table events"):
            analyst.chart(table, "COUNT(*)", "timestamp", now - DAY, now)
