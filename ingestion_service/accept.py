"""From a request's body to a canonical event, or a refusal that says what to change. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from uuid_utils import uuid7

from event_core.errors import InvalidEvent, MalformedBody
from event_core.event import DEFAULT_TENANT, FUTURE_TOLERANCE, MAX_DEPTH, Event, as_utc
from event_core.jsonguard import check_shape
from ingestion_service.schemas import EventIn

MAX_SEPARATORS = 100_000
"""Commas, colons and brackets in a body: 10 MB of ``[],[]`` would parse to 228 MiB."""
PLATFORM_KEY = "_platform"
"""The key of ``context`` under which the platform notes what it found out itself."""

_validate = TypeAdapter(EventIn).validate_json

_REASONS = {"missing": "missing_field", "string_too_short": "bad_length", "string_too_long": "bad_length"}


def accept(raw: bytes, now: datetime) -> Event:
    """The event that ``raw`` (one JSON object, the ``event_name`` form) describes, received at ``now`` (aware UTC).

    Raises:
        MalformedBody: empty, or not JSON (lone surrogates and raw control characters are not JSON either).
        TooLarge: nested too deep or too wide to be parsed safely.
        InvalidEvent: a field is missing, of the wrong type or out of range, or the form is ambiguous.
    """
    check_shape(raw, max_depth=MAX_DEPTH, max_separators=MAX_SEPARATORS)
    try:
        given = _validate(raw)
    except ValidationError as error:
        raise _refusal(raw, error) from None
    try:
        timestamp = now if given.timestamp is None else as_utc(given.timestamp)
    except ValueError as error:
        raise InvalidEvent(f"timestamp: {error}", reason="bad_timestamp") from None
    return {
        "event_id": given.event_id or UUID(int=uuid7().int),
        "tenant_id": DEFAULT_TENANT,
        "user_id": given.user_id,
        "event_name": given.event_name,
        "timestamp": timestamp,
        "received_at": now,
        "metadata": given.metadata or {},
        "context": _context(given.model_extra or {}, timestamp, now),
    }


def _context(extra: dict[str, Any], timestamp: datetime, now: datetime) -> dict[str, Any]:
    if extra:
        if "event_type" in extra:
            raise InvalidEvent(
                "event_name and event_type are both present: exactly one of them tells the event's form",
                reason="ambiguous_form",
            )
        if PLATFORM_KEY in extra:
            raise InvalidEvent(f"{PLATFORM_KEY}: this name is the platform's own", reason="reserved_field")
    if timestamp - now > FUTURE_TOLERANCE:
        extra[PLATFORM_KEY] = {"future_timestamp": True}
    return extra


def _refusal(raw: bytes, error: ValidationError) -> InvalidEvent:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    first = problems[0]
    if first["type"] == "json_invalid":
        if not raw.strip():
            return MalformedBody("the body is empty: send one event as a JSON object", reason="empty_body")
        return MalformedBody(f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    if not first["loc"]:
        return InvalidEvent("the body must be one JSON object", reason="not_an_object")
    if any(problem["loc"] == ("event_name",) and problem["type"] == "missing" for problem in problems):
        return _missing_name(raw, problems)
    reason = _REASONS.get(first["type"], "bad_timestamp" if first["loc"][0] == "timestamp" else "wrong_type")
    return InvalidEvent(_message(problems), reason=reason, details=_details(problems))


def _missing_name(raw: bytes, problems: list[Any]) -> InvalidEvent:
    if "event_type" in from_json(raw):
        return InvalidEvent(
            "the event_type form is not taken by this version: send event_name (with metadata and timestamp)",
            reason="unsupported_form",
        )
    return InvalidEvent(_message(problems), reason="missing_field", details=_details(problems))


def _details(problems: list[Any]) -> dict[str, Any]:
    return {"errors": [{"field": _field(problem), "reason": problem["msg"]} for problem in problems]}


def _message(problems: list[Any]) -> str:
    return "; ".join(f"{_field(problem)}: {problem['msg']}" for problem in problems)


def _field(problem: Any) -> str:
    return ".".join(str(part) for part in problem["loc"])
