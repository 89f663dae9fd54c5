"""A week of a small shop, the same every time: what the documentation's example replies are about."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import psycopg

from tests.oracles.events import Event, store_events

START = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday."""
DAYS = 7
_NAMESPACE = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
_EXPERIMENT = "checkout_button"


def shop() -> list[Event]:
    """The events, oldest first."""
    chance = random.Random(20260105)
    events: list[Event] = []

    def add(user: str, name: str, at: datetime, **more: object) -> None:
        events.append(
            Event(at, user, name, source="web", event_id=uuid5(_NAMESPACE, f"{user} {name} {at}"), **more)  # type: ignore[arg-type]
        )

    for number in range(60):
        user, plan = f"user_{number}", ("free", "pro")[number % 3 == 0]
        visits = sorted(chance.sample(range(DAYS), chance.randint(1, 5)))
        for visit, day in enumerate(visits):
            at = START + timedelta(days=day, seconds=chance.randint(6 * 3600, 20 * 3600))
            for page in range(chance.randint(1, 4)):
                metadata = {"page": chance.choice(("/", "/shop", "/help")), "plan": plan}
                add(user, "page_view", at + timedelta(seconds=40 * page), metadata=metadata)
            if visit == 0:
                variant = "blue" if number % 2 else "green"
                add(user, "exposure", at + timedelta(seconds=200), experiment_id=_EXPERIMENT, variant=variant)
            if chance.random() < 0.6:
                add(user, "add_to_cart", at + timedelta(seconds=300), metadata={"plan": plan})
                if chance.random() < (0.6 if number % 2 else 0.4):
                    add(user, "purchase", at + timedelta(seconds=chance.randint(400, 9000)), metadata={"plan": plan})
    return sorted(events)


def store_shop(url: str) -> None:
    """Stores the week; nothing of it is on its way any more."""
    with psycopg.connect(url) as connection:
        store_events(connection, shop())
        connection.execute("update events set processed_at = received_at + interval '120 milliseconds'")
        connection.execute(
            "insert into consumer_offsets (consumer_group, topic, partition, next_offset, caught_up_at)"
            " values ('event_consumer', 'events', 0, 0, %s)",
            [START + timedelta(days=DAYS)],
        )
