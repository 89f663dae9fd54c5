"""Event <-> Kafka key, value and headers. Pure; the contract is docs/wire-contract.md.

Key: user_id in UTF-8. Value: the canonical event as UTF-8 JSON. Headers: event-id, content-type, schema, traceparent.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from event_core.errors import UndecodableMessage
from event_core.event import Event, as_utc
from event_core.jsonguard import encode as encode_json
from event_core.topics import (
    EVENT_SCHEMA,
    HEADER_CONTENT_TYPE,
    HEADER_EVENT_ID,
    HEADER_SCHEMA,
    HEADER_TRACEPARENT,
)

Headers = list[tuple[str, bytes]]

_validate = TypeAdapter(Event).validate_json
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


def decode(value: bytes | None) -> Event:
    """The event of a record's value; unknown fields are ignored.

    Raises:
        UndecodableMessage: no JSON, or no event.
    """
    try:
        event = _validate(value or b"")
        event["timestamp"] = as_utc(event["timestamp"])
        event["received_at"] = as_utc(event["received_at"])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = "not_json" if first["type"] == "json_invalid" else "invalid_event"
        raise UndecodableMessage(f"{where}: {first['msg']}" if where else first["msg"], reason=reason) from None
    except ValueError as error:
        raise UndecodableMessage(f"timestamp: {error}", reason="invalid_event") from None
    return event
