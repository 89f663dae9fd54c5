"""Mending a letter changes what was asked and nothing else, and never its identity."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.letters.errors import CannotReplay
from event_consumer.letters.mend import Mend, identified, keep_identity, mended, parsed

ORIGINAL = {"event_id": "x", "metadata": {"items": [{"price": 1}, {"price": 2}]}, "n": 18446744073709551616}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def mend(*drop: str, value: bytes | None = None, **put: Any) -> Any:
    paths = {name.replace("__", "."): given for name, given in put.items()}
    return json.loads(mended(json.dumps(ORIGINAL).encode(), Mend(value, paths, drop)))


def test_a_field_is_changed_wherever_it_is_and_the_rest_stays() -> None:
    assert mend(metadata__items__1__price=9.5) == {**ORIGINAL, "metadata": {"items": [{"price": 1}, {"price": 9.5}]}}
    assert mend(user_id="é") == {**ORIGINAL, "user_id": "é"}
    assert mend(a__b__c=None) == {**ORIGINAL, "a": {"b": {"c": None}}}
    assert mend(metadata__items__2=[]) == {**ORIGINAL, "metadata": {"items": [{"price": 1}, {"price": 2}, []]}}


def test_a_field_is_taken_out() -> None:
    assert mend("metadata.items.0") == {**ORIGINAL, "metadata": {"items": [{"price": 2}]}}
    assert mend("metadata", "n") == {"event_id": "x"}


@pytest.mark.parametrize(
    ("drop", "put"),
    [
        (["nothing"], {}),
        (["metadata.items.7"], {}),
        (["metadata.items.x"], {}),
        ([], {"metadata__items__7__price": 1}),
        ([], {"metadata__items__7": 1}),
        ([], {"event_id__a": 1}),
        ([], {"metadata__items__x__a": 1}),
        (["a.b"], {}),
    ],
)
def test_a_path_that_leads_nowhere_is_said(drop: list[str], put: dict[str, Any]) -> None:
    with pytest.raises(CannotReplay, match="there is no"):
        mend(*drop, **put)


@pytest.mark.parametrize("original", [None, b"", b"[]", b"1", b"{", b"\xff", b"[" * 100_000])
def test_a_field_of_what_is_no_object_cannot_be_changed(original: bytes | None) -> None:
    with pytest.raises(CannotReplay, match="no JSON object"):
        mended(original, Mend(put={"a": 1}))


def test_a_new_value_replaces_the_old_one_whatever_that_was() -> None:
    assert mended(b"\xff", Mend(b"{}")) == b"{}"
    with pytest.raises(CannotReplay, match="exclude each other"):
        mended(b"{}", Mend(b"{}", {"a": 1}))


def test_a_number_that_is_no_json_has_to_be_mended_too() -> None:
    with pytest.raises(CannotReplay, match="NaN or infinite"):
        mended(b'{"a":NaN}', Mend(put={"b": 1}))
    assert mended(b'{"a":NaN}', Mend(put={"a": 1})) == b'{"a":1}'


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), JSON, max_size=4),
    st.sampled_from(["", " ", "\n\t"]),
)
def test_an_id_is_put_in_and_every_other_byte_stays(fields: dict[str, Any], space: str) -> None:
    event_id = uuid4()
    original = (space + json.dumps(fields, indent=1 if space else None) + space).encode()
    made = identified(original, event_id)
    assert json.loads(made) == {**fields, "event_id": str(event_id)}
    assert made.startswith(original.rstrip()[:-1])


def test_an_id_that_is_null_is_replaced_for_every_reader_that_takes_the_last() -> None:
    event_id = uuid4()
    assert json.loads(identified(b'{"event_id":null}', event_id)) == {"event_id": str(event_id)}


def test_a_mended_value_is_the_same_event_or_is_refused() -> None:
    known, other = UUID(int=1 << 100), uuid4()
    same = b'{"event_id":"%s"}' % str(known).upper().encode()
    keep_identity(same, known, may_change=False)
    keep_identity(b"{}", known, may_change=False)
    keep_identity(b'{"event_id":"%s"}' % str(other).encode(), None, may_change=False)
    keep_identity(b'{"event_id":"%s"}' % str(other).encode(), known, may_change=True)
    with pytest.raises(CannotReplay, match="keeps the event's identity"):
        keep_identity(b'{"event_id":"%s"}' % str(other).encode(), known, may_change=False)


def test_numbers_may_stay_texts_where_they_are_too_long_to_be_converted() -> None:
    assert parsed(b'{"a":%s}' % (b"9" * 5_000), numbers=False) == {"a": "9" * 5_000}
    assert parsed(b'{"a":%s}' % (b"9" * 5_000)) is None
