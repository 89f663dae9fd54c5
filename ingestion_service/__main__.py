"""``python -m ingestion_service``: runs the service until SIGTERM."""

from __future__ import annotations

from event_core.health import Ping
from event_core.main import Built, Service, run_service
from event_core.telemetry import Tracing
from ingestion_service.app import Deps, create_app
from ingestion_service.buffer import require_usable
from ingestion_service.kafka_publisher import KafkaPublisher
from ingestion_service.metrics import Metrics
from ingestion_service.settings import IngestionSettings


def build(settings: IngestionSettings) -> Built:
    """The service, ready to be served. Raises ConfigurationError."""
    require_usable(settings.buffer_dir)
    metrics = Metrics()
    built = Built(ports=settings.ingestion_ports, ports_setting="INGESTION_PORTS", registry=metrics.registry)
    publisher = KafkaPublisher(settings, metrics, on_failure=built.fail)
    pings: list[Ping] = [publisher]
    if settings.buffer_dir is not None:
        pings.append(publisher.disk)
    built.app = create_app(settings, Deps(publisher, pings, metrics, Tracing.from_settings(settings)))
    return built


if __name__ == "__main__":
    run_service(
        "ingestion_service", "Take events over HTTP and publish them to Kafka.", Service(IngestionSettings, build)
    )
