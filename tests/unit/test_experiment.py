"""What the question about an experiment accepts, asks and says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from analytics_service.errors import InvalidQuery
from analytics_service.questions.experiment import ExperimentQuestion, ExperimentReply
from analytics_service.times import parse_duration

START, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
Counts = tuple[str | None, int, int]


def asked(**fields: Any) -> ExperimentQuestion:
    return ExperimentQuestion(**{"experiment": "exp_1", "goal": "purchase", "from_ts": START, "to_ts": END, **fields})


def replied(counts: Sequence[Counts], still_open: int = 0, **fields: Any) -> dict[str, Any]:
    """The reply's own part, as its documented model and JSON have it."""
    names = ExperimentQuestion.COLUMNS
    rows = [dict(zip(names, (*row, still_open if row[0] is not None else 0), strict=True)) for row in counts]
    reply = asked(**fields).answer(rows).fields
    common: dict[str, Any] = {
        "kind": "experiment",
        "filters": {},
        "semantics": "",
        "freshness": {"watermark": None, "age_seconds": None},
        "approximate": False,
        "error": None,
        "incomplete_buckets": [],
    }
    assert ExperimentReply.model_validate({**common, **reply}).model_dump().items() >= reply.items()
    assert orjson.loads(orjson.dumps(reply)) == reply, "a number that JSON has no way to say"
    return reply


# --- what is accepted


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(days=14)),
        ("366d", timedelta(days=366)),
    ],
)
def test_durations(text: str, duration: timedelta) -> None:
    assert parse_duration(text, "window") == duration


@pytest.mark.parametrize(
    "text", ["", "7", "d", "0d", "-1d", "1.5d", "7 d", "367d", "999999w", "7D", "1mo", "٧d", "7d\n"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidQuery, match="window"):
        asked(window=text)


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"experiment_id": ["exp_2"]}, "experiment_id: leave it out"),
        ({"variant": ["A"]}, "variant: leave it out"),
        ({"event_name": ["purchase"]}, "event_name: leave it out"),
        ({"experiment": ""}, "experiment: no event can have it"),
        ({"goal": "a\x00"}, "goal: no event can have it"),
        ({"control": ""}, "control: no event can have it"),
        ({"ratio": ["A"]}, "ratio=A:1"),
        ({"ratio": ["A:0"]}, "ratio=A:1"),
        ({"ratio": ["A:nan"]}, "ratio=A:1"),
        ({"ratio": ["A:inf"]}, "ratio=A:1"),
        ({"ratio": ["A:1e300"]}, "ratio=A:1"),
        ({"ratio": [":1"]}, "ratio: no event can have it"),
        ({"ratio": ["A:1", "A:2"]}, "two shares"),
        ({"ratio": ["A:1", "B:1"], "control": "C"}, "no share in ratio"),
        ({"from_ts": END, "to_ts": START}, "from_ts must lie before to_ts"),
    ],
)
def test_a_question_that_makes_no_sense_says_what_to_change(fields: dict[str, Any], remedy: str) -> None:
    with pytest.raises(InvalidQuery, match=remedy):
        asked(**fields)


@pytest.mark.parametrize("alpha", ["0", "0.3", "nan", "often"])
def test_alpha_is_a_small_probability(alpha: str) -> None:
    with pytest.raises(ValidationError, match="alpha"):
        asked(alpha=alpha)


# --- what is asked


def test_the_answer_depends_on_everything_before_and_on_the_last_window() -> None:
    question = asked(window="7d", tenant_id=["acme"], source=["web"])
    assert question.settles() == END + timedelta(days=7)
    assert question.touched() == (datetime(1, 1, 1, tzinfo=UTC), END + timedelta(days=7))
    cost = question.cost()
    assert cost is not None
    assert cost == (START, END + timedelta(days=7), {"tenant_id": ["acme"], "event_name": ["purchase"]})


def test_a_window_may_reach_the_end_of_time() -> None:
    last = datetime(9999, 12, 31, tzinfo=UTC)
    assert asked(to_ts=last).settles() == datetime.max.replace(tzinfo=UTC)


def test_the_semantics_name_experiment_goal_and_window() -> None:
    said = asked(window="36h").semantics()
    assert all(part in said for part in ("exp_1", "purchase", "36h", "first exposure", "Holm"))


