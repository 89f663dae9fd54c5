"""What every HTTP service does alike: errors in one shape, request ids, listeners."""

from __future__ import annotations

import json
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Body, FastAPI, Query
from starlette.exceptions import HTTPException

from event_core.errors import (
    BrokerUnavailable,
    InvalidEvent,
    PlatformError,
    SchemaMismatch,
    TooLarge,
    Unavailable,
)
from event_core.http import Problem, RequestContext, bind, error_body, install_error_handlers, status_of
from tests.unit.ingestion import error_of

STATUSES: dict[type[PlatformError], int] = {InvalidEvent: 422, TooLarge: 413, Unavailable: 503}
PROBLEMS: dict[str, Exception] = {
    "invalid": InvalidEvent("send less", reason="too_much", details={"errors": [{"field": "a", "reason": "b"}]}),
    "large": TooLarge("too large"),
    "away": BrokerUnavailable("away", retry_after=9),
    "unlisted": SchemaMismatch("newer"),
    "teapot": HTTPException(418, "short and stout", headers={"X-Pot": "tea"}),
    "fault": RuntimeError("hunter2"),
}


def service() -> httpx.AsyncClient:
    app = FastAPI()
    install_error_handlers(app, STATUSES)

    @app.get("/problem/{name}")
    async def problem(name: str) -> None:
        raise PROBLEMS[name]

    @app.post("/echo")
    async def echo(number: Annotated[int, Body()], text: Annotated[str, Body(max_length=3)]) -> dict[str, Any]:
        return {"number": number, "text": text}

    @app.get("/query")
    async def query(n: Annotated[int, Query()]) -> int:
        return n

    transport = httpx.ASGITransport(RequestContext(app), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.parametrize(
    ("name", "status", "code", "retryable"),
    [
        ("invalid", 422, "too_much", False),
        ("large", 413, "too_large", False),
        ("away", 503, "broker_unavailable", True),
        ("unlisted", 500, "schema_mismatch", False),
        ("teapot", 418, "http_error", False),
        ("fault", 500, "internal_error", False),
    ],
)
async def test_every_error_has_its_status_and_the_one_shape(name: str, status: int, code: str, retryable: bool) -> None:
    async with service() as client:
        response = await client.get(f"/problem/{name}", headers={"X-Request-ID": "mine"})
    error = error_of(response, details=name == "invalid")
    assert (response.status_code, error["error_code"], error["retryable"]) == (status, code, retryable)
    assert error["request_id"] == "mine"
    assert "hunter2" not in response.text
    assert response.headers.get("retry-after") == ("9" if name == "away" else None)
    assert response.headers.get("x-pot") == ("tea" if name == "teapot" else None)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"number": NaN, "text": "a"}',
        b'{"number": Infinity, "text": "a"}',
        b"[NaN]",
        rb'{"number": 1, "text": "\ud800\ud800\ud800\ud800"}',
        rb'"\ud800"',
        rb'{"number": "\udfff", "text": "\u0000\u0000\u0000\u0000"}',
        b'{"number": "hunter2", "text": "hunter2"}',
        b'"hunter2"',
        b"{}",
    ],
    ids=repr,
)
async def test_a_body_that_is_refused_is_not_echoed(raw: bytes) -> None:
    async with service() as client:
        response = await client.post("/echo", content=raw, headers={"Content-Type": "application/json"})
    error = error_of(response, details=True)
    assert (response.status_code, error["error_code"]) == (422, "invalid_request")
    assert all(set(problem) == {"field", "reason"} for problem in error["details"]["errors"])
    assert "hunter2" not in response.text
    assert "NaN" not in response.text


@pytest.mark.parametrize("query", ["", "?n=", "?n=x", "?n=%00", "?n=%ED%A0%80", "?n=%FF"])
async def test_a_query_that_is_refused_names_the_parameter(query: str) -> None:
    async with service() as client:
        response = await client.get(f"/query{query}")
    assert response.status_code == 422
    assert [problem["field"] for problem in error_of(response)["details"]["errors"]] == ["n"]


def test_an_error_gets_the_status_of_its_nearest_class() -> None:
    assert status_of(TooLarge("x"), STATUSES) == 413
    assert status_of(InvalidEvent("x"), STATUSES) == 422
    assert status_of(BrokerUnavailable("x"), STATUSES) == 503
    assert status_of(SchemaMismatch("x"), STATUSES) == 500


def test_a_listener_is_bound_to_the_address_asked_for() -> None:
    with bind("127.0.0.1", 0, "PORT") as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        assert listener.getsockname()[1] > 0


def test_an_error_can_always_be_told_to_a_client() -> None:
    """Whatever a message quotes, the reply is JSON."""
    body = error_body(Problem("code", "\x00 \U0001f600 \u2028", details={"a": [None, 1.5]}), request_id="r")
    assert json.loads(body)["error_message"] == "\x00 \U0001f600 \u2028"
