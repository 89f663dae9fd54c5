"""The token that says where a page ended, so that the next begins behind it. Pure.

A keyset cursor: it holds the last event's timestamp and id, not how many events came before. So a page far inside costs what the
first does, and events stored meanwhile neither repeat nor hide others. It is opaque: its form may change with a version.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
import zlib
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from analytics_service.errors import InvalidQuery

Order = Literal["newest", "oldest"]

_VERSION = 1
_FORM = struct.Struct(">BBq16sI")
"""Version, order, microseconds since 1970, event id, CRC-32 of all that."""
_ORDERS: tuple[Order, ...] = ("newest", "oldest")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{40}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BROKEN = "cursor: it is none of ours: send next_cursor of the page before as it is, or none for the first page"


class Place(NamedTuple):
    """Where a page ended: its last event."""

    timestamp: datetime
    """Aware."""
    event_id: UUID


def write_cursor(place: Place, order: Order) -> str:
    """The token of a page in this order that ended at ``place``: 40 characters that need no escaping in a URL."""
    micros = (place.timestamp - _EPOCH) // timedelta(microseconds=1)
    body = _FORM.pack(_VERSION, _ORDERS.index(order), micros, place.event_id.bytes, 0)[:-4]
    return base64.urlsafe_b64encode(body + zlib.crc32(body).to_bytes(4, "big")).decode()


def read_cursor(token: str, order: Order) -> Place:
    """Where the page before ended.

    Raises:
        InvalidQuery: the token is broken, of another version, or of a page in another order.
    """
    if not _TOKEN.fullmatch(token):
        raise InvalidQuery(_BROKEN)
    try:
        data = base64.urlsafe_b64decode(token)
        version, number, micros, event_id, check = _FORM.unpack(data)
        if check != zlib.crc32(data[:-4]) or version != _VERSION:
            raise InvalidQuery(_BROKEN)
        found = _ORDERS[number]
        place = Place(_EPOCH + timedelta(microseconds=micros), UUID(bytes=event_id))
    except (binascii.Error, struct.error, IndexError, OverflowError):
        raise InvalidQuery(_BROKEN) from None
    if found != order:
        raise InvalidQuery(f"cursor: it is of the order {found}: send order={found}, or no cursor for a first page")
    return place
