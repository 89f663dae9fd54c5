"""The questions as HTTP endpoints."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from analytics_service.queries import COUNT_SEMANTICS, count_query
from analytics_service.schemas import CountParameters, ErrorReply, EventCount
from analytics_service.store import Store

_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorReply} for status in (422, 503)}


def analytics_router(store: Store) -> APIRouter:
    """Every question that the service answers."""
    router = APIRouter(prefix="/analytics", tags=["analytics"])

    @router.get("/events/count", summary="How many events happened in a range", responses=_ERRORS)
    async def count_events(asked: Annotated[CountParameters, Query()]) -> EventCount:
        query = count_query(asked.from_ts, asked.to_ts, asked.event_name, asked.user_id)
        return EventCount(
            count=await store.count(query),
            from_ts=query.from_ts,
            to_ts=query.to_ts,
            event_name=query.event_name,
            user_id=query.user_id,
            semantics=COUNT_SEMANTICS,
        )

    return router