# --- what is said


def test_a_clear_difference() -> None:
    reply = replied([("A", 5000, 500), ("B", 5000, 700)])
    assert (reply["control"], reply["better"], reply["worse"]) == ("A", ["B"], [])
    assert reply["conclusion"] == "B does better than A"
    (found,) = reply["comparisons"]
    for test in ("fixed_horizon", "sequential"):
        assert found[test]["lift"]["estimate"] == pytest.approx(0.4)
        assert found[test]["lift"]["low"] < 0.4 < found[test]["lift"]["high"]
        assert found[test]["p_value"] == found[test]["p_value_corrected"] < 0.001
    assert found["bayesian"]["chance_to_win"] > 0.999


def test_the_control_is_ones_own_choice() -> None:
    reply = replied([("A", 5000, 500), ("B", 5000, 700)], control="B")
    assert (reply["control"], reply["better"], reply["worse"]) == ("B", [], ["A"])
    assert reply["conclusion"] == "A does worse than B"


def test_one_look_that_sees_a_difference_is_not_enough() -> None:
    reply = replied([("A", 5000, 500), ("B", 5000, 565)])
    (found,) = reply["comparisons"]
    assert found["fixed_horizon"]["p_value"] < 0.05 < found["sequential"]["p_value"]
    assert reply["conclusion"] == "no difference from A shown so far"


def test_several_variants_are_corrected_for() -> None:
    reply = replied([("A", 5000, 500), ("B", 5000, 700), ("C", 5000, 510), ("D", 5000, 350)])
    assert (reply["better"], reply["worse"]) == (["B"], ["D"])
    assert reply["conclusion"] == "B does better than A; D does worse than A"
    tested = {found["variant"]: found["fixed_horizon"] for found in reply["comparisons"]}
    assert all(result["p_value_corrected"] >= result["p_value"] for result in tested.values())
    assert min(result["p_value_corrected"] / result["p_value"] for result in (tested["B"], tested["D"])) >= 2


@pytest.mark.parametrize(
    ("counts", "ratio", "expected"),
    [
        ([("A", 50_000, 500), ("B", 48_500, 900)], None, "sample ratio mismatch: p = "),
        ([("A", 9000, 500), ("B", 9000, 900)], ["A:9", "B:1"], "sample ratio mismatch: p < 1e-300;"),
        ([("A", 9000, 500), ("B", 8000, 900)], ["A:1", "B:1"], "sample ratio mismatch: p = "),
        ([("A", 9000, 500), ("B", 9000, 900), ("C", 3, 0)], ["A:1", "B:1"], "sample ratio mismatch: users saw C"),
        ([("A", 9000, 500)], ["A:1", "B:1"], "sample ratio mismatch: p < 1e-300;"),
    ],
)
def test_a_wrong_split_gates_the_result(counts: list[Counts], ratio: list[str] | None, expected: str) -> None:
    reply = replied(counts, ratio=ratio)
    assert reply["sample_ratio"]["mismatch"]
    assert reply["conclusion"].startswith(expected)
    assert (reply["better"], reply["worse"]) == ([], [])


def test_a_split_as_meant_passes() -> None:
    reply = replied([("A:1", 9000, 500), ("B", 1000, 100)], ratio=["A:1:0.9", "B:0.1"])
    assert reply["sample_ratio"]["expected"] == pytest.approx({"A:1": 0.9, "B": 0.1})
    assert reply["sample_ratio"]["p_value"] == 1
    assert not reply["sample_ratio"]["mismatch"]


def test_one_stray_event_overturns_no_experiment() -> None:
    """A user whom a mistyped variant was shown is neither the control nor a reason to distrust the split."""
    clean = replied([("control", 2000, 200), ("treat", 2000, 300)])
    reply = replied([("a", 1, 0), ("control", 2000, 200), ("treat", 2000, 300)])
    assert reply["stray_variants"] == [{"variant": "a", "users": 1}]
    assert {field: reply[field] for field in reply if field not in ("stray_variants", "conclusion")} == {
        field: clean[field] for field in clean if field not in ("stray_variants", "conclusion")
    }
    assert (clean["stray_variants"], clean["conclusion"]) == ([], "treat does better than control")
    assert reply["conclusion"] == (
        "treat does better than control; 1 left out with less than 1 % of the users: see stray_variants"
    )


