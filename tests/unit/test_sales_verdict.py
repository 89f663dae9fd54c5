"""What MongoDB's error codes mean for a batch: a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.sales.verdict import DUPLICATE, judge
from event_consumer.verdict import Verdict

TABLE: dict[Verdict, list[int | None]] = {
    Verdict.DATA: [2, 9, 14, 15, 16, 22, 52, 121, 10334, 17280],
    Verdict.STOP: [11, 13, 18, 20, 59, 67, 72, 73, 79, 85, 86, 115, 166],
    # Failovers, shutdowns, full disks, unmet write concerns, time limits; and no answer at all.
    Verdict.WAIT: [
        6,
        7,
        24,
        50,
        64,
        89,
        91,
        100,
        112,
        189,
        202,
        262,
        9001,
        10107,
        11600,
        11602,
        13435,
        13436,
        14031,
        None,
    ],
}


@pytest.mark.parametrize(("verdict", "code"), [(verdict, code) for verdict, codes in TABLE.items() for code in codes])
def test_a_code_has_its_verdict(verdict: Verdict, code: int | None) -> None:
    assert judge(code) is verdict


@given(st.integers(20_000, 10**9))
def test_what_is_unknown_is_waited_out(code: int) -> None:
    assert judge(code) is Verdict.WAIT


def test_a_duplicate_is_no_fault_of_its_own() -> None:
    assert 11000 in DUPLICATE
    assert not DUPLICATE & {*TABLE[Verdict.DATA], *TABLE[Verdict.STOP]}
