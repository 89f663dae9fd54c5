"""What a funnel may be asked, and how its rows become a reply."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from analytics_service.errors import InvalidQuery
from analytics_service.questions.base import Answer
from analytics_service.questions.funnel import FunnelQuestion, FunnelReply

START = datetime(2026, 3, 1, tzinfo=UTC)
END = datetime(2026, 3, 8, tzinfo=UTC)
DAY = timedelta(days=1)


def asked(**changes: Any) -> FunnelQuestion:
    return FunnelQuestion(**{"from_ts": START, "to_ts": END, "step": ["view", "cart", "buy"], **changes})


def answered(question: FunnelQuestion, *users: int) -> Answer:
    return question.answer(
        [
            {"step": number, "event_name": name, "users": count, "still_open": 0}
            for number, (name, count) in enumerate(zip(question.step, users, strict=True), 1)
        ]
    )


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"step": []}, "2 to 10 steps"),
        ({"step": "view"}, "2 to 10 steps"),
        ({"step": ["view"] * 11}, "2 to 10 steps"),
        ({"step": ["view", ""]}, "step: no event can have it"),
        ({"step": ["view", "a\x00b"]}, "step: no event can have it"),
        ({"event_name": ["view"]}, "event_name: leave it out"),
        ({"window": "7"}, "window: '7' is no duration"),
        ({"window": "0d"}, "window: '0d' is no duration"),
        ({"window": "91d"}, "longer than 90d"),
        ({"window": "99999w"}, "longer than"),
        ({"to_ts": START}, "from_ts must lie before to_ts"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_remedy(changes: dict[str, Any], remedy: str) -> None:
    with pytest.raises(InvalidQuery, match=remedy):
        asked(**changes)


@pytest.mark.parametrize(
    ("window", "length"), [("30m", DAY / 48), ("12h", DAY / 2), ("7d", 7 * DAY), ("2w", 14 * DAY), ("90d", 90 * DAY)]
)
def test_a_window_is_a_number_and_a_unit(window: str, length: timedelta) -> None:
    assert asked(window=window).settles() == END + length


def test_an_answer_depends_on_the_days_in_which_the_last_entry_can_still_be_completed() -> None:
    assert asked(window="1d").touched() == (START, END + DAY)
    assert asked(window="1d", per_step=True).touched() == (START, END + 2 * DAY)
    assert answered(asked(window="1d", per_step=True), 3, 2, 1).spans == [(START, END + 2 * DAY)]


def test_a_funnel_reaches_no_further_than_time_does() -> None:
    end = datetime.max.replace(tzinfo=UTC)
    assert asked(to_ts=end, window="90d", per_step=True).touched() == (START, end)


def test_what_must_be_read_are_the_steps_events_that_pass_the_filters() -> None:
    cost = asked(step=["view", "cart", "view"], tenant_id=["t"], window="1d").cost()
    assert cost == (START, END + DAY, {"tenant_id": ["t"], "event_name": ["view", "cart"]})


def test_conversions_are_of_those_who_entered_and_of_the_step_before() -> None:
    steps = answered(asked(), 9, 6, 1).fields["steps"]
    assert [step["conversion"] for step in steps] == [1.0, 0.666667, 0.111111]
    assert [step["conversion_from_previous"] for step in steps] == [1.0, 0.666667, 0.166667]


def test_nobody_has_no_conversion() -> None:
    steps = answered(asked(), 0, 0, 0).fields["steps"]
    assert {step["conversion"] for step in steps} | {step["conversion_from_previous"] for step in steps} == {None}


def test_a_reply_is_as_documented() -> None:
    reply = {
        "kind": "funnel",
        "filters": {},
        "semantics": asked().semantics(),
        "freshness": {"watermark": None, "age_seconds": None},
        "approximate": False,
        "error": None,
        "incomplete_buckets": [],
        **answered(asked(), 3, 2, 1).fields,
    }
    assert FunnelReply.model_validate(reply, extra="forbid").window_seconds == 7 * 86_400


def test_the_semantics_say_how_the_window_was_meant() -> None:
    assert "all within 7d of the entry" in asked().semantics()
    assert "each within 1h of the step before" in asked(window="1h", per_step=True).semantics()
