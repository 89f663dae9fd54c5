"""Where a replay goes, in which form, and what the door's answers mean. Pure."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest

from event_consumer.letters.errors import BadSelection, CannotReplay, DoorUnavailable
from event_consumer.letters.forms import RefusedAgain, door_request, judged
from event_consumer.letters.mend import Mend
from event_consumer.letters.plan import Letter, ReplayOptions, ToDoor, ToTopic, plan
from event_consumer.letters.selection import Cursor, Selection, require_narrow

ID = UUID("01990000-0000-7000-8000-000000000001")
TOPICS = ("events", "product_events")


def letter(**given: Any) -> Letter:
    usual = Letter(ID, "events", 3, b"k", b"{}", [], "not_json", "VALUE_CONVERTER", None, False, 0)
    return usual._replace(**given)


def planned(found: Letter, **options: Any) -> ToTopic | ToDoor:
    return plan(found, ReplayOptions(topics=TOPICS, **options))


def to_door(
    value: bytes, headers: list[tuple[str, bytes | None]] | None = None
) -> tuple[str, dict[bytes, bytes], bytes]:
    request = door_request(value, headers or [], ID)
    return request.path, dict(request.headers), request.content


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({}, ToTopic),
        ({"stage": "TASK_PUT"}, ToTopic),
        ({"partition": None, "stage": "KAFKA_PRODUCE"}, ToTopic),
        ({"partition": None}, ToDoor),
    ],
)
def test_a_message_goes_to_its_topic_and_a_clients_body_to_the_door(given: dict[str, Any], where: type) -> None:
    assert isinstance(planned(letter(**given)), where)


def test_the_letters_id_is_the_last_header_and_older_ones_are_gone() -> None:
    found = planned(letter(headers=[("dead-letter-id", b"old"), ("a", b"1"), ("retry-count", b"4")], retry_count=4))
    assert isinstance(found, ToTopic)
    assert found.outgoing.record.headers == [("a", b"1"), ("retry-count", b"5"), ("dead-letter-id", str(ID).encode())]


@pytest.mark.parametrize(
    ("given", "options", "why"),
    [
        ({"stub": True}, {"force": True}, "too large"),
        ({"retry_count": 5}, {}, "--force"),
        ({"value": None}, {}, "no value"),
        ({"reason": "not_a_dead_letter", "topic": "events-dlq"}, {}, "--to-topic"),
        ({"topic": "events-dlq"}, {}, "no event of topic events-dlq"),
        ({}, {"to_topic": "elsewhere"}, "no event of topic elsewhere"),
        ({"partition": None}, {"to_topic": "events"}, "through the door"),
        ({}, {"mend": Mend(b"[1]")}, "no JSON object"),
    ],
)
def test_what_cannot_be_sent_says_why(given: dict[str, Any], options: dict[str, Any], why: str) -> None:
    with pytest.raises(CannotReplay, match=why):
        planned(letter(**given), **options)


def test_a_mended_message_without_an_id_has_the_one_that_it_had() -> None:
    event_id = uuid4()
    value = b'{"user_id":"u"}'
    for known, expected in ((event_id, event_id), (None, ID)):
        found = planned(letter(event_id=known, headers=[("event-id", b"old")]), mend=Mend(value))
        assert isinstance(found, ToTopic)
        assert json.loads(found.outgoing.record.value) == {"user_id": "u", "event_id": str(expected)}
        assert dict(found.outgoing.record.headers)["event-id"] == str(expected).encode()
        assert found.outgoing.record.key == b"u"


def test_after_a_conflict_an_event_may_have_another_id() -> None:
    other = str(uuid4())
    found = letter(event_id=uuid4(), reason="conflict", stage="TASK_PUT")
    assert isinstance(planned(found, mend=Mend(put={"event_id": other})), ToTopic)
    with pytest.raises(CannotReplay):
        planned(found._replace(reason="invalid_event"), mend=Mend(put={"event_id": other}))


# --- forms


@pytest.mark.parametrize(
    ("value", "path", "content_type"),
    [
        (b'{"user_id":"u","event_name":"e"}', "/events", b"application/json"),
        (b'{"event_name":"e"}', "/events", b"application/json"),
        (b'{"user_id":"u","event_type":"e","properties":{}}', "/events", b"application/json"),
        (b'{"learner_id":"u","event_type":"e","event_data":{}}', "/api/v1/collect", b"application/json"),
        (b'{"event_type":"e","event_data":{}}', "/api/v1/collect", b"application/json"),
        (b'"no object"', "/api/v1/collect", b"application/json"),
        (b"5", "/api/v1/collect", b"application/json"),
        (b'{"learner_id":"\\ud800","n":1e999}', "/api/v1/collect", b"application/json"),
        (b'{"specversion":"1.0","type":"e"}', "/events", b"application/cloudevents+json"),
        (b'{"id":"1","source":"s","type":"e"}', "/events", b"application/cloudevents+json"),
    ],
)
def test_a_body_goes_where_its_form_is_taken(value: bytes, path: str, content_type: bytes) -> None:
    where, headers, content = to_door(value)
    assert (where, headers[b"content-type"]) == (path, content_type)
    assert headers[b"dead-letter-id"] == str(ID).encode(), "so that the door keeps no second letter of it"
    if path == "/api/v1/collect":
        assert content.startswith(b"[")
        assert content.endswith(b"]")


def test_an_event_without_an_id_is_given_its_letters() -> None:
    assert json.loads(to_door(b'{"event_name":"e"}')[2])["event_id"] == str(ID)
    assert json.loads(to_door(b'{"event_name":"e","event_id":null}')[2])["event_id"] == str(ID)
    assert json.loads(to_door(b'{"learner_id":"e"}')[2])[0]["event_id"] == str(ID)
    assert json.loads(to_door(b'{"specversion":"1.0"}')[2])["id"] == str(ID)
    assert to_door(b"{}", [("ce-type", b"e")])[1][b"ce-id"] == str(ID).encode()


@pytest.mark.parametrize(
    "value",
    [
        b'{"event_name":"e","event_id":"mine"}',
        b'{"specversion":"1.0","id":"mine"}',
        b'{ "event_name" : "e" , "event_id":1}',
    ],
)
def test_an_event_with_an_id_is_sent_as_it_is(value: bytes) -> None:
    assert to_door(value)[2] == value


def test_a_cloudevent_in_binary_mode_is_sent_as_it_came() -> None:
    kept: list[tuple[str, bytes | None]] = [
        ("ce-id", b"1"),
        ("ce-subject", "é".encode()),
        ("content-type", b"text/plain"),
    ]
    path, headers, content = to_door(b"\xff", [*kept, ("other", b"x")])
    assert (path, content) == ("/events", b"\xff")
    assert headers == {
        b"ce-id": b"1",
        b"ce-subject": "é".encode(),
        b"content-type": b"text/plain",
        b"dead-letter-id": str(ID).encode(),
    }


# --- answers


@pytest.mark.parametrize(
    ("status", "body"),
    [(202, {"status": "accepted", "event_id": "1"}), (202, {"status": "duplicate"}), (200, {"accepted_count": 1})],
)
def test_an_event_that_was_taken_is_settled(status: int, body: dict[str, Any]) -> None:
    assert judged(status, json.dumps(body).encode()) is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, {"error_code": "missing_field", "error_message": "why"}),
        (409, {"error_code": "missing_field", "error_message": "why"}),
        (413, {"error_code": "missing_field", "error_message": "why\x00"}),
        (422, {"accepted_count": 0, "results": [{"reason": "missing_field", "message": "why"}]}),
    ],
)
def test_an_event_that_was_refused_says_why(status: int, body: dict[str, Any]) -> None:
    said = judged(status, json.dumps(body).encode())
    assert isinstance(said, RefusedAgain)
    assert said.reason == "missing_field"
    assert said.error.startswith("why")
    assert "\x00" not in said.error


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>hello</html>"),
        (200, b"{}"),
        (200, b"[]"),
        (204, b""),
        (301, b""),
        (400, b"Bad Request"),
        (401, b'{"error_code":"unauthorized","error_message":"a key is needed"}'),
        (404, b'{"error_code":"not_found","error_message":"x"}'),
        (408, b'{"error_code":"body_timeout","error_message":"x"}'),
        (422, b'{"results":[5]}'),
        (429, b"{}"),
        (500, b'{"error_code":"internal_error","error_message":"x"}'),
        (503, b'{"error_code":"broker_unavailable","error_message":"x"}'),
    ],
)
def test_any_other_answer_is_not_the_events_fault(status: int, body: bytes) -> None:
    with pytest.raises(DoorUnavailable, match=str(status)):
        judged(status, body)


# --- selection


def test_all_letters_are_meant_only_where_that_is_said() -> None:
    require_narrow(Selection(), everything=True)
    require_narrow(Selection(reason="x"), everything=False)
    require_narrow(Selection([ID]), everything=False)
    for selection, everything in ((Selection(), False), (Selection(state="discarded"), False), (Selection([ID]), True)):
        with pytest.raises(BadSelection):
            require_narrow(selection, everything=everything)


def test_a_place_in_the_list_can_be_written_and_read() -> None:
    text = f"2026-01-31T12:00:00.000001Z_{ID}"
    assert str(Cursor.read(text)) == text
    for wrong in ("", "x", str(ID), f"2026-01-31T12:00:00_{ID}", f"{text}x", f"_{ID}"):
        with pytest.raises(BadSelection, match="after"):
            Cursor.read(wrong)


@pytest.mark.parametrize(
    "given",
    [
        {"reason": "a\x00"},
        {"tenant": "\ud800"},
        {"topic": "x" * 3_000},
        {"state": "gone"},
        {"since": datetime(2026, 1, 1)},  # noqa: DTZ001  # what is refused
        {"until": datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))},
    ],
)
def test_a_filter_that_no_letter_can_match_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadSelection, match=next(iter(given))):
        Selection(**given)
