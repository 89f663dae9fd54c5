"""The analytics service on a real Postgres."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import psycopg
import pytest

from analytics_service.settings import AnalyticsSettings
from analytics_service.store import open_reader
from tests.conftest import Platform
from tests.support.backend import Backend

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 1, tzinfo=UTC)


def insert(platform: Platform, number: int) -> None:
    """``number`` events a minute apart from START on; three users, two names."""
    with psycopg.connect(platform.database_url) as connection, connection.cursor() as cursor:
        cursor.executemany(
            'insert into events (event_id, user_id, event_name, "timestamp", received_at) values (%s, %s, %s, %s, now())',
            [
                (uuid.uuid4(), f"user_{n % 3}", "view" if n % 2 else "buy", START + timedelta(minutes=n))
                for n in range(number)
            ],
        )


def test_it_counts_what_lies_in_the_range_with_its_end_left_out(platform: Platform) -> None:
    insert(platform, 60)
    service = platform.start("analytics_service")

    def counted(**params: str) -> int:
        reply = service.get("/analytics/events/count", **params)
        assert reply.status_code == 200, reply.text
        return int(reply.json()["count"])

    whole = {"from_ts": "2026-01-01T00:00:00Z", "to_ts": "2026-01-01T01:00:00Z"}
    assert counted(**whole) == 60
    assert counted(from_ts="2026-01-01T00:00:00Z", to_ts="2026-01-01T00:59:00Z") == 59
    assert counted(from_ts="2026-01-01T00:01:00Z", to_ts="2026-01-01T01:00:00Z") == 59
    assert counted(from_ts="2026-01-01T02:00:00+02:00", to_ts="1767229200") == 60
    assert counted(**whole, event_name="buy") == 30
    assert counted(**whole, user_id="user_0") == 20
    assert counted(**whole, user_id="user_0", event_name="buy") == 10
    assert counted(**whole, user_id="nobody") == 0
    assert counted(**whole, event_name="' or 1=1 --") == 0


async def test_its_connections_can_only_read(database_url: str) -> None:
    settings = AnalyticsSettings(database_url=database_url)
    async with open_reader(settings) as pool:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await pool.execute("delete from events")


def test_a_database_that_is_down_means_503_and_recovery_by_itself(platform: Platform, backend: Backend) -> None:
    service = platform.start("analytics_service")
    question = {"from_ts": "2026-01-01", "to_ts": "2026-01-02"}
    assert service.get("/analytics/events/count", **question).status_code == 200
    backend.kill_postgres()
    try:
        reply = service.get("/analytics/events/count", **question)
        assert reply.status_code == 503
        assert reply.json()["error_code"] == "database_unavailable"
        assert int(reply.headers["retry-after"]) >= 1
        assert "postgres:postgres" not in reply.text
        assert service.get("/health/ready").status_code == 503
    finally:
        backend.start_postgres()
    service.wait("/health/ready")
    assert service.get("/analytics/events/count", **question).status_code == 200


def test_a_query_over_its_time_limit_says_so(platform: Platform) -> None:
    service = platform.start("analytics_service", ANALYTICS_STATEMENT_TIMEOUT_SECONDS="0.5")
    with psycopg.connect(platform.database_url) as blocker:
        blocker.execute("lock table events in access exclusive mode")
        reply = service.get("/analytics/events/count", from_ts="2026-01-01", to_ts="2026-01-02")
    assert (reply.status_code, reply.json()["error_code"]) == (422, "query_too_slow")
    assert "0.5 s" in reply.json()["error_message"]
