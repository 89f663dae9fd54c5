"""Dead letters over HTTP, behind the admin key."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr

from event_consumer.admin import Problems, Responses, admin_router
from event_consumer.letters.desk import MOST_LISTED, Desk, Full, Summary, with_ids
from event_consumer.letters.errors import BadSelection
from event_consumer.letters.mend import Mend
from event_consumer.letters.plan import ReplayOptions
from event_consumer.letters.replay import Outcome
from event_consumer.letters.selection import Cursor, Selection, require_narrow
from event_core.clock import utc_now

WORK_SECONDS: Final = 20.0
"""How long one request replays or discards; then the reply says that more is left."""
MOST_AT_ONCE: Final = 10_000
MOST_IDS: Final = 1_000

State = Literal["open", "replayed", "resolved", "discarded", "any"]

_ERRORS: Final[Responses] = {
    422: {"model": Problems, "description": "A wrong parameter"},
    503: {"model": Problems, "description": "PostgreSQL, Kafka or the ingestion service is away"},
}


class Filters(BaseModel):
    """Which letters are meant: all of these must hold."""

    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(None, description="E.g. invalid_event or missing_field")
    topic: str | None = Field(None, description="Where it came from, or was meant for")
    tenant: str | None = None
    event_id: UUID | None = None
    source: str | None = Field(None, description="The service that gave up, e.g. ingestion_service")
    state: State = "open"
    since: AwareDatetime | None = Field(None, description="Failed then or later")
    until: AwareDatetime | None = Field(None, description="Failed before then")

    def selection(self) -> Selection:
        names = ("reason", "topic", "tenant", "event_id", "source", "state", "since", "until")
        return Selection(**{name: getattr(self, name) for name in names})


class ListQuery(Filters):
    limit: int = Field(50, ge=1, le=MOST_LISTED)
    after: str | None = Field(None, description="``next`` of the page before")


class Chosen(Filters):
    ids: list[UUID] = Field(default_factory=list, max_length=MOST_IDS)
    all: bool = Field(False, description="Must be true where neither ids nor filters are given")
    dry_run: bool = Field(False, description="Only say what would be done")
    limit: int = Field(1_000, ge=1, le=MOST_AT_ONCE, description="Work on so many at most")

    def meant(self) -> Selection:
        """Raises BadSelection where it is nothing in particular."""
        selection = with_ids(self.selection(), self.ids)
        require_narrow(selection, everything=self.all)
        return selection


class ReplayRequest(Chosen):
    to_topic: str | None = Field(
        None, description="Another topic than the letter's own, for letters that were messages"
    )
    force: bool = Field(False, description="Also letters that were replayed 5 times or more")
    value: str | None = Field(None, description="A mended value, of the one letter that ids names")
    value_base64: str | None = None
    set: dict[str, Any] = Field(
        default_factory=dict, description="Fields to change in it: path (names with dots between) to value"
    )
    unset: list[str] = Field(default_factory=list, description="Paths of fields to take out of it")
    note: str | None = Field(None, max_length=2_000)

    def mend(self) -> Mend:
        """Raises BadSelection where it says two values, or no base64."""
        if self.value is not None and self.value_base64 is not None:
            raise BadSelection("value and value_base64 exclude each other")
        if self.value_base64 is None:
            return Mend(None if self.value is None else self.value.encode(errors="replace"), self.set, self.unset)
        try:
            return Mend(base64.b64decode(self.value_base64, validate=True), self.set, self.unset)
        except binascii.Error:
            raise BadSelection("value_base64 is no base64") from None


class DiscardRequest(Chosen):
    state: Literal["open", "replayed"] = "open"
    note: str = Field(min_length=1, max_length=2_000, description="Why; it is kept with the letters")


class LetterList(BaseModel):
    letters: list[Summary]
    next: str | None = Field(description="Give it as ``after`` to have the next page; null at the end")


class LeftOut(BaseModel):
    dead_letter_id: UUID
    why: str


class Report(BaseModel):
    """What was done."""

    dry_run: bool
    sent: dict[str, int] = Field(description="Sent to topics, by name; the consumer settles them")
    accepted: int = Field(description="Taken by the ingestion service: resolved")
    refused: dict[str, int] = Field(description="Refused by it once more, by reason: open, with the new reason")
    discarded: int
    busy: int = Field(description="Somebody else was working on them")
    left_out: dict[str, int] = Field(description="Not sent, by why")
    examples: list[LeftOut] = Field(description="Some of those")
    complete: bool = Field(description="False where letters are left to be worked on: ask again")
    problem: str | None = Field(description="What ended the work early")


def dead_letter_router(desk: Desk, admin_api_key: SecretStr | None) -> APIRouter:
    """The routes under /dead-letters."""
    router = admin_router(admin_api_key, prefix="/dead-letters", tag="dead letters", errors=_ERRORS)

    @router.get("", summary="Letters, the latest first; the open ones where no state is asked for")
    async def list_letters(query: Annotated[ListQuery, Query()]) -> LetterList:
        after = Cursor.read(query.after) if query.after is not None else None
        page = await desk.list(query.selection(), limit=query.limit, after=after)
        return LetterList(letters=page.letters, next=str(page.after) if page.after else None)

    @router.get(
        "/{dead_letter_id}",
        summary="All of one letter",
        responses={404: {"model": Problems, "description": "There is no such letter"}},
    )
    async def show_letter(dead_letter_id: Annotated[UUID, Path()]) -> Full:
        return await desk.show(dead_letter_id)

    @router.post("/replay", summary="Send letters again, mended or as they are")
    async def replay_letters(wanted: ReplayRequest) -> Report:
        options = ReplayOptions(
            topics=desk.topics,
            mend=wanted.mend(),
            to_topic=wanted.to_topic,
            force=wanted.force,
            dry_run=wanted.dry_run,
            limit=wanted.limit,
            deadline=utc_now() + timedelta(seconds=WORK_SECONDS),
            note=wanted.note,
        )
        return _report(await desk.replay(wanted.meant(), options), dry_run=wanted.dry_run)

    @router.post("/discard", summary="Give letters up; they stay in the table")
    async def discard_letters(wanted: DiscardRequest) -> Report:
        outcome = await desk.discard(wanted.meant(), wanted.note, dry_run=wanted.dry_run, limit=wanted.limit)
        return _report(outcome, dry_run=wanted.dry_run)

    return router


def _report(outcome: Outcome, *, dry_run: bool) -> Report:
    """Raises what ended the work, where nothing had been done yet."""
    if outcome.problem is not None and not outcome.done:
        raise outcome.problem
    return Report(
        dry_run=dry_run,
        sent=outcome.sent,
        accepted=outcome.accepted,
        refused=outcome.refused,
        discarded=outcome.discarded,
        busy=outcome.busy,
        left_out=Counter(outcome.left_out),
        examples=[LeftOut(dead_letter_id=letter, why=why) for letter, why in outcome.examples],
        complete=outcome.complete,
        problem=outcome.problem.message if outcome.problem else None,
    )
