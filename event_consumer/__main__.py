"""``python -m event_consumer events``: runs a pipeline until SIGTERM."""

from __future__ import annotations

from event_consumer.events.pipeline import build
from event_consumer.settings import ConsumerSettings
from event_core.main import run_service

if __name__ == "__main__":
    run_service(
        "event_consumer",
        "Store the events of Kafka in Postgres, each once.",
        ConsumerSettings,
        build,
        pipelines=("events",),
    )
