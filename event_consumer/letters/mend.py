"""Mending one letter's value before its replay, and the identity that it keeps. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from event_consumer.letters.errors import CannotReplay
from event_core.dead_letters import as_uuid


@dataclass(frozen=True)
class Mend:
    """What to change: a new ``value`` as a whole, or fields of the old one."""

    value: bytes | None = None
    put: Mapping[str, Any] = field(default_factory=dict)
    """Path -> JSON value. A path is names with dots between, and numbers in arrays: ``metadata.items.0.price``."""
    drop: Sequence[str] = ()
    """Paths of what is taken out."""

    def __bool__(self) -> bool:
        return self.value is not None or bool(self.put) or bool(self.drop)


def mended(original: bytes | None, mend: Mend) -> bytes:
    """``original`` as ``mend`` says.

    Raises:
        CannotReplay: it is no JSON object, a path leads nowhere, or the result is no JSON.
    """
    if mend.value is not None:
        if mend.put or mend.drop:
            raise CannotReplay("a new value and changed fields exclude each other: give one of them")
        return mend.value
    fields = parsed(original)
    if not isinstance(fields, dict):
        raise CannotReplay("the value is no JSON object, so no field of it can be changed: give a new value as a whole")
    for path in mend.drop:
        _change(fields, path, None, drop=True)
    for path, value in mend.put.items():
        _change(fields, path, value, drop=False)
    try:
        return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise CannotReplay("some number is NaN or infinite, which is no JSON: change that field too") from None


def identified(value: bytes, event_id: UUID, *, name: str = "event_id") -> bytes:
    """``value``, a JSON object that says no ``name``, with ``event_id`` as its last field; every other byte stays."""
    end = value.rstrip(b" \t\r\n")
    separator = b"" if end[:-1].rstrip(b" \t\r\n").endswith(b"{") and not parsed(value, numbers=False) else b","
    return end[:-1] + separator + b'"%s":"%s"}' % (name.encode(), str(event_id).encode())


def keep_identity(value: bytes, known: UUID | None, *, may_change: bool) -> None:
    """Checks that a mended ``value`` is still the same event as ``known``.

    Raises:
        CannotReplay: it names another event_id, and ``may_change`` is false.
    """
    fields = parsed(value)
    given = fields.get("event_id") if isinstance(fields, dict) else None
    if given is None or known is None or may_change or as_uuid(given) == known:
        return
    raise CannotReplay(
        f"the mended value has another event_id than the letter's ({known}): a replay keeps the event's identity, "
        "so that it is stored once. Only after a conflict may it change"
    )


def parsed(value: bytes | None, *, numbers: bool = True) -> Any:
    """``value`` by the bare grammar of JSON, which takes more than any store does; None where it is not even that.

    Without ``numbers`` they stay texts: some are too long to be converted.
    """
    try:
        text = (value or b"").decode()
        return json.loads(text) if numbers else json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None


def _change(fields: Any, path: str, value: Any, *, drop: bool) -> None:
    *parents, last = path.split(".")
    place = fields
    for number, name in enumerate(parents):
        try:
            if isinstance(place, dict) and not drop:
                place = place.setdefault(name, {})
            else:
                place = place[int(name)] if isinstance(place, list) else place[name]
        except (LookupError, ValueError, TypeError):
            raise _nowhere(path, ".".join(parents[: number + 1])) from None
    try:
        if isinstance(place, list):
            at = int(last)
            if drop:
                del place[at]
            elif at == len(place):
                place.append(value)
            else:
                place[at] = value
        elif not isinstance(place, dict):
            raise TypeError
        elif drop:
            del place[last]
        else:
            place[last] = value
    except (LookupError, ValueError, TypeError):
        raise _nowhere(path, path) from None


def _nowhere(path: str, part: str) -> CannotReplay:
    return CannotReplay(f"{path}: there is no {part} in the value")
