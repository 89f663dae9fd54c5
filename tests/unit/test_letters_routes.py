"""The routes under /dead-letters are closed without the key, and documented. What they do is tested on a real Postgres."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.types import ASGIApp

from event_consumer.app import Deps, create_app
from event_consumer.letters.desk import Desk
from event_consumer.letters.routes import dead_letter_router
from event_consumer.metrics import Metrics
from event_consumer.settings import ConsumerSettings
from event_core.errors import ConfigurationError
from event_core.postgres import open_pool
from event_core.settings import describe, load
from tests.unit.ingestion import ERROR_KEYS

KEY = "0123456789abcdef"


def app(key: str | None = KEY) -> ASGIApp:
    """Its database is away: a reply about it shows that the key was taken."""
    settings = load(
        ConsumerSettings, database_url="postgresql://postgres:hunter2@127.0.0.1:1/x", database_timeout_seconds=2
    )
    desk = Desk(open_pool(settings, size=1, application="test"), settings)
    router = dead_letter_router(desk, SecretStr(key) if key is not None else None)
    return create_app("test", Deps(_pipeline, [], Metrics(), lambda _: None, [router]))


async def _pipeline(_: object) -> None:
    raise AssertionError("no pipeline runs without the lifespan")


async def ask(asgi: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(asgi, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **options)


ROUTES = [
    ("GET", "/dead-letters"),
    ("GET", "/dead-letters/01990000-0000-7000-8000-000000000001"),
    ("POST", "/dead-letters/replay"),
    ("POST", "/dead-letters/discard"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": "é"},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
    ],
)
async def test_without_the_key_nothing_is_said(method: str, path: str, headers: dict[str, str]) -> None:
    given = {name: value.encode() for name, value in headers.items()}
    reply = await ask(app(), method, path, headers=given, content=b"{")
    assert reply.status_code == 401
    assert reply.json().keys() == ERROR_KEYS
    assert reply.json()["error_code"] == "unauthorized"
    assert reply.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_where_no_key_is_set_the_routes_are_closed_and_name_the_setting(method: str, path: str) -> None:
    reply = await ask(app(None), method, path, headers={"X-API-Key": ""})
    assert (reply.status_code, reply.json()["error_code"]) == (403, "admin_key_unset")
    assert "ADMIN_API_KEY" in reply.json()["error_message"]


@pytest.mark.parametrize(
    "headers", [{"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY}"}]
)
async def test_with_the_key_the_work_is_tried(headers: dict[str, str]) -> None:
    asgi = app()
    for wrong in ("limit=0", "limit=1001", "state=gone", "event_id=x", "since=2026-01-01T00:00:00", "unknown=1"):
        reply = await ask(asgi, "GET", f"/dead-letters?{wrong}", headers=headers)
        assert (reply.status_code, reply.json()["error_code"]) == (422, "invalid_request"), wrong


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("replay", {}, "bad_selection"),
        ("replay", {"all": True, "reason": "x"}, "bad_selection"),
        ("replay", {"all": True, "value": "a", "value_base64": "YQ=="}, "bad_selection"),
        ("replay", {"ids": ["x"]}, "invalid_request"),
        ("replay", {"unknown": 1}, "invalid_request"),
        ("replay", {"all": True, "to_topic": "elsewhere"}, "bad_selection"),
        ("replay", {"all": True, "set": {"a": 1}}, "bad_selection"),
        ("discard", {"all": True}, "invalid_request"),
        ("discard", {"note": "x"}, "bad_selection"),
    ],
)
async def test_a_wrong_wish_is_refused_before_anything_is_done(path: str, body: dict[str, Any], code: str) -> None:
    reply = await ask(app(), "POST", f"/dead-letters/{path}", headers={"X-API-Key": KEY}, json=body)
    assert (reply.status_code, reply.json()["error_code"]) == (422, code)
    assert reply.json().keys() >= ERROR_KEYS


async def test_the_routes_are_documented_with_their_key() -> None:
    document = (await ask(app(), "GET", "/openapi.json")).json()
    assert {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods} >= {
        "GET /dead-letters",
        "GET /dead-letters/{dead_letter_id}",
        "POST /dead-letters/replay",
        "POST /dead-letters/discard",
    }
    operation = document["paths"]["/dead-letters"]["get"]
    assert operation["security"] == [{"X-API-Key": []}, {"Bearer": []}]
    assert {"200", "401", "403", "422", "503"} <= operation["responses"].keys()


def test_the_key_is_a_secret_of_some_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_API_KEY", KEY)
    settings = load(ConsumerSettings)
    assert KEY not in str(describe(settings)) + repr(settings)
    monkeypatch.setenv("ADMIN_API_KEY", KEY[:-1])
    with pytest.raises(ConfigurationError, match="ADMIN_API_KEY") as caught:
        load(ConsumerSettings)
    assert KEY[:-1] not in caught.value.message
