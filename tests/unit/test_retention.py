"""What retention may be asked, and how its rows become a reply."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from analytics_service.errors import InvalidQuery
from analytics_service.questions.base import Answer
from analytics_service.questions.retention import RetentionQuestion, RetentionReply

START = datetime(2026, 3, 2, tzinfo=UTC)
END = datetime(2026, 3, 4, tzinfo=UTC)
DAY = timedelta(days=1)


def asked(**changes: Any) -> RetentionQuestion:
    return RetentionQuestion(**{"from_ts": START, "to_ts": END, **changes})


def answered() -> Answer:
    cells = {(0, 0): 4, (0, 1): 3, (0, 2): 1, (1, 0): 0, (1, 1): 0, (1, 2): 0}
    return asked(periods=2).answer(
        [
            {
                "cohort": START + cohort * DAY,
                "period": period,
                "begins": START + (cohort + period) * DAY,
                "until": START + (cohort + period + 1) * DAY,
                "users": users,
            }
            for (cohort, period), users in cells.items()
        ]
    )


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"bucket": "2d"}, "send 1d, 1w or 1mo"),
        ({"bucket": "1h"}, "send 1d, 1w or 1mo"),
        ({"bucket": "fortnight"}, "bucket"),
        ({"zone": "Mars/Olympus"}, "no IANA time zone"),
        ({"to_ts": START + 367 * DAY}, "at most 366"),
        ({"to_ts": START + 366 * DAY, "periods": 60}, "about 22,326 numbers, at most 10,000: follow fewer"),
        ({"to_ts": START}, "from_ts must lie before to_ts"),
        ({"from_ts": datetime(1, 1, 2, tzinfo=UTC), "to_ts": datetime(1, 1, 3, tzinfo=UTC)}, "years 1 and 9999"),
        ({"from_ts": datetime(9999, 12, 1, tzinfo=UTC), "to_ts": datetime.max.replace(tzinfo=UTC)}, "years 1 and 9999"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_remedy(changes: dict[str, Any], remedy: str) -> None:
    with pytest.raises(InvalidQuery, match=remedy):
        asked(**changes)


@pytest.mark.parametrize("periods", [0, -1, 61])
def test_a_cohort_is_followed_for_1_to_60_periods(periods: int) -> None:
    with pytest.raises(ValidationError, match="periods"):
        asked(periods=periods)


@pytest.mark.parametrize(("bucket", "longest"), [("1d", 1), ("day", 1), ("1w", 7), ("7d", 7), ("1mo", 31)])
def test_an_answer_depends_on_whole_periods_before_and_after_the_range(bucket: str, longest: int) -> None:
    low, high = asked(bucket=bucket, periods=3).touched()
    assert low <= START - longest * DAY
    assert high >= END + 4 * longest * DAY


def test_days_of_utc_need_no_reading_of_events() -> None:
    assert asked().cost() is None
    assert asked(zone="Greenwich").cost() is None
    assert asked(zone="Etc/UTC", bucket="1w", tenant_id=["t"], user_id=["u"]).cost() is None


@pytest.mark.parametrize(
    "changes", [{"zone": "Europe/Berlin"}, {"event_name": ["buy"]}, {"metadata": {"plan": ["pro"]}}]
)
def test_other_days_and_other_filters_need_the_events_of_all_periods(changes: dict[str, Any]) -> None:
    question = asked(tenant_id=["t"], **changes)
    assert question.cost() == (*question.touched(), question.filters)


def test_each_cohort_has_its_size_and_who_was_active_after() -> None:
    fields = answered().fields
    assert fields["cohorts"] == [
        {"cohort": START, "users": 4, "active": [4, 3, 1], "rates": [1.0, 0.75, 0.25]},
        {"cohort": START + DAY, "users": 0, "active": [0, 0, 0], "rates": [None, None, None]},
    ]
    assert (fields["range_from"], fields["range_to"]) == (START, END)


def test_every_period_is_told_once_so_that_it_can_be_incomplete() -> None:
    answer = answered()
    assert answer.spans == [(START + n * DAY, START + (n + 1) * DAY) for n in range(4)]
    assert answer.fields["periods"] == [START + n * DAY for n in range(4)]


def test_a_reply_is_as_documented() -> None:
    reply = {
        "kind": "retention",
        "filters": {},
        "semantics": asked().semantics(),
        "freshness": {"watermark": None, "age_seconds": None},
        "approximate": False,
        "error": None,
        "incomplete_buckets": [],
        **answered().fields,
    }
    assert len(RetentionReply.model_validate(reply, extra="forbid").cohorts) == 2


def test_the_semantics_say_what_a_period_is() -> None:
    assert "lies in one week (from Monday) of Europe/Berlin" in asked(bucket="1w", zone="Europe/Berlin").semantics()
