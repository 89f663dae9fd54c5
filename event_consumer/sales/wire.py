"""The bytes of a sale: a Protobuf message, with or without the prefix of a schema registry before it. Pure.

The prefix: https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from event_consumer.sales.sales_event_pb2 import SalesEvent
from event_core.errors import UndecodableMessage

MAGIC: Final = 0
"""First byte of the prefix. No Protobuf message begins so: it would be the field number 0, which does not exist."""
_ID_BYTES: Final = 4
_KNOWN: Final = {field.number: field.name for field in SalesEvent.DESCRIPTOR.fields}
_MOST_INDEXES: Final = 16
"""Nested messages that an index leads through; nobody nests so deeply."""


def read_sale(value: bytes | None) -> SalesEvent:
    """The message in ``value``. Fields that we do not know are left alone.

    Raises:
        UndecodableMessage: it holds none.
    """
    if not value:
        raise UndecodableMessage("the record is empty", reason="not_protobuf")
    try:
        sale = SalesEvent.FromString(value[_prefix_bytes(value) :] if value[0] == MAGIC else value)
    except DecodeError as error:
        raise UndecodableMessage(
            f"no Protobuf message of the form SalesEvent: {error}", reason="not_protobuf"
        ) from None
    unknown = UnknownFieldSet(sale)
    for place in range(len(unknown)):
        number = unknown[place].field_number
        if number in _KNOWN:  # one of ours in another type counts as unknown, and reads as absent
            raise UndecodableMessage(
                f"field {number} ({_KNOWN[number]}) has another type than SalesEvent gives it", reason="not_protobuf"
            )
    return sale


def _prefix_bytes(value: bytes) -> int:
    """Length of the registry's prefix: the magic byte, the schema's id, and which message of the schema it is, as a list of
    zigzag varints led by its length. The list [0], the first message, is written as a single 0.

    Raises:
        UndecodableMessage: the prefix is cut off or names another message than the first.
    """
    count, place = _zigzag(value, 1 + _ID_BYTES)
    if not 0 <= count <= _MOST_INDEXES:
        raise UndecodableMessage(f"the schema registry's prefix has {count} message indexes", reason="not_protobuf")
    indexes = []
    for _ in range(count):
        index, place = _zigzag(value, place)
        indexes.append(index)
    if indexes not in ([], [0]):
        raise UndecodableMessage(
            f"the schema registry's prefix means the message {indexes}, and a sale is the first one",
            reason="not_protobuf",
        )
    return place


def _zigzag(value: bytes, place: int) -> tuple[int, int]:
    """(the number at ``place``, the place after it)."""
    number = shift = 0
    while place < len(value) and shift < 35:
        byte = value[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), place
        shift += 7
    raise UndecodableMessage("the schema registry's prefix is cut off", reason="not_protobuf")
