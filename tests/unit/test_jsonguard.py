"""The shape check against a plain reference, and what it costs on hostile input."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event_core.errors import TooLarge, Unstorable
from event_core.jsonguard import check_shape, encode, refuse_unstorable

MIB = 1 << 20
QUICK_SECONDS = 5.0
"""Some ten to a hundred times what an idle machine needs; a check that is quadratic in 1 MiB takes minutes."""

TRICKY = st.text(st.sampled_from('[]{}"\\,:a/\u00e9\U0001f600\n'), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TRICKY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TRICKY, inner, max_size=4),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    """How deep the brackets of ``value``'s JSON are nested, read from the value itself."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def fits(raw: bytes, max_depth: int, max_separators: int = 10**9) -> bool:
    try:
        check_shape(raw, max_depth=max_depth, max_separators=max_separators)
    except TooLarge:
        return False
    return True


@settings(max_examples=300)
@given(JSON, st.sampled_from([None, 1]), st.booleans())
def test_exactly_what_is_nested_deeper_than_the_limit_is_refused(value: Any, indent: int | None, ascii_: bool) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_).encode()
    depth = depth_of(value)
    assert fits(raw, depth)
    if depth:
        assert not fits(raw, depth - 1)


@pytest.mark.parametrize(
    ("raw", "depth"),
    [
        (rb'["[[[["]', 1),
        (rb'["\"[[[["]', 1),
        (rb'["\\",[["x"]]]', 3),
        (rb'["\\\"[[[["]', 1),
        (rb'["\\\\",{"]":[]}]', 3),
        (rb'["\\\\\"]","[[",[]]', 2),
        (rb'{"\\":{"\"":{}}}', 3),
        (rb'["\u005b\u005b"]', 1),
        (rb'["\u005c",[]]', 2),
        (rb'["\u0022",[]]', 2),
        (b"[[],[],[],[],[]]", 2),
        (b'"[[[["', 0),
        (b"7", 0),
    ],
)
def test_brackets_within_strings_are_no_nesting(raw: bytes, depth: int) -> None:
    assert depth_of(json.loads(raw)) == depth
    assert fits(raw, depth)
    if depth:
        assert not fits(raw, depth - 1)


@pytest.mark.parametrize("raw", [b"[1,2,3]", b'{"a":1}', b"[[],[]]", b"[{},{}]"])
def test_separators_are_commas_colons_and_opening_brackets(raw: bytes) -> None:
    separators = sum(raw.count(mark) for mark in (b"[", b"{", b",", b":"))
    assert fits(raw, 10, separators)
    assert not fits(raw, 10, separators - 1)


@given(JSON, st.integers(1, 40))
def test_no_more_values_than_the_limit_allows_get_through(value: Any, limit: int) -> None:
    if fits(json.dumps(value).encode(), 100, limit):
        assert containers_and_members(value) <= 2 * limit + 1


def containers_and_members(value: Any) -> int:
    inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return 1 + sum(map(containers_and_members, inner))


HOSTILE = {
    "open brackets": b"[" * MIB,
    "open braces": b'{"a":' * (MIB // 5),
    "pairs": b"[]," * (MIB // 3),
    "closing brackets": b"]" * MIB,
    "quotes": b"[" * 65 + b'"' * MIB,
    "empty strings": b"[" * 65 + b'"",' * (MIB // 3),
    "brackets in a string": b'"' + b"[" * MIB + b'"',
    "brackets in an unclosed string": b'"' + b"[" * MIB,
    "backslashes": b'"' + b"\\" * MIB + b"[" * 65,
    "escaped quotes": b'"' + b'\\"[' * (MIB // 3),
    "strings of brackets": b'"[","]",' * (MIB // 8),
    "brackets up and down": b"[]" * (MIB // 2),
    "zeros": b"\x00" * MIB,
    "not UTF-8": b"\xff[" * (MIB // 2),
}


@pytest.mark.parametrize("limit", [100_000, 10 * MIB])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_mebibyte_is_judged_quickly(name: str, limit: int) -> None:
    began = time.perf_counter()
    fits(HOSTILE[name], 64, limit)
    assert time.perf_counter() - began < QUICK_SECONDS


@given(JSON)
def test_what_can_be_encoded_is_read_back_equal(value: Any) -> None:
    try:
        raw = encode(value)
    except Unstorable:
        assert any(not -(2**63) <= number < 2**64 for number in integers(value))
        return
    assert json.loads(raw) == value


def integers(value: Any) -> list[int]:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is not None:
        return [number for one in inner for number in integers(one)]
    return [value] if isinstance(value, int) else []


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        "\x00",
        "\ud800",
        2**64,
        -(2**63) - 1,
        pytest.param(object(), id="object"),
        {1: 2},
    ],
    ids=repr,
)
def test_what_cannot_be_encoded_without_change_is_refused(value: Any) -> None:
    for held in (value, [value], {"a": [None, value]}):
        with pytest.raises(Unstorable):
            encode(held)


@pytest.mark.parametrize("key", ["\x00", "a\x00b", "\ud800"], ids=repr)
def test_a_key_that_no_store_can_hold_is_refused(key: str) -> None:
    with pytest.raises(Unstorable):
        encode({"a": [{key: 1}]})


@pytest.mark.parametrize(
    "value", [None, "null", [None], {"null": None}, "\\u0000", {"\\u0000": "\\u0000"}, "u0000", -0.0]
)
def test_what_only_looks_unstorable_is_taken(value: Any) -> None:
    refuse_unstorable(value)
    assert json.loads(encode(value)) == value


def test_nesting_too_deep_to_encode_is_a_refusal_and_not_a_crash() -> None:
    value: list[Any] = []
    for _ in range(5_000):
        value = [value]
    with pytest.raises(Unstorable):
        encode(value)
