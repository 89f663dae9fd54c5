"""How a question's times, zones, widths and filters are read."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from analytics_service.errors import InvalidQuery
from analytics_service.questions.base import Question
from analytics_service.questions.counts import CountQuestion, TimeseriesQuestion, TopQuestion
from analytics_service.questions.events import EventsQuestion, UserEventsParameters, UserEventsQuestion
from analytics_service.questions.experiment import ExperimentQuestion
from analytics_service.questions.funnel import FunnelQuestion
from analytics_service.questions.retention import RetentionQuestion
from analytics_service.questions.uniques import UniquesQuestion
from analytics_service.times import UTC_ZONES, parse_time, parse_width, parse_zone

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
MOMENTS = st.timedeltas(-timedelta(days=730_000), timedelta(days=2_900_000)).map(lambda gap: NOON + gap)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", NOON),
        ("2026-01-31T12:00:00", NOON),
        ("2026-01-31T12:00Z", NOON),
        ("2026-01-31 12:00:00Z", NOON),
        ("2026-01-31 12:00:00", NOON),
        ("2026-01-31T12:00:00+00:00", NOON),
        ("2026-01-31T12:00:00-00:00", NOON),
        ("2026-01-31T17:30:00+05:30", NOON),
        ("2026-01-31T02:00:00-10:00", NOON),
        ("2026-01-31T12:00:00.5Z", NOON + timedelta(seconds=0.5)),
        ("2026-01-31T12:00:00.000001Z", NOON + timedelta(microseconds=1)),
        # An unescaped + arrives as a space.
        ("2026-01-31T17:30:00 05:30", NOON),
        ("2026-01-31T17:30:00.000 0530", NOON),
        ("2026-01-31 17:30:00 05:30", NOON),
        ("2026-01-31", NOON.replace(hour=0)),
        ("0001-01-02", datetime(1, 1, 2, tzinfo=UTC)),
        ("9999-12-31", datetime(9999, 12, 31, tzinfo=UTC)),
        ("0001-01-01T00:00:00.000001Z", datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        ("0", datetime(1970, 1, 1, tzinfo=UTC)),
        ("-1", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("1769860800", NOON),
        ("1769860800.25", NOON + timedelta(seconds=0.25)),
        ("1769860800000", NOON),
        ("1769860800250", NOON + timedelta(seconds=0.25)),
        ("99999999999", datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)),
        ("100000000000", datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
        ("-100000000000", datetime(1966, 10, 31, 14, 13, 20, tzinfo=UTC)),
    ],
)
def test_a_time_in_any_documented_form_is_that_moment_in_utc(text: str, moment: datetime) -> None:
    parsed = parse_time(text, "from_ts")
    assert parsed == moment
    assert parsed.utcoffset() == timedelta(0)


def test_the_letters_of_rfc_3339_may_be_in_lower_case_too() -> None:
    """RFC 3339, 5.6: "T" and "Z" may alternatively be lower case; POST /events takes them so."""
    assert parse_time("2026-01-31t12:00:00z", "from_ts") == NOON


GARBAGE = [
    "1.7e9",
    "20260131",
    "2026",
    "202601",
    "1_000",
    "\uff11",
    "",
    " ",
    "now",
    "yesterday",
    "T",
    "12:00",
    "2026-13-01",
    "2026-02-30T00:00:00Z",
    "2026-01-31T25:00:00Z",
    "2026-01-31T12:00:00+25:00",
    "2026-01-31T12:00:00Zjunk",
    "31.01.2026",
    "0x10",
    "1,5",
    "nan",
    "NaN",
    "-nan",
    "inf",
    "-Infinity",
    "1e400",
    "1_000",
    " 12 ",
    "\u0661\u0662",
    "1e30",
    "-1e30",
    "253402300800000",
    "-62135596800000",
    "0001-01-01",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+01:00",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-01:00",
    "10000-01-01",
    "\x00",
    "\U0001f600",
    "9" * 5000,
]


@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: repr(text[:32]))
def test_what_is_no_time_is_refused_with_the_parameter_and_the_remedy(text: str) -> None:
    with pytest.raises(InvalidQuery) as caught:
        parse_time(text, "to_ts")
    assert caught.value.message.startswith("to_ts: ")
    assert "RFC 3339" in caught.value.message
    assert len(caught.value.message) < 500


@given(st.text(max_size=40) | st.text("0123456789-+:.TZeE _", max_size=30))
def test_any_text_is_a_time_or_an_invalid_query(text: str) -> None:
    try:
        moment = parse_time(text, "from_ts")
    except InvalidQuery:
        return
    assert moment.utcoffset() == timedelta(0)


@given(MOMENTS, st.integers(-23 * 60, 23 * 60), st.sampled_from(["T", " "]))
def test_every_moment_is_read_as_it_was_written_in_whichever_zone(
    moment: datetime, offset: int, separator: str
) -> None:
    text = moment.astimezone(timezone(timedelta(minutes=offset))).isoformat(separator)
    assert parse_time(text, "from_ts") == moment
    assert parse_time(text.replace("+", " "), "from_ts") == moment


@given(st.integers(-60_000_000_000, 99_999_999_999))
def test_every_second_is_read_as_it_was_written(seconds: int) -> None:
    # These read as years, months or dates without dashes.
    assume(not any(19 * scale <= seconds < 21 * scale for scale in (100, 10_000, 1_000_000)))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_time(str(seconds), "from_ts") == epoch + timedelta(seconds=seconds)


RANGE = {"from_ts": "0", "to_ts": "1769860800"}
MODERN = {"from_ts": "1980-01-01", "to_ts": "1980-01-02"}


def test_a_question_holds_its_range_and_filters() -> None:
    question = CountQuestion.model_validate({**RANGE, "event_name": "page_view", "user_id": ["user_1", "user_2"]})
    assert (question.from_ts.timestamp(), question.to_ts) == (0, NOON)
    assert question.filters == {"event_name": ["page_view"], "user_id": ["user_1", "user_2"]}
    assert CountQuestion.model_validate(RANGE).filters == {}


@pytest.mark.parametrize(
    ("start", "end"), [("5", "5"), ("6", "5"), ("2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00")]
)
def test_a_range_that_is_empty_or_backwards_is_refused(start: str, end: str) -> None:
    with pytest.raises(InvalidQuery, match="from_ts must lie before to_ts"):
        CountQuestion.model_validate({"from_ts": start, "to_ts": end})


@pytest.mark.parametrize("name", ["", "n" * 257, "a\x00b", "\ud800"], ids=["empty", "long", "NUL", "surrogate"])
@pytest.mark.parametrize("field", ["event_name", "user_id", "tenant_id", "experiment_id", "variant", "source"])
def test_a_filter_that_no_event_can_match_is_refused(field: str, name: str) -> None:
    with pytest.raises(InvalidQuery, match=f"{field}: "):
        CountQuestion.model_validate({**RANGE, field: name})


@pytest.mark.parametrize("field", ["event_name", "user_id", "tenant_id", "experiment_id", "variant", "source"])
def test_a_filter_by_none_of_no_values_is_refused_and_not_taken_for_no_filter(field: str) -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        CountQuestion.model_validate({**RANGE, field: []})
    assert CountQuestion.model_validate({**RANGE, field: None}).filters == {}


@pytest.mark.parametrize("name", ["n", "\U0001f600" * 256, " ", "%", "'; drop table events; --"])
def test_a_filter_is_taken_as_it_is(name: str) -> None:
    assert CountQuestion.model_validate({**RANGE, "event_name": name}).filters == {"event_name": [name]}


@pytest.mark.parametrize(
    ("given", "filters"),
    [
        (["plan=pro"], {"plan": ["pro"]}),
        (["plan=pro", "plan=free", "a.b=x=y"], {"plan": ["pro", "free"], "a.b": ["x=y"]}),
        ("plan=", {"plan": [""]}),
        ({"plan": "pro", "n": 3, "ok": True}, {"plan": ["pro"], "n": ["3"], "ok": ["true"]}),
        ({"n": [1, "2"]}, {"n": ["1", "2"]}),
        ({"n": [2**64, -(10**40)], "no": False}, {"n": [str(2**64), "-1" + "0" * 40], "no": ["false"]}),
        ([r"a\.b=x", r"a\.=x", r"\.=x"], {r"a\.b": ["x"], r"a\.": ["x"], r"\.": ["x"]}),
    ],
    ids=repr,
)
def test_metadata_is_filtered_by_path_and_value_in_either_form(given: object, filters: object) -> None:
    assert CountQuestion.model_validate({**RANGE, "metadata": given}).filters == {"metadata": filters}


@pytest.mark.parametrize(
    "given",
    [
        ["plan"],
        ["=x"],
        ["a..b=x"],
        [".a=x"],
        ["a=x", "b=x", "c=x", "d=x"],
        {"a": 1.5},
        {"a": None},
        {"a": {}},
        {"a": []},
        {"a": "x", "b": []},
        {},
        [],
        ["a=\x00"],
        ["a\x01b=x"],
        [r"a\..=x"],
        ["a.=x"],
        ["\x00=a"],
        ["a" * 257 + "=x"],
        {"a": ["x"] * 101},
    ],
    ids=lambda given: repr(given)[:30],
)
def test_metadata_that_no_event_can_have_is_refused(given: object) -> None:
    with pytest.raises(InvalidQuery, match="metadata"):
        CountQuestion.model_validate({**RANGE, "metadata": given})


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        *(("1m", "1 minutes"), ("m", "1 minutes"), ("15m", "15 minutes"), ("1h", "60 minutes"), ("12h", "720 minutes")),
        *(("24h", "1 days"), ("1440m", "1 days"), ("1d", "1 days"), ("day", "1 days"), ("31d", "31 days")),
        *(("1w", "7 days"), ("2w", "14 days"), ("1mo", "1 month"), ("month", "1 month")),
    ],
)
def test_a_bucket_is_from_a_minute_to_a_month_wide(text: str, interval: str) -> None:
    assert parse_width(text).interval == interval


@pytest.mark.parametrize(
    "text", ["", "0m", "7m", "5h", "25h", "32d", "5w", "2mo", "1y", "1s", "-1d", "1 d", "1D", "d1", "\u0661d"]
)
def test_any_other_width_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuery, match="bucket: "):
        parse_width(text)


@pytest.mark.parametrize(
    "text", ["", "UTC+3", "EST5EDT,M3.2.0", "../UTC", "localtime", "europe/berlin", "\x00", "<x>-3"]
)
def test_a_zone_is_one_that_iana_knows(text: str) -> None:
    with pytest.raises(InvalidQuery, match="zone: "):
        parse_zone(text)
    assert parse_zone("Europe/Berlin") == "Europe/Berlin"


@pytest.mark.parametrize("by", ["", "EVENT_NAME", "metadata", "metadata.", "metadata.a..b", "1; drop", "event_id"])
def test_only_what_events_have_breaks_an_answer_down(by: str) -> None:
    with pytest.raises(InvalidQuery):
        TopQuestion.model_validate({**RANGE, "by": by})
    with pytest.raises(InvalidQuery):
        TimeseriesQuestion.model_validate({**RANGE, "breakdown": by})


END_OF_TIME = {"from_ts": "9999-12-01", "to_ts": "9999-12-30T23:00:00Z", "bucket": "1mo"}
BEGINNING_OF_TIME = {"from_ts": "0001-01-02", "to_ts": "0001-02-01", "bucket": "1mo", "zone": "Asia/Tokyo"}


@pytest.mark.parametrize("question", [TimeseriesQuestion, UniquesQuestion, RetentionQuestion])
@pytest.mark.parametrize("asked", [END_OF_TIME, BEGINNING_OF_TIME])
def test_buckets_that_leave_the_calendar_are_refused_with_the_range_that_does_not(
    question: type[TimeseriesQuestion | UniquesQuestion | RetentionQuestion], asked: dict[str, str]
) -> None:
    with pytest.raises(InvalidQuery, match=r"years 1 and 9999: send from_ts from ") as caught:
        question.model_validate(asked)
    first, last = re.findall(r"\d{4}-\d\d-\d\d", caught.value.message)
    assert question.model_validate({**asked, "from_ts": first, "to_ts": "0001-02-25"}).from_ts == parse_time(first, "")
    assert question.model_validate({**asked, "from_ts": "9999-01-01", "to_ts": last}).to_ts == parse_time(last, "")


def test_more_numbers_than_anybody_can_look_at_are_refused() -> None:
    with pytest.raises(InvalidQuery, match="wider buckets or a shorter range"):
        TimeseriesQuestion.model_validate({**RANGE, "bucket": "1d"})
    week = {"from_ts": "2026-01-01", "to_ts": "2026-01-07"}
    assert TimeseriesQuestion.model_validate({**week, "bucket": "1m"}).bucket == "1m"
    with pytest.raises(InvalidQuery, match="bucket"):
        TimeseriesQuestion.model_validate({**week, "bucket": "1m", "breakdown": "event_name"})
    with pytest.raises(InvalidQuery, match="about 17,280 numbers"):  # the value's and the others'
        TimeseriesQuestion.model_validate({**week, "bucket": "1m", "breakdown": "event_name", "limit": 1})


@pytest.mark.parametrize(
    ("question", "costs"),
    [
        (CountQuestion.model_validate({**RANGE, "event_name": "a", "tenant_id": "t"}), False),
        (CountQuestion.model_validate({**RANGE, "user_id": "u"}), True),
        (TopQuestion.model_validate({**RANGE, "by": "tenant_id"}), False),
        (TopQuestion.model_validate({**RANGE, "by": "metadata.plan"}), True),
        (TimeseriesQuestion.model_validate({"from_ts": "0", "to_ts": "9000", "bucket": "15m"}), False),
        (TimeseriesQuestion.model_validate({"from_ts": "0", "to_ts": "9000", "bucket": "5m"}), True),
        (TimeseriesQuestion.model_validate({"from_ts": "0", "to_ts": "9000", "zone": "Etc/Greenwich"}), False),
        # Until 1972 the clocks of Monrovia were 44 minutes and a half behind UTC's.
        (TimeseriesQuestion.model_validate({"from_ts": "0", "to_ts": "9000", "zone": "Africa/Monrovia"}), True),
        (TimeseriesQuestion.model_validate({**MODERN, "zone": "Africa/Monrovia"}), False),
        (EventsQuestion.model_validate(RANGE), False),
        (EventsQuestion.model_validate({**RANGE, "user_id": "u", "metadata": "plan=pro"}), False),
        (EventsQuestion.model_validate({**RANGE, "experiment_id": "e", "event_name": "a"}), True),
        (EventsQuestion.model_validate({**RANGE, "experiment_id": "e", "format": "csv"}), True),
    ],
    ids=lambda value: value.KIND if isinstance(value, Question) else str(value),
)
def test_what_must_be_read_event_by_event_has_its_cost(question: Question, costs: bool) -> None:
    assert (question.cost() is not None) is costs


def test_a_page_of_an_experiment_costs_all_events_of_that_name() -> None:
    asked = EventsQuestion.model_validate({**RANGE, "experiment_id": "e", "event_name": "a", "tenant_id": "t"})
    assert asked.cost() == (asked.from_ts, asked.to_ts, {"event_name": ["a"]})


@pytest.mark.parametrize("zone", sorted(UTC_ZONES))
def test_the_zones_taken_for_utc_always_show_utc(zone: str) -> None:
    years = (datetime(year, month, 1, tzinfo=UTC) for year in range(1800, 2100) for month in (1, 7))
    assert not any(moment.astimezone(ZoneInfo(zone)).utcoffset() for moment in years)
    assert parse_zone(zone) == zone


@pytest.mark.parametrize("users", [None, ["u", "v"]])
def test_the_events_of_a_user_are_those_of_one_user(users: list[str] | None) -> None:
    with pytest.raises(InvalidQuery, match="name the one user"):
        UserEventsQuestion(user_id=users)


def test_whose_events_are_meant_is_said_by_the_path_alone() -> None:
    asked = UserEventsParameters.model_validate({"limit": 5, "metadata": ["plan=pro"]}).of("u")
    assert (asked.KIND, asked.limit, asked.filters) == (
        "user_events",
        5,
        {"user_id": ["u"], "metadata": {"plan": ["pro"]}},
    )
    assert asked.exported()[1][0] == asked.from_ts == datetime.min.replace(tzinfo=UTC)
    with pytest.raises(InvalidQuery, match="the path names the user already"):
        UserEventsParameters(user_id=["u"]).of("u")
    with pytest.raises(InvalidQuery, match="user_id: no event can have it"):
        UserEventsParameters().of("u\x00")


@pytest.mark.parametrize(
    "question",
    [
        *(CountQuestion, TimeseriesQuestion, TopQuestion, UniquesQuestion, FunnelQuestion, RetentionQuestion),
        *(ExperimentQuestion, EventsQuestion, UserEventsQuestion),
    ],
)
def test_the_documentation_of_every_question_begins_with_its_range(question: type[Question]) -> None:
    assert list(question.model_fields)[:3] == ["from_ts", "to_ts", "event_name"]
