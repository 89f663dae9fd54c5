"""JSON that every store gives back equal, or a refusal with the reason. Pure.

Validation alone lets through what a store cannot keep: ``\\u0000`` (Postgres: 22P05), NaN, Infinity and 1e999 (no JSON at
all), integers of more than 64 bits (silently a float elsewhere). The checks cost next to nothing on ordinary values: a byte
search on the encoded text decides whether the exact walk is needed.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from event_core.errors import TooLarge, Unstorable

_OPTIONS = orjson.OPT_UTC_Z


def encode(value: Any) -> bytes:
    """``value`` as UTF-8 JSON that PostgreSQL's jsonb holds without change.

    Raises:
        Unstorable: it holds NUL, NaN, an infinity, an integer beyond 64 bits, a lone surrogate, or is nested too deep to encode.
    """
    try:
        encoded = orjson.dumps(value, option=_OPTIONS)
    except TypeError as error:  # orjson's JSONEncodeError is a TypeError
        raise Unstorable(f"a value cannot be stored without change: {error}") from None
    # orjson writes NaN and the infinities as null, and NUL as the escape; both texts may also be innocent.
    if b"null" in encoded or b"\\u0000" in encoded:
        refuse_unstorable(value)
    return encoded


def refuse_unstorable(value: Any) -> None:
    """Raises Unstorable where ``value`` holds NUL in a text or key, or a number that is no finite float."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if "\x00" in item:
                raise Unstorable("a text holds the character U+0000, which PostgreSQL cannot store")
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise Unstorable("a number is NaN, infinite or too large for a 64-bit float")
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def check_shape(raw: bytes, *, max_depth: int, max_separators: int) -> None:
    """Refuses, before any parsing, a body whose parse would cost far more memory than its bytes.

    Counts brackets as bytes, so text that holds brackets costs an exact scan, never a refusal.

    Raises:
        TooLarge: nested deeper than ``max_depth``, or more than ``max_separators`` commas, colons and brackets.
    """
    opening = raw.count(b"{") + raw.count(b"[")
    # A body shorter than the limit cannot hold that many separators.
    if len(raw) > max_separators and opening + raw.count(b",") + raw.count(b":") > max_separators:
        raise TooLarge(f"the body holds more than {max_separators:,} JSON separators", reason="too_wide")
    if opening > max_depth and _deeper_than(raw, max_depth):
        raise TooLarge(f"the body is nested deeper than {max_depth} levels", reason="too_deep")


_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _deeper_than(raw: bytes, limit: int) -> bool:
    # Doubled backslashes go first, then escaped quotes; then every second piece between quotes is a string, and a bracket
    # inside a string is no nesting.
    depth = 0
    for outside in raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]:
        for byte in outside.translate(None, delete=_NOT_BRACKETS):
            if byte in b"[{":
                depth += 1
                if depth > limit:
                    return True
            else:
                depth -= 1
    return False