@pytest.mark.parametrize(
    ("counts", "fields", "compared"),
    [
        ([("a", 20, 2), ("b", 990, 90), ("c", 990, 90)], {}, ["a", "b", "c"]),
        ([("a", 9, 2), ("b", 990, 90), ("c", 990, 90)], {"control": "a"}, ["a", "b", "c"]),
        ([("a", 9, 2), ("b", 990, 90), ("c", 990, 90)], {"control": "b"}, ["b", "c"]),
        ([("a", 9, 2), ("b", 990, 90)], {"ratio": ["a:1", "b:99"]}, ["a", "b"]),
        ([("a", 9, 2), ("b", 990, 90), ("c", 990, 90)], {"ratio": ["b:1", "c:1"]}, ["a", "b", "c"]),
        ([(f"{number:03}", 10, 5) for number in range(101)], {}, [f"{number:03}" for number in range(101)]),
    ],
    ids=["1 %", "the control", "another control", "in ratio", "not in ratio", "all"],
)
def test_only_what_few_saw_and_nobody_named_is_a_stray(
    counts: list[Counts], fields: dict[str, Any], compared: list[str]
) -> None:
    reply = replied(counts, **fields)
    assert [found["variant"] for found in reply["variants"]] == compared
    assert [found["variant"] for found in reply["stray_variants"]] == [
        variant for variant, *_ in counts if variant not in compared
    ]


def test_the_semantics_say_what_a_stray_is_where_there_can_be_some() -> None:
    assert "less than 1 % of the users" in asked().semantics()
    assert "stray" not in asked(ratio=["A:1", "B:1"]).semantics()


@pytest.mark.parametrize(
    ("counts", "fields", "conclusion"),
    [
        ([], {}, "no users were exposed in the range"),
        ([(None, 3, 0)], {}, "no users were exposed in the range"),
        ([("A", 10, 1)], {}, "nothing to compare with: there is one variant"),
        ([("A", 10, 1), ("B", 10, 1)], {"control": "Z"}, "nobody saw the control Z"),
        ([], {"ratio": ["A:1", "B:1"]}, "not tested: the control has no users"),
        ([("A", 1, 0), ("B", 1, 1)], {}, "not tested: no user of the control converted"),
        ([("A", 10, 0), ("B", 10, 0)], {}, "not tested: no user of the control converted"),
        ([("A", 10, 10), ("B", 10, 10)], {}, "not tested: every user of the control converted"),
        ([("A", 2, 1), ("B", 2, 1)], {}, "no difference from A shown so far"),
        ([(f"{number}", 10, 5) for number in range(21)], {}, "not compared: 21 variants, at most 20 are"),
    ],
)
def test_little_to_go_by(counts: list[Counts], fields: dict[str, Any], conclusion: str) -> None:
    reply = replied(counts, **fields)
    assert reply["conclusion"] == conclusion
    assert (reply["better"], reply["worse"], reply["sample_ratio"]["mismatch"]) == ([], [], False)
    assert all(found["reason"] or found["sequential"] for found in reply["comparisons"])
    assert reply["sample_ratio"]["reason"] or reply["sample_ratio"]["p_value"] is not None


def test_users_left_out_and_open_windows_are_told() -> None:
    reply = replied([("A", 500, 50), ("B", 500, 50), (None, 7, 0)], still_open=3)
    assert reply["excluded_users"] == 7
    assert [found["still_open"] for found in reply["variants"]] == [3, 3]
    assert reply["conclusion"] == "no difference from A shown so far; 6 windows are still open"


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1)), max_size=4),
    st.sampled_from((0.001, 0.05, 0.2)),
    st.sampled_from((None, "A", "C")),
    st.sampled_from((None, ["A:1", "C:2"])),
)
def test_any_counts_have_a_reply(
    counts: list[tuple[int, float]], alpha: float, control: str | None, ratio: list[str] | None
) -> None:
    rows = [(name, users, round(users * rate)) for name, (users, rate) in zip("ABCD", counts, strict=False)]
    reply = replied(rows, alpha=alpha, control=control, ratio=ratio)
    assert reply["conclusion"]
    assert not set(reply["better"]) & set(reply["worse"])
