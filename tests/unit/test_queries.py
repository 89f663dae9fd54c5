"""How a question's times and filters are read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from analytics_service.errors import InvalidQuery
from analytics_service.queries import count_query, parse_time

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
    assume(not 19_000_000 <= seconds <= 20_999_999)  # these read as dates without dashes
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_time(str(seconds), "from_ts") == epoch + timedelta(seconds=seconds)


def test_a_question_holds_its_range_and_filters() -> None:
    query = count_query("0", "1769860800", "page_view", "user_1")
    assert (query.from_ts.timestamp(), query.to_ts) == (0, NOON)
    assert (query.event_name, query.user_id) == ("page_view", "user_1")
    bare = count_query("0", "1", None, None)
    assert (bare.event_name, bare.user_id) == (None, None)


@pytest.mark.parametrize(
    ("start", "end"), [("5", "5"), ("6", "5"), ("2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00")]
)
def test_a_range_that_is_empty_or_backwards_is_refused(start: str, end: str) -> None:
    with pytest.raises(InvalidQuery, match="from_ts must lie before to_ts"):
        count_query(start, end, None, None)


@pytest.mark.parametrize("name", ["", "n" * 257, "a\x00b"], ids=["empty", "long", "NUL"])
def test_a_filter_that_no_event_can_match_is_refused(name: str) -> None:
    with pytest.raises(InvalidQuery, match="event_name: "):
        count_query("0", "1", name, None)
    with pytest.raises(InvalidQuery, match="user_id: "):
        count_query("0", "1", None, name)


@pytest.mark.parametrize("name", ["n", "\U0001f600" * 256, " ", "%", "'; drop table events; --"])
def test_a_filter_is_taken_as_it_is(name: str) -> None:
    assert count_query("0", "1", name, name).event_name == name
