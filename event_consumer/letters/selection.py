"""Which letters are meant: by id, or by filters that all have to hold. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from event_consumer.letters.errors import BadSelection
from event_core.clock import rfc3339
from event_core.dead_letters import as_uuid, storable_text
from event_core.sqlfiles import load_sql

SELECTED: Final = load_sql("event_consumer.letters.sql", "selected")
"""The condition that ``Selection.parameters`` fill in."""
STATES: Final = ("open", "replayed", "resolved", "discarded")
ANY_STATE: Final = "any"


@dataclass(frozen=True)
class Selection:
    """``state`` is one of STATES, or ``any``; times are of the failure, ``since`` inclusive, ``until`` exclusive."""

    ids: Sequence[UUID] | None = None
    reason: str | None = None
    topic: str | None = None
    tenant: str | None = None
    event_id: UUID | None = None
    source: str | None = None
    state: str = "open"
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        if self.state not in (*STATES, ANY_STATE):
            raise BadSelection(f"state is one of {', '.join(STATES)} or {ANY_STATE}, not {self.state}")
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None:
                object.__setattr__(self, name, _utc(name, moment))
        for name in ("reason", "topic", "tenant", "source"):
            text = getattr(self, name)
            if text is not None and storable_text(text) != text:
                raise BadSelection(f"{name}: no letter says that")

    @property
    def narrows(self) -> bool:
        """Whether anything but the state is asked for."""
        return any(getattr(self, field.name) is not None for field in fields(self) if field.name != "state")

    def parameters(self) -> tuple[Any, ...]:
        """In the order of SELECTED: $1 … $9."""
        return (
            None if self.state == ANY_STATE else self.state,
            list(self.ids) if self.ids is not None else None,
            self.reason,
            self.topic,
            self.tenant,
            self.event_id,
            self.source,
            self.since,
            self.until,
        )


def _utc(name: str, moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise BadSelection(f"{name} has no time zone: end it with Z or an offset like +02:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise BadSelection(f"{name} lies outside the years 1 to 9999 in UTC") from None


def require_narrow(selection: Selection, *, everything: bool) -> None:
    """Raises BadSelection where neither ids nor a filter is given, and ``everything`` is not meant; or both."""
    if not selection.narrows and not everything:
        raise BadSelection(
            "neither ids nor filters were given: name some letters, or say that all of them are meant (--all; over HTTP all: "
            "true)"
        )
    if selection.narrows and everything:
        raise BadSelection("all letters are meant, and filters were given too: leave one of them out")


class Cursor(NamedTuple):
    """The last letter of a page."""

    failed_at: datetime
    dead_letter_id: UUID

    def __str__(self) -> str:
        return f"{rfc3339(self.failed_at)}_{self.dead_letter_id}"

    @classmethod
    def read(cls, text: str) -> Cursor:
        """Raises BadSelection where ``text`` is none."""
        moment, _, letter = text.rpartition("_")
        dead_letter_id = as_uuid(letter)
        try:
            at = _utc("after", datetime.fromisoformat(moment))
            if dead_letter_id is None:
                raise ValueError
        except (ValueError, BadSelection):
            raise BadSelection("after: that is no place in the list; take it from the reply before") from None
        return cls(at, dead_letter_id)
