"""The analytics service on a real Postgres."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import psycopg
import pytest

from analytics_service.routes import KINDS, Kind
from analytics_service.settings import AnalyticsSettings
from analytics_service.store import open_reader
from tests.conftest import Platform
from tests.oracles.events import Event, store_events
from tests.support.backend import Backend
from tests.support.wait import query, until
from tools.migrate.__main__ import upgrade

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 1, tzinfo=UTC)


def insert(platform: Platform, number: int) -> None:
    """``number`` events a minute apart from START on; three users, two names."""
    with psycopg.connect(platform.database_url) as connection:
        store_events(
            connection,
            [
                Event(START + timedelta(minutes=n), f"user_{n % 3}", "view" if n % 2 else "buy", metadata={"n": n % 5})
                for n in range(number)
            ],
        )


def test_it_counts_what_lies_in_the_range_with_its_end_left_out(platform: Platform) -> None:
    insert(platform, 60)
    service = platform.start("analytics_service")

    def counted(**params: Any) -> int:
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
    assert counted(**whole, event_name=["buy", "view"], user_id="user_1") == 20
    assert counted(**whole, metadata=["n=3"]) == 12
    assert counted(**whole, metadata=["n=3", "n=4"], event_name="view") == 12


async def test_its_connections_can_only_read(database_url: str) -> None:
    settings = AnalyticsSettings(database_url=database_url)
    async with open_reader(settings) as pool, pool.acquire() as connection:
        assert await connection.fetchval("show transaction_read_only") == "on"
        # Even a session that has made itself writable has no right to anything.
        await connection.execute("set default_transaction_read_only = off")
        for statement in (
            "delete from analytics.events",
            "delete from public.events",
            "select * from public.events",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)


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
    service = platform.start("analytics_service", ANALYTICS_STATEMENT_TIMEOUT_SECONDS="0.01")
    reply = service.get(
        "/analytics/timeseries", from_ts="2026-01-01", to_ts="2026-01-07", bucket="1m", zone="Europe/Berlin"
    )
    assert (reply.status_code, reply.json()["error_code"]) == (422, "query_too_slow")
    assert "0.01 s" in reply.json()["error_message"]


def test_a_table_that_somebody_locks_is_no_fault_of_the_question(platform: Platform) -> None:
    service = platform.start("analytics_service", ANALYTICS_STATEMENT_TIMEOUT_SECONDS="1")
    with psycopg.connect(platform.database_url) as blocker:
        blocker.execute("lock table events in access exclusive mode")
        reply = service.get("/analytics/events/count", from_ts="2026-01-01", to_ts="2026-01-02", user_id="u")
    assert (reply.status_code, reply.json()["retryable"]) == (503, True)
    assert "postgres" not in reply.json()["error_message"], "nothing of where the database is"


def test_questions_that_are_stuck_leave_room_for_what_is_quick_and_end_with_their_clients(platform: Platform) -> None:
    insert(platform, 5)
    service = platform.start("analytics_service", ANALYTICS_POOL_SIZE="2", ANALYTICS_STATEMENT_TIMEOUT_SECONDS="30")
    day = {"from_ts": "2026-01-01", "to_ts": "2026-01-02"}
    assert service.get("/analytics/events/count", **day).json()["count"] == 5

    def stuck(user: str) -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{service.url}/analytics/events/count", params={**day, "user_id": user}, timeout=4)

    with psycopg.connect(platform.database_url) as blocker, ThreadPoolExecutor(2) as pool:
        blocker.execute("lock table events in access exclusive mode")
        waiting = [pool.submit(stuck, user) for user in ("a", "b")]
        until("both are stuck", lambda: _locked(platform) == 2)
        kept = service.get("/analytics/events/count", **day)
        assert (kept.status_code, kept.headers["x-cache"]) == (200, "hit")
        assert service.get("/health/ready").status_code == 200
        refused = service.get("/analytics/events/count", **day, user_id="c")
        assert (refused.status_code, refused.json()["error_code"]) == (503, "overloaded")
        for one in waiting:
            one.result()
        until("their work ends", lambda: _locked(platform) == 0, seconds=3)


def _locked(platform: Platform) -> int:
    """How many of the service's sessions wait for a lock."""
    [(number,)] = query(
        platform.database_url,
        "select count(*) from pg_stat_activity where application_name = 'analytics_service' and wait_event_type = 'Lock'"
        " and datname = current_database()",
    )
    return int(number)


def test_before_the_migration_the_service_waits_and_then_answers(
    backend: Backend, empty_database: str, platform: Platform
) -> None:
    service = platform.start("analytics_service", ready=False, DATABASE_URL=empty_database)
    reply = service.get("/analytics/events/count", from_ts="2026-01-01", to_ts="2026-01-02")
    assert (reply.status_code, reply.json()["error_code"]) == (503, "database_unavailable")
    upgrade(empty_database)
    service.wait("/health/ready")
    reply = service.get("/analytics/events/count", from_ts="2026-01-01", to_ts="2026-01-02")
    assert (reply.status_code, reply.json()["count"]) == (200, 0)


HOSTILE = ("' or 1=1 --", '"; drop table events; -- {}', "$$; delete from events; $$ E'\\x27\n\\")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.question.KIND))
def test_injection_strings_change_nothing_and_leak_nothing(platform: Platform, kind: Kind) -> None:
    insert(platform, 30)
    service = platform.start("analytics_service")
    whole = {"from_ts": "2026-01-01T00:00:00Z", "to_ts": "2026-01-01T01:00:00Z"}
    for hostile in HOSTILE:
        for parameter in kind.question.model_fields:
            for value in (hostile, f"a={hostile}", f"metadata.{hostile}"):
                reply = service.get(
                    quote(kind.path.replace(":path", "").format(user_id="user_1", experiment="x")),
                    **{**whole, parameter: value},
                )
                assert reply.status_code in (200, 422), (parameter, value, reply.text)
                for leak in ("syntax error", "analytics.", "pg_", "asyncpg", "Traceback", "SELECT", "relation"):
                    assert leak not in reply.text.replace(hostile, ""), (parameter, value, reply.text)
    assert service.get("/analytics/events/count", **whole).json()["count"] == 30
