"""``python -m event_consumer [events | sales]``: runs a pipeline until SIGTERM."""

from __future__ import annotations

from event_consumer.sales.settings import SalesSettings
from event_consumer.settings import ConsumerSettings
from event_core.main import Built, Service, run_service

# Imported only where it runs: neither pipeline's process needs the other's database client.


def _events(settings: ConsumerSettings) -> Built:
    from event_consumer.events.pipeline import build

    return build(settings)


def _sales(settings: SalesSettings) -> Built:
    from event_consumer.sales.pipeline import build

    return build(settings)


if __name__ == "__main__":
    run_service(
        "event_consumer",
        "Store what Kafka holds, each message once: events in Postgres, or sales in MongoDB.",
        Service(ConsumerSettings, _events, "events"),
        Service(SalesSettings, _sales, "sales"),
    )
