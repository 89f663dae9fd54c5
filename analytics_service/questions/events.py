"""The events themselves, page by page: all of a range, or a user's. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import BaseModel, Field, model_validator

from analytics_service.cursor import Order, Place, read_cursor, write_cursor
from analytics_service.errors import InvalidQuery
from analytics_service.questions.base import Answer, Cost, Ranged, Reply, Row
from event_core.event import EARLIEST, LATEST
from event_core.sqlfiles import load_sql

MAX_PAGE = 1_000
PAGE_BYTES = 4 << 20
"""A page ends with the event whose metadata and context bring it beyond this: a thousand of the largest events would have a
quarter of a GiB."""

_IN_ORDER = frozenset({"event_name", "tenant_id"})
"""Filters that take most of a page from its first rows: an index's, or those of a tenant that has events at all."""


class EventsQuestion(Ranged):
    """The events of a range, one by one."""

    KIND: ClassVar[str] = "events"
    ROWS: ClassVar[str] = load_sql("analytics_service.sql", "events")
    EXPORT: ClassVar[str] = load_sql("analytics_service.sql", "events_export")
    COLUMNS: ClassVar[tuple[str, ...]] = (
        "event_id", "tenant_id", "user_id", "event_name", "timestamp", "received_at", "processed_at", "source", "experiment_id",
        "variant", "metadata", "context",
    )  # fmt: skip

    limit: Annotated[
        int,
        Field(
            ge=1, le=MAX_PAGE, description="Events of a page; fewer where they are large. Exports have all of the range"
        ),
    ] = 100
    order: Annotated[Order, Field(description="By timestamp, then event_id. Exports are oldest first")] = "newest"
    cursor: Annotated[
        str | None,
        Field(description="next_cursor of the page before, with everything else unchanged; none: the first page"),
    ] = None

    @model_validator(mode="after")
    def _continues(self) -> EventsQuestion:
        _ = self._after
        given = {"limit", "order", "cursor"} & self.model_fields_set
        if self.format != "json" and given:
            raise InvalidQuery(f"{', '.join(sorted(given))}: an export has all events, oldest first: leave it out")
        return self

    @cached_property
    def _after(self) -> Place | None:
        return None if self.cursor is None else read_cursor(self.cursor, self.order)

    def arguments(self) -> tuple[object, ...]:
        after = self._after or (None, None)
        # One more than asked for tells whether there is a next page.
        newest = self.order == "newest"
        return self.from_ts, self.to_ts, self.filters_json(), newest, *after, self.limit + 1, PAGE_BYTES

    def exported(self) -> tuple[str, tuple[object, ...]]:
        """The statement of an export, and its arguments: everything in the range, whatever the page."""
        return self.EXPORT, (self.from_ts, self.to_ts, self.filters_json())

    def cost(self) -> Cost | None:
        # An index finds a user's. An experiment's it could find too, but in order of time the whole range is gone through.
        if "user_id" in self.filters:
            return None
        if self.format != "json":
            return Cost(self.from_ts, self.to_ts, self.filters)
        if self.filters.keys() <= _IN_ORDER:
            return None
        # Nothing says where in the range the few that match are.
        return Cost(
            self.from_ts, self.to_ts, {key: self.filters[key] for key in ("event_name",) if key in self.filters}
        )

    def semantics(self) -> str:
        return (
            "events stored once each; duplicates and dead letters are not among them; by their own timestamp in [from_ts, to_ts)."
            " Walking the pages shows every event that was stored when the walk began exactly once; one that is stored meanwhile"
            " shows where its timestamp is still ahead"
        )

    def answer(self, rows: Sequence[Row]) -> Answer:
        page = rows[: self.limit]
        more = len(rows) > self.limit or sum(map(_size, rows)) > PAGE_BYTES
        last = page[-1] if more else None
        cursor = last and write_cursor(Place(last["timestamp"], last["event_id"]), self.order)
        fields = {"order": self.order, "limit": self.limit, "events": list(map(event_of, page)), "next_cursor": cursor}
        return Answer(fields, [(self.from_ts, self.to_ts)])


class UserEventsParameters(EventsQuestion):
    """All that is asked about a user's events, but whose."""

    from_ts: Annotated[
        datetime,
        *Ranged.model_fields["from_ts"].metadata,
        Field(description="Start, inclusive; else the user's first event"),
    ] = EARLIEST
    to_ts: Annotated[
        datetime,
        *Ranged.model_fields["to_ts"].metadata,
        Field(description="End, exclusive; else after the user's last event"),
    ] = LATEST

    def of(self, user_id: str) -> UserEventsQuestion:
        """The question about this user, whom the path names.

        Raises:
            InvalidQuery: no event can be of such a user, or the query names users too.
        """
        if self.user_id is not None:
            raise InvalidQuery("user_id: the path names the user already: leave it out, or ask /analytics/events")
        return UserEventsQuestion.model_validate({**self.model_dump(exclude_unset=True), "user_id": [user_id]})


class UserEventsQuestion(UserEventsParameters):
    """The events of one user, one by one; without from_ts and to_ts all of them."""

    KIND: ClassVar[str] = "user_events"

    @model_validator(mode="after")
    def _of_one(self) -> UserEventsQuestion:
        if len(self.user_id or ()) != 1:
            raise InvalidQuery("user_id: name the one user whose events are meant")
        return self


def event_of(row: Row) -> dict[str, Any]:
    """An event as replies have it."""
    return {
        **{column: row[column] for column in EventsQuestion.COLUMNS},
        "event_id": str(row["event_id"]),
        "metadata": _json(row["metadata"]),
        "context": _json(row["context"]),
    }


def _json(value: object) -> object:
    # As the database says it: nothing is lost on the way, and large objects are not taken apart for nothing.
    return orjson.Fragment(value) if isinstance(value, str) else value


def _size(row: Row) -> int:
    return sum(len(text.encode()) for text in (row["metadata"], row["context"]) if isinstance(text, str))


class ListedEvent(BaseModel):
    """One stored event."""

    event_id: str
    tenant_id: str
    user_id: str
    event_name: str
    timestamp: Annotated[datetime, Field(description="When it happened, by the sender")]
    received_at: Annotated[datetime, Field(description="When the ingestion service had it")]
    processed_at: Annotated[datetime, Field(description="When it was stored")]
    source: str | None
    experiment_id: str | None
    variant: str | None
    metadata: dict[str, Any]
    context: Annotated[dict[str, Any], Field(description="Fields beside the known ones, and what the platform noted")]


class EventsReply(Reply):
    """A page of events."""

    order: Order
    limit: int
    events: list[ListedEvent]
    next_cursor: Annotated[
        str | None, Field(description="Send it as `cursor` for the next page; null: this is the last one")
    ]
