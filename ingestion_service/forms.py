"""What every form of an event has in common on its way in: identity, content, notes and refusals. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from event_core.errors import InvalidEvent, MalformedBody
from event_core.event import FUTURE_TOLERANCE, MAX_NAME, Event, as_utc
from event_core.retention import oldest_kept

PLATFORM_KEY = "_platform"
"""The key of ``context`` under which the platform notes what it found out itself; no form may send it."""

_TIME_OF = {"product": "event_time", "cloudevent": "time"}
"""What a form calls the event's time, where not ``timestamp``."""

new_id = uuid7
"""A new UUIDv7: each is greater than the one before."""


class Form(Enum):
    """What decides an event's topic."""

    EVENT = "event"
    PRODUCT = "product"


class Accepted(NamedTuple):
    form: Form
    event: Event
    content: int | None
    """Hash of what the client sent, good within this process: the order of keys does not matter, but 1 and 1.0 differ. None where
    the event_id was made here, so that no other event can bear it."""


class Refused(NamedTuple):
    """One event of a batch that was refused."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on it
    event_id: str | None
    """As the client wrote it, where it is a text of at most 256 characters."""
    raw: bytes
    """The event's bytes as they lie in the body."""
    error: InvalidEvent


def finish(
    event: Event,
    *,
    kind: str,
    given: datetime | None,
    named: bool,
    now: datetime,
    retention_days: int | None,
    form: Form = Form.EVENT,
    notes: dict[str, Any] | None = None,
) -> Accepted:
    """``event``, whose context holds only what the client sent, with its content hash and the platform's notes.

    ``kind`` names the form within the hash; ``given`` is the client's time before any correction (UTC), None where it gave
    none; ``named``: the event_id is the client's. ``notes`` may be shared by many events, so it is never changed.

    Raises:
        InvalidEvent: the client used the platform's own name, or the event is of a day that is not kept any more.
    """
    context = event["context"]
    if PLATFORM_KEY in context:
        raise wrong_field(PLATFORM_KEY, "this name is the platform's own", reason="reserved_field")
    # Its age in days tells nearly every event apart, and costs a tenth of the exact bound.
    if (
        retention_days is not None
        and (now - event["timestamp"]).days >= retention_days
        and event["timestamp"] < oldest_kept(now, retention_days)
    ):
        raise wrong_field(
            _TIME_OF.get(kind, "timestamp"),
            f"lies before the {retention_days} days for which events are kept (RETENTION_DAYS)",
            reason="too_old",
        )
    content = _content(event, kind, given) if named else None
    if event["timestamp"] - now > FUTURE_TOLERANCE:
        notes = {"future_timestamp": True, **(notes or {})}
    if notes:
        context[PLATFORM_KEY] = notes
    return Accepted(form, event, content)


def _content(event: Event, kind: str, given: datetime | None) -> int | None:
    sent = (
        kind,
        event["user_id"],
        event["event_name"],
        event["tenant_id"],
        given,
        event.get("experiment_id"),
        event.get("variant"),
        event.get("source"),
        event["metadata"],
        event["context"],
    )
    try:
        return hash(orjson.dumps(sent, option=orjson.OPT_SORT_KEYS))
    except TypeError:  # an integer of more than 64 bits: encoding the event will refuse it and say so
        return None


def utc_time(moment: datetime, field: str) -> datetime:
    """``moment`` in UTC; InvalidEvent that names ``field`` where it lies outside what can be stored."""
    try:
        return as_utc(moment)
    except ValueError as error:
        raise wrong_field(field, str(error), reason="bad_timestamp") from None


def deeper_than(values: Iterable[Any], limit: int) -> bool:
    """Whether the containers among ``values`` are nested deeper than ``limit`` levels."""
    for value in values:
        if value.__class__ is dict or value.__class__ is list:
            break
    else:
        return False  # as nearly always
    level = [value for value in values if value.__class__ is dict or value.__class__ is list]
    while level:
        limit -= 1
        if limit < 0:
            return True
        level = [
            inner
            for value in level
            for inner in (value.values() if value.__class__ is dict else value)
            if inner.__class__ is dict or inner.__class__ is list
        ]
    return False


def sent_id(fields: object) -> str | None:
    """The ``event_id`` among a refused event's fields as it was sent, where it can be repeated in a reply."""
    sent = fields.get("event_id") if isinstance(fields, dict) else None
    if not isinstance(sent, str) or len(sent) > MAX_NAME:
        return None
    return sent.encode(errors="replace").decode()  # a lone surrogate cannot be sent back


# --- Refusals ---------------------------------------------------------------------------------------------------------

_REASONS = {
    "missing": "missing_field",
    "string_too_short": "bad_length",
    "string_too_long": "bad_length",
    "literal_error": "unknown_value",
}
_TIMES = frozenset({"timestamp", "event_time", "sent_at"})


def wrong_field(field: str, problem: str, *, reason: str) -> InvalidEvent:
    """A refusal because of one field."""
    return InvalidEvent(f"{field}: {problem}", reason=reason, details={"errors": [{"field": field, "reason": problem}]})


def field_of(error: InvalidEvent) -> str | None:
    """The first field that a refusal names."""
    errors = (error.details or {}).get("errors")
    return errors[0]["field"] if errors else None


def is_json(error: ValidationError) -> bool:
    """Whether what failed was JSON at least."""
    return bool(_problems(error)[0]["type"] != "json_invalid")


def malformed(raw: bytes, error: ValidationError) -> MalformedBody:
    """The refusal of a body that is no JSON."""
    if not raw.strip(b" \t\r\n"):
        return MalformedBody("the body is empty: send JSON", reason="empty_body")
    return MalformedBody(f"the body is not JSON: {_problems(error)[0]['msg'].removeprefix('Invalid JSON: ')}")


def refusal(error: ValidationError, *, what: str = "body", instead: dict[str, str] | None = None) -> InvalidEvent:
    """The refusal of JSON that breaks its form. ``instead`` replaces the explanation of a missing field. Nothing of what was
    sent is repeated."""
    problems = _problems(error)
    first = problems[0]
    if not first["loc"]:
        return InvalidEvent(f"the {what} must be one JSON object", reason="not_an_object")
    errors = [{"field": _field(problem), "reason": _explanation(problem, instead or {})} for problem in problems]
    reason = _REASONS.get(first["type"], "bad_timestamp" if first["loc"][0] in _TIMES else "wrong_type")
    message = "; ".join(f"{problem['field']}: {problem['reason']}" for problem in errors)
    return InvalidEvent(message, reason=reason, details={"errors": errors})


def _problems(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False, include_input=False, include_context=False))


def _field(problem: Any) -> str:
    return ".".join(str(part) for part in problem["loc"])


def _explanation(problem: Any, instead: dict[str, str]) -> str:
    message: str = problem["msg"]
    return instead.get(_field(problem), message) if problem["type"] == "missing" else message
