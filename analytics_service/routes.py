"""The questions as HTTP endpoints."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from analytics_service.queries import COUNT_SEMANTICS, count_query
from analytics_service.schemas import ErrorReply, EventCount
from analytics_service.store import Store

_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorReply} for status in (422, 503)}

_TIME = (
    "RFC 3339 (`2026-01-31T12:00:00Z`; no zone means UTC; write `+` as `%2B`), a date, or epoch seconds or milliseconds"
)


def analytics_router(store: Store) -> APIRouter:
    """Every question that the service answers."""
    router = APIRouter(prefix="/analytics", tags=["analytics"])

    @router.get("/events/count", summary="How many events happened in a range", responses=_ERRORS)
    async def count_events(
        from_ts: Annotated[str, Query(description=f"Start, inclusive: {_TIME}")],
        to_ts: Annotated[str, Query(description=f"End, exclusive: {_TIME}")],
        event_name: Annotated[str | None, Query(description="Only events of this name")] = None,
        user_id: Annotated[str | None, Query(description="Only events of this user")] = None,
    ) -> EventCount:
        query = count_query(from_ts, to_ts, event_name, user_id)
        return EventCount(
            count=await store.count(query),
            from_ts=query.from_ts,
            to_ts=query.to_ts,
            event_name=query.event_name,
            user_id=query.user_id,
            semantics=COUNT_SEMANTICS,
        )

    return router
