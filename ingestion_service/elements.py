"""Where the events of a batch lie in its body: exact spans of bytes, found without parsing. Pure.

Only brackets and strings are looked at: a value's span is right wherever the body is JSON, and whoever parses the span finds
out where it is not. No regular expression here can backtrack, and nothing is scanned more than twice.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pydantic_core import from_json


class NotJson(Exception):
    """The body's outline is not that of JSON."""


class Elements(NamedTuple):
    spans: list[slice]
    """Of the events, in order: ``body[span]`` is one event, without whitespace around it."""
    beside: list[slice] | None
    """Of the batch form's other members, each as ``"name": value``; None for a bare array."""
    listed: bool
    """Whether there is an array of events at all."""


_SPACE = rb"[ \t\r\n]*+"
# The last alternative never matches: it only puts the position back, which Python before 3.11.5 forgets where the last try of
# a possessive group fails half-way (gh-106052).
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+|(?!))*+"'
_FLAT = rb'[{\[](?:[^"{}\[\]]++|' + _STRING + rb"|(?!))*+[}\]]"
_item = re.compile(_SPACE + rb'([^\s"{}\[\],:]++|' + _STRING + rb")" + _SPACE + rb"([,\]}])", re.DOTALL).match
_key = re.compile(_SPACE + rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE, re.DOTALL).match
# Whatever opens and closes at once is stepped over: what is found are the brackets that nest.
_bracket = re.compile(rb'(?:[^"{}\[\]]++|' + _STRING + rb"|" + _FLAT + rb"|(?!))*+([{}\[\]])", re.DOTALL).match
_space = re.compile(_SPACE).match


def find_elements(body: bytes, most: int) -> Elements:
    """The spans of a bare array's elements, or of those of the member ``events`` of an object (the last one, as parsers do).

    Ends early once there are more than ``most``; then the last span is the first too many.

    Raises:
        NotJson: the outline is broken.
    """
    start = skip_space(body)
    opening = body[start : start + 1]
    if opening == b"[":
        spans, end = _array(body, start, most)
        beside, listed = None, True
    elif opening == b"{":
        spans, beside, listed, end = _object(body, start, most)
    else:
        raise NotJson
    if len(spans) <= most and skip_space(body, end) != len(body):
        raise NotJson
    return Elements(spans, beside, listed)


def _array(body: bytes, start: int, most: int) -> tuple[list[slice], int]:
    """The elements of the array that starts at ``start``, and where it ends."""
    spans: list[slice] = []
    first = skip_space(body, start + 1)
    if body[first : first + 1] == b"]":
        return spans, first + 1
    at = start + 1
    while True:
        begin, end, at, then = _next(body, at)
        spans.append(slice(begin, end))
        if len(spans) > most or then == b"]":
            return spans, at
        if then != b",":
            raise NotJson


def _object(body: bytes, start: int, most: int) -> tuple[list[slice], list[slice], bool, int]:
    """The elements of the member ``events``, the other members, whether there is that member, and where the object ends."""
    spans: list[slice] = []
    listed = False
    beside: list[slice] = []
    at = skip_space(body, start + 1)
    if body[at : at + 1] == b"}":
        return spans, beside, listed, at + 1
    while True:
        key = _key(body, at)
        if key is None:
            raise NotJson
        if _text(key[1]) == "events":
            listed = body[key.end() : key.end() + 1] == b"["
            spans = []
            if listed:
                spans, at = _array(body, key.end(), most)
                if len(spans) > most:
                    return spans, beside, listed, at
                at = skip_space(body, at) + 1
                then = body[at - 1 : at]
            else:
                _, _, at, then = _next(body, key.end())
        else:
            _, end, at, then = _next(body, key.end())
            beside.append(slice(key.start(1), end))
        if then == b"}":
            return spans, beside, listed, at
        if then != b",":
            raise NotJson


def _next(body: bytes, at: int) -> tuple[int, int, int, bytes]:
    """Of the value at or after ``at``: where it begins and ends, then where its separator ends, and the separator."""
    begin = skip_space(body, at)
    if body[begin : begin + 1] not in (b"{", b"["):
        item = _item(body, begin)
        if item is None:
            raise NotJson
        return begin, item.end(1), item.end(), item[2]
    end = _end_of_nest(body, begin)
    then = skip_space(body, end)
    return begin, end, then + 1, body[then : then + 1]


def _end_of_nest(body: bytes, begin: int) -> int:
    depth = 1
    at = begin + 1
    while (found := _bracket(body, at)) is not None:
        at = found.end()
        depth += 1 if found[1] in b"{[" else -1
        if depth == 0:
            return at
    raise NotJson


def skip_space(body: bytes, at: int = 0) -> int:
    """The place of the first byte at or after ``at`` that is no JSON whitespace."""
    space = _space(body, at)
    return at if space is None else space.end()


def _text(key: bytes) -> str | None:
    if b"\\" not in key:
        return "events" if key == b'"events"' else None
    try:
        return str(from_json(key))
    except ValueError:
        return None  # whoever parses the envelope will say so
