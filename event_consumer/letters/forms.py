"""Events that the door refused go through it again: their bytes are a client's, in one of the client's forms.

Which form it was is told by the bytes: the letter keeps the headers only of a CloudEvent in binary mode. A body without an
event_id is given its letter's id, so that the event is stored once however often it is sent. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from event_consumer.letters.errors import DoorUnavailable
from event_consumer.letters.mend import identified, parsed
from event_consumer.letters.outgoing import DoorRequest
from event_core.dead_letters import HEADER_DEAD_LETTER_ID, MAX_LABEL_CHARACTERS, storable_text

EVENTS: Final = "/events"
COLLECT: Final = "/api/v1/collect"

_AT_FAULT: Final = frozenset({400, 409, 413, 415, 422})
"""Statuses that say that the event is at fault; any other one is the door's affair, or says that this is not the door."""


class RefusedAgain(NamedTuple):
    """What the door says is wrong."""

    reason: str
    error: str


def door_request(value: bytes, headers: Sequence[tuple[str, bytes | None]], dead_letter_id: UUID) -> DoorRequest:
    """How ``value``, kept with ``headers``, is sent again."""
    mine = (HEADER_DEAD_LETTER_ID.encode(), str(dead_letter_id).encode())
    attributes = [(name.encode(), content or b"") for name, content in headers if name.startswith("ce-")]
    if attributes:
        attributes += [(b"content-type", content or b"") for name, content in headers if name == "content-type"]
        if not dict(attributes).get(b"ce-id"):
            attributes.append((b"ce-id", str(dead_letter_id).encode()))
        return DoorRequest(EVENTS, [*attributes, mine], value)
    fields = parsed(value, numbers=False)
    if not isinstance(fields, dict):  # of an event alone only objects are kept, of a batch whatever stood in it
        return DoorRequest(COLLECT, [_type(b"application/json"), mine], b"[" + value + b"]")
    if _is_cloudevent(fields):
        if fields.get("id") is None:
            value = identified(value, dead_letter_id, name="id")
        return DoorRequest(EVENTS, [_type(b"application/cloudevents+json"), mine], value)
    if fields.get("event_id") is None:
        value = identified(value, dead_letter_id)
    if _is_learner(fields):
        return DoorRequest(COLLECT, [_type(b"application/json"), mine], b"[" + value + b"]")
    return DoorRequest(EVENTS, [_type(b"application/json"), mine], value)


def _type(name: bytes) -> tuple[bytes, bytes]:
    return b"content-type", name


def _is_cloudevent(fields: dict[str, Any]) -> bool:
    if "specversion" in fields:
        return True
    return {"type", "source"} <= fields.keys() and fields.keys().isdisjoint(("event_name", "event_type"))


def _is_learner(fields: dict[str, Any]) -> bool:
    return "learner_id" in fields or (
        "user_id" not in fields and not fields.keys().isdisjoint(("event_data", "source_service"))
    )


def judged(status: int, body: bytes) -> RefusedAgain | None:
    """None where the event was taken.

    Raises:
        DoorUnavailable: neither taken nor refused, or the answer is not the ingestion service's.
    """
    try:
        said = orjson.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        said = {}
    if 200 <= status < 300 and (said.get("status") in ("accepted", "duplicate") or said.get("accepted_count") == 1):
        return None
    if status in _AT_FAULT:
        results = said.get("results")
        one = results[0] if isinstance(results, list) and results and isinstance(results[0], dict) else {}
        reason, error = one.get("reason", said.get("error_code")), one.get("message", said.get("error_message"))
        if isinstance(reason, str) and isinstance(error, str):
            return RefusedAgain(storable_text(reason, MAX_LABEL_CHARACTERS), storable_text(error))
    problem = said.get("error_message")
    raise DoorUnavailable(f"it answered {status}" + (f": {storable_text(problem)}" if isinstance(problem, str) else ""))
