"""Event <-> Kafka key, value and headers. Pure; the contract is docs/wire-contract.md.

Key: user_id in UTF-8. Value: the canonical event as UTF-8 JSON. Headers: event-id, content-type, schema, traceparent.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, NamedTuple
from uuid import UUID

import msgspec

from event_core.errors import UndecodableMessage
from event_core.event import MAX_NAME, Event, as_utc
from event_core.jsonguard import encode as encode_json
from event_core.topics import (
    EVENT_SCHEMA,
    HEADER_CONTENT_TYPE,
    HEADER_EVENT_ID,
    HEADER_SCHEMA,
    HEADER_TRACEPARENT,
)

Headers = list[tuple[str, bytes]]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]

_CONTENT_TYPE = (HEADER_CONTENT_TYPE, b"application/json")
_SCHEMA = (HEADER_SCHEMA, EVENT_SCHEMA)
_BEGIN = b'{"event_id":"'
_ID = slice(len(_BEGIN), len(_BEGIN) + 36)


class Record(NamedTuple):
    """What a producer sends: ``key`` decides the partition; the first header is the event's id."""

    key: bytes
    value: bytes
    headers: Headers


def encode(event: Event, traceparent: str | None = None) -> Record:
    """``event`` as a record; ``traceparent`` (W3C Trace Context) joins the consumer's spans to the sender's trace.

    Raises:
        Unstorable: see ``jsonguard.encode``.
    """
    value = encode_json(event)
    # An event that begins with its id, as all of ours do, has it in the value: a slice is a tenth of a UUID's own text.
    event_id = value[_ID] if value.startswith(_BEGIN) else str(event["event_id"]).encode()
    headers = [(HEADER_EVENT_ID, event_id), _CONTENT_TYPE, _SCHEMA]
    if traceparent is not None:
        headers.append((HEADER_TRACEPARENT, traceparent.encode()))
    return Record(event["user_id"].encode(), value, headers)


class Decoded(msgspec.Struct, gc=False):
    """An event as read: ``metadata`` and ``context`` are JSON texts that were not looked into; times are UTC."""

    event_id: UUID
    tenant_id: Name
    user_id: Name
    event_name: Name
    timestamp: datetime
    received_at: datetime
    metadata: msgspec.Raw
    context: msgspec.Raw
    experiment_id: Name | None = None
    variant: Name | None = None
    source: Name | None = None


_decode = msgspec.json.Decoder(Decoded).decode


def decode(value: bytes | None) -> Decoded:
    """The event of a record's value; unknown fields are ignored.

    Raises:
        UndecodableMessage: no JSON, or no event; what is wrong with a field begins with its name.
    """
    try:
        event = _decode(value or b"")
    except msgspec.ValidationError as error:
        raise UndecodableMessage(_field_first(str(error)), reason="invalid_event") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UndecodableMessage(str(error), reason="not_json") from None
    except RecursionError:
        raise UndecodableMessage("the JSON is nested too deep", reason="unstorable_value") from None
    moment = event.timestamp
    if moment.tzinfo is not UTC or not 1 < moment.year < 9999:
        event.timestamp = _utc("timestamp", moment)
    moment = event.received_at
    if moment.tzinfo is not UTC or not 1 < moment.year < 9999:
        event.received_at = _utc("received_at", moment)
    return event


def _utc(field: str, moment: datetime) -> datetime:
    try:
        return as_utc(moment)
    except ValueError as error:
        raise UndecodableMessage(f"{field}: {error}", reason="invalid_event") from None


_missing = re.compile(r"Object missing required field `(\w+)`").fullmatch
_wrong = re.compile(r"(.*) - at `\$\.(\w+)`", re.DOTALL).fullmatch


def _field_first(problem: str) -> str:
    """msgspec's text, with the field it is about first."""
    if missing := _missing(problem):
        return f"{missing[1]}: required, but missing"
    if wrong := _wrong(problem):
        return f"{wrong[2]}: {wrong[1]}"
    return problem
