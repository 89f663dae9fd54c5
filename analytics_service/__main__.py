"""``python -m analytics_service``: runs the service until SIGTERM."""

from __future__ import annotations

from analytics_service.app import Deps, create_app
from analytics_service.metrics import Metrics
from analytics_service.settings import AnalyticsSettings
from analytics_service.store import PostgresStore, open_reader
from event_core.main import Built, Service, run_service
from event_core.postgres import PostgresPing, opened
from event_core.telemetry import Tracing


def build(settings: AnalyticsSettings) -> Built:
    """The service, ready to be served."""
    metrics = Metrics()
    tracing = Tracing.from_settings(settings)
    pool = open_reader(settings)
    store = PostgresStore(pool, settings, metrics, tracing)
    built = Built(ports=[settings.analytics_port], ports_setting="ANALYTICS_PORT", registry=metrics.registry)
    deps = Deps(store, [PostgresPing(pool)], metrics, tracing, opened(pool), built.stop)
    built.app = create_app(settings, deps)
    return built


if __name__ == "__main__":
    run_service("analytics_service", "Answer questions about the stored events.", Service(AnalyticsSettings, build))
