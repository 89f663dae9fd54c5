"""Where a batch's events lie in its body."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingestion_service.elements import NotJson, find_elements

SPACE = st.text(st.sampled_from(" \t\r\n"), max_size=3)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\[{}]'))
)
JSON = st.recursive(LEAF, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=15)


def elements_of(body: bytes, most: int = 1000) -> list[bytes]:
    return [body[span] for span in find_elements(body, most).spans]


@given(st.lists(st.tuples(JSON, st.booleans(), SPACE, SPACE)), SPACE)
def test_each_element_is_found_exactly(values: list[tuple[object, bool, str, str]], around: str) -> None:
    texts = [json.dumps(value, ensure_ascii=ascii_only) for value, ascii_only, _, _ in values]
    spaced = [f"{before}{text}{after}" for text, (_, _, before, after) in zip(texts, values, strict=True)]
    body = f"{around}[{','.join(spaced)}{around}]{around}".encode()
    assert elements_of(body) == [text.encode() for text in texts]
    beside = f'{around}{{"a" :{json.dumps(values)},{around}"events"{around}:'.encode() + body + b', "b": "]}"}'
    assert elements_of(beside) == [text.encode() for text in texts]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (rb'{"events":[1],"events":[2,3]}', [b"2", b"3"]),
        (rb'{"\u0065vents":[1]}', [b"1"]),
        (rb'{"x":{"events":[1]},"events":[2]}', [b"2"]),
        (rb'{"events":[[[[[[[[[[1]]]]]]]]],{"a":"\\\"]"}]}', [b"[[[[[[[[[1]]]]]]]]]", rb'{"a":"\\\"]"}']),
        (b"[ ]", []),
        (b'["\\\\",{"a":"\\"}"}]', [rb'"\\"', rb'{"a":"\"}"}']),
    ],
    ids=repr,
)
def test_what_parsers_see_is_what_is_found(body: bytes, expected: list[bytes]) -> None:
    assert elements_of(body) == expected


@pytest.mark.parametrize("body", [b"{}", b'{"a":[1]}', b'{"events":5}', b'{"events":[1],"events":null}'], ids=repr)
def test_an_object_without_an_array_of_events_says_so(body: bytes) -> None:
    assert not find_elements(body, 1000).listed


BROKEN = [
    *(b"", b" ", b"1", b'"a"', b"null", b"\xef\xbb\xbf[]", b"[", b"]", b"[1", b"[1,", b"[1,]", b"[,1]", b"[1 2]", b"[1][2]"),
    *(b"{", b'{"events":[1]', b'{"events":[1],}', b'{"events" [1]}', b"{events:[1]}", b'{"events":[1]}}', b'{"a":1 "b":2}'),
    *(b'["', b'["a', b'["\\"]', b"[[1]", b'[{"a":[1}', b'{"events":[1}', b"[1}", b'{"a":1]', b"[" * 50, b"[\x0b1]"),
]  # fmt: skip


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:20]))
def test_a_broken_outline_is_no_json(body: bytes) -> None:
    with pytest.raises(NotJson):
        find_elements(body, 1000)


@given(st.binary(max_size=60) | st.text(st.sampled_from('[]{},:"\\ea1 '), max_size=60).map(str.encode))
@example(b'{"events":["\\')
def test_what_json_takes_has_an_outline(body: bytes) -> None:
    try:
        parsed = json.loads(body.decode())
    except ValueError:
        parsed = None
    try:
        found = [json.loads(element.decode()) for element in elements_of(body)]
    except ValueError:  # an element is no JSON, so the body is none
        assert parsed is None
    except NotJson:
        assert not isinstance(parsed, list | dict)
    else:
        if isinstance(parsed, list):
            assert found == parsed
        elif isinstance(parsed, dict):
            events = parsed.get("events")
            assert found == (events if isinstance(events, list) else [])


def test_no_more_is_looked_for_than_asked() -> None:
    assert len(find_elements(b"[" + b"{}," * 5000 + b"oops", 1000).spans) == 1001
    assert len(find_elements(b'{"events":[' + b"1," * 5000 + b"oops", 1000).spans) == 1001


MIB = 1 << 20


@pytest.mark.parametrize(
    "body",
    [
        b'["' + b'\\"' * MIB + b"]",
        b'["' + b"\\" * 2 * MIB + b"]",
        b"[{" + b'"' * 2 * MIB + b'"}]',
        b'[[[[[[[[[["' + b'\\"' * MIB,
        b"[[[[[[[[[[" + b'"\\""' * (MIB // 2),
        b"[" * 50_000 + b'"' * MIB,
        b"[" + b" " * 2 * MIB,
        b"[" + b"1" * 2 * MIB,
        b'{"a":' * 20_000 + b'"' + b'\\"' * MIB,
        b'{"' + b"a" * 2 * MIB,
    ],
    ids=lambda body: repr(body[:16]),
)
def test_hostile_bodies_are_scanned_in_linear_time(body: bytes) -> None:
    began = time.process_time()
    with pytest.raises(NotJson):
        find_elements(body, 1000)
    assert time.process_time() - began < 2  # two bytes in a hundred would take minutes if it were quadratic
