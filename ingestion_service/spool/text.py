"""Records as JSON, for people and for export: bytes as text where they are UTF-8, else in base64. Pure."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

from event_core.codec import Record


def as_json(record: Record) -> dict[str, Any]:
    """Key, value and headers; ``…_base64`` in place of a name says that the bytes are no text."""
    headers = [{"name": name, **_bytes("value", value)} for name, value in record.headers]
    return {**_bytes("key", record.key), **_bytes("value", record.value), "headers": headers}


def from_json(given: dict[str, Any]) -> Record:
    """The record that ``as_json`` was given. Raises KeyError, TypeError or ValueError where it was not."""
    headers = [(header["name"], _from_bytes("value", header)) for header in given["headers"]]
    return Record(_from_bytes("key", given), _from_bytes("value", given), headers)


def _bytes(name: str, value: bytes) -> dict[str, str]:
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(value).decode()}


def _from_bytes(name: str, given: dict[str, Any]) -> bytes:
    encoded = given.get(f"{name}_base64")
    if encoded is not None:
        return b64decode(encoded, validate=True)
    text: str = given[name]
    return text.encode()
