"""A record's value as its reader has it, in the form of the sender's event, so that the two can be compared."""

from __future__ import annotations

from typing import Any, cast

import orjson

from event_core import codec
from event_core.event import Event


def decode(value: bytes | None) -> Event:
    """The event of ``value``, its JSON texts looked into; without the fields that ``value`` leaves out.

    Raises:
        UndecodableMessage: see ``codec.decode``.
    """
    event = codec.decode(value)
    fields: dict[str, Any] = {name: getattr(event, name) for name in event.__struct_fields__}
    fields.update(metadata=orjson.loads(bytes(event.metadata)), context=orjson.loads(bytes(event.context)))
    given = orjson.loads(value or b"")
    return cast(Event, {name: found for name, found in fields.items() if name in given})
