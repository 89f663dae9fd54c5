"""Routes that only the holder of the admin key may use."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, ClassVar, Final

from fastapi import APIRouter, Request, Response, Security
from fastapi.params import Depends
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, SecretStr

from event_core.errors import PlatformError
from event_core.http import Problem, error_body

Responses = dict[int | str, dict[str, Any]]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class NoAdminKey(PlatformError):
    """The service has no admin key, so these routes are closed."""

    code: ClassVar[str] = "admin_key_unset"


class WrongAdminKey(PlatformError):
    """The request does not bear it."""

    code: ClassVar[str] = "unauthorized"


STATUSES: Final[dict[type[PlatformError], int]] = {NoAdminKey: 403, WrongAdminKey: 401}


class Problems(BaseModel):
    """The platform's one shape of an error."""

    error_code: str
    error_message: str
    timestamp: datetime
    request_id: str
    retryable: bool
    details: dict[str, Any] | None = None


ADMIN_ERRORS: Final[Responses] = {
    401: {"model": Problems, "description": "The request does not bear the admin key"},
    403: {"model": Problems, "description": "ADMIN_API_KEY is not set: these routes are closed"},
}


def admin_router(admin_api_key: SecretStr | None, *, prefix: str = "", tag: str, errors: Responses) -> APIRouter:
    """A router whose routes ask for the key before anything of the request is read. ``errors``: what else they may answer."""
    schemes: list[Depends] = [
        Security(APIKeyHeader(name="X-API-Key", scheme_name="X-API-Key", auto_error=False)),
        Security(HTTPBearer(scheme_name="Bearer", auto_error=False)),
    ]
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        route_class=_admin_route(admin_api_key),
        dependencies=schemes,
        responses={**ADMIN_ERRORS, **errors},
    )


def _admin_route(admin_api_key: SecretStr | None) -> type[APIRoute]:
    expected = admin_api_key.get_secret_value().encode() if admin_api_key is not None else None

    class AdminRoute(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                if expected is None:
                    raise NoAdminKey(
                        "this route is closed: set ADMIN_API_KEY to at least 16 random characters and restart the service"
                    )
                if not hmac.compare_digest(_given(request), expected):
                    error = WrongAdminKey("send the admin key as X-API-Key, or as Authorization: Bearer")
                    body = error_body(Problem.of(error), request_id=request.state.request_id)
                    return Response(body, 401, {"WWW-Authenticate": "Bearer"}, media_type="application/json")
                return await handle(request)

            return guarded

    return AdminRoute


def _given(request: Request) -> bytes:
    key = request.headers.get("x-api-key")
    if key is None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else ""
    return key.encode("latin-1")  # as Starlette decoded it
