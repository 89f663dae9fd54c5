"""Bad input over HTTP: the exact status, the one error shape, and a counter that an operator can watch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from event_core.codec import Record
from event_core.errors import BrokerUnavailable, Overloaded, Unavailable
from ingestion_service.delivery import Delivery
from ingestion_service.publisher import MemoryPublisher
from ingestion_service.settings import IngestionSettings
from tests.unit.ingestion import GOOD, BrokenPublisher, Ingestion, answer, call, chunk, error_of


def with_metadata(text: bytes) -> bytes:
    return b'{"user_id":"u","event_name":"e","metadata":{"a":' + text + b"}}"


DEEP = b"[" * 100 + b"]" * 100
BAD_INPUT: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "empty_body"),
    "blank": (b" \r\n", 400, "empty_body"),
    "not JSON": (b"user_id=u", 400, "malformed_body"),
    "cut off": (GOOD[:-1], 400, "malformed_body"),
    "two values": (GOOD + GOOD, 400, "malformed_body"),
    "not UTF-8": (b'{"user_id":"\xff","event_name":"e"}', 400, "malformed_body"),
    "an array": (b"[" + GOOD + b"]", 422, "not_an_object"),
    "null": (b"null", 422, "not_an_object"),
    "a wrong type": (b'{"user_id":5,"event_name":"e"}', 422, "wrong_type"),
    "metadata of a wrong type": (b'{"user_id":"u","event_name":"e","metadata":[]}', 422, "wrong_type"),
    "a wrong event_id": (b'{"user_id":"u","event_name":"e","event_id":"7"}', 422, "wrong_type"),
    "a missing user_id": (b'{"event_name":"e"}', 422, "missing_field"),
    "an empty user_id": (b'{"user_id":"","event_name":"e"}', 422, "bad_length"),
    "a bad timestamp": (b'{"user_id":"u","event_name":"e","timestamp":"soon"}', 422, "bad_timestamp"),
    "a timestamp out of range": (
        b'{"user_id":"u","event_name":"e","timestamp":"0001-01-01T00:00:00Z"}',
        422,
        "bad_timestamp",
    ),
    "neither event_name nor event_type": (b'{"user_id":"u"}', 422, "missing_field"),
    "both event_name and event_type": (b'{"user_id":"u","event_name":"e","event_type":"t"}', 422, "ambiguous_form"),
    "the platform's own name": (b'{"user_id":"u","event_name":"e","_platform":{}}', 422, "reserved_field"),
    "NaN": (with_metadata(b"NaN"), 422, "unstorable_value"),
    "NaN as a body": (b"[NaN]", 422, "not_an_object"),
    "Infinity": (with_metadata(b"[-Infinity]"), 422, "unstorable_value"),
    "1e999": (with_metadata(b"1e999"), 422, "unstorable_value"),
    "2^64": (with_metadata(b"18446744073709551616"), 422, "unstorable_value"),
    "NUL": (with_metadata(rb'"\u0000"'), 422, "unstorable_value"),
    "NUL in a key": (with_metadata(rb'{"\u0000":1}'), 422, "unstorable_value"),
    "NUL in a name": (rb'{"user_id":"u\u0000","event_name":"e"}', 422, "unstorable_value"),
    "a lone surrogate": (with_metadata(rb'"\ud800"'), 400, "malformed_body"),
    "a lone surrogate as a body": (rb'"\ud800"', 400, "malformed_body"),
    "deep nesting": (with_metadata(DEEP), 413, "too_deep"),
    "too many values": (with_metadata(b"[" + b"0," * 100_000 + b"0]"), 413, "too_wide"),
    "a body over the limit": (with_metadata(b'"%b"' % (b"x" * (1 << 20))), 413, "body_too_large"),
    "an event over the limit": (with_metadata(b'"%b"' % (b"x" * (300 << 10))), 413, "event_too_large"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
async def test_bad_input_gets_its_status_in_the_one_shape_and_is_counted(name: str) -> None:
    body, status, reason = BAD_INPUT[name]
    service = Ingestion()

    response = await service.post(body)

    error = error_of(response)
    assert (response.status_code, error["error_code"], error["retryable"]) == (status, reason, False)
    assert service.rejected() == {reason: 1.0}
    assert service.metric("ingestion_requests_total", status=str(status)) == 1
    assert service.metric("ingestion_request_seconds_count", status=str(status)) == 1
    assert service.metric("ingestion_events_accepted_total", stored="kafka") == 0
    assert service.records() == []


async def test_wrong_fields_are_listed_in_the_details() -> None:
    response = await Ingestion().post(b'{"user_id":5,"event_name":"e","metadata":[]}')
    details = error_of(response, details=True)["details"]
    assert [problem["field"] for problem in details["errors"]] == ["user_id", "metadata"]
    assert all(problem["reason"] for problem in details["errors"])


@pytest.mark.parametrize("body", [b"", b"[]", GOOD[:-1]], ids=repr)
async def test_a_refusal_without_fields_has_no_details(body: bytes) -> None:
    error_of(await Ingestion().post(body), details=False)


@pytest.mark.parametrize("encoding", ["compress", "gzip, br", "nonsense"])
async def test_an_encoding_that_is_not_taken_is_named(encoding: str) -> None:
    service = Ingestion()
    response = await service.post(GOOD, content_encoding=encoding)
    assert response.status_code == 415
    assert "Content-Encoding" in error_of(response)["error_message"]
    assert service.rejected() == {"unsupported_content_encoding": 1.0}
    assert service.records() == []


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
async def test_a_plain_body_may_say_that_it_is_plain(encoding: str) -> None:
    assert (await Ingestion().post(GOOD, content_encoding=encoding)).status_code == 202


async def test_a_body_in_pieces_is_put_together() -> None:
    service = Ingestion()
    pieces = [chunk(GOOD[at : at + 10], more=True) for at in range(0, len(GOOD), 10)]
    response = answer(await call(service.app, [*pieces, chunk(b"", more=False)]))
    assert response.status_code == 202
    assert service.events()[0]["metadata"] == {"page": "/"}


async def test_a_body_of_the_largest_size_is_taken_and_one_byte_more_is_not() -> None:
    service = Ingestion(settings=IngestionSettings(ingestion_max_body_bytes=2048))
    largest = GOOD + b" " * (2048 - len(GOOD))
    for pieces in ([largest], [largest[:1000], largest[1000:]]):
        good = [*(chunk(piece, more=True) for piece in pieces[:-1]), chunk(pieces[-1], more=False)]
        assert answer(await call(service.app, good)).status_code == 202
        over = [*(chunk(piece, more=True) for piece in pieces), chunk(b" ", more=False)]
        assert answer(await call(service.app, over)).status_code == 413


async def test_a_body_that_never_ends_is_refused_as_soon_as_it_is_over_the_limit() -> None:
    service = Ingestion(settings=IngestionSettings(ingestion_max_body_bytes=2048))
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1000
            yield chunk(b" " * 1000, more=True)

    response = answer(await call(service.app, endless()))  # type: ignore[arg-type]  # an endless iterable
    assert response.status_code == 413
    assert error_of(response)["error_code"] == "body_too_large"
    assert taken <= 4000


async def test_a_declared_length_over_the_limit_is_refused_without_reading() -> None:
    service = Ingestion(settings=IngestionSettings(ingestion_max_body_bytes=2048))
    response = answer(await call(service.app, [], [(b"content-length", b"2049")]))
    assert response.status_code == 413
    assert error_of(response)["error_code"] == "body_too_large"


@pytest.mark.parametrize(
    "begun", [[], [chunk(b"", more=True)], [chunk(GOOD[:20], more=True)]], ids=["0", "empty", "20"]
)
async def test_a_body_that_stalls_is_given_up_after_the_time_limit(begun: list[dict[str, object]]) -> None:
    service = Ingestion(settings=IngestionSettings(ingestion_body_timeout_seconds=0.05))
    response = answer(await call(service.app, begun, [(b"content-length", b"%d" % len(GOOD))]))
    error = error_of(response)
    assert (response.status_code, error["error_code"], error["retryable"]) == (408, "body_timeout", True)
    assert service.rejected() == {"body_timeout": 1.0}
    assert service.records() == []


@pytest.mark.parametrize("begun", [[], [chunk(GOOD, more=True)]], ids=["before the body", "within the body"])
async def test_an_event_of_a_client_that_is_gone_before_its_end_is_not_stored(begun: list[dict[str, object]]) -> None:
    service = Ingestion()
    assert await call(service.app, [*begun, {"type": "http.disconnect"}]) == []
    assert service.records() == []


@pytest.mark.parametrize(
    ("problem", "code", "wait"),
    [
        (BrokerUnavailable("Kafka is away", retry_after=7), "broker_unavailable", "7"),
        (Overloaded("too much waits"), "overloaded", "1"),
        (Unavailable("not now"), "unavailable", "1"),
    ],
)
async def test_while_nothing_can_be_stored_the_answer_is_503_and_when_to_come_back(
    problem: Unavailable, code: str, wait: str
) -> None:
    service = Ingestion(publisher=MemoryPublisher(problem))
    response = await service.post(GOOD)
    error = error_of(response)
    assert (response.status_code, response.headers["retry-after"]) == (503, wait)
    assert (error["error_code"], error["error_message"], error["retryable"]) == (code, problem.message, True)
    assert service.metric("ingestion_events_unavailable_total", reason=code) == 1
    assert service.rejected() == {}


async def test_an_event_whose_acknowledgement_fails_late_is_not_acknowledged() -> None:
    class Late(MemoryPublisher):
        def publish(self, topic: str, records: Sequence[Record]) -> list[Delivery]:
            delivery = Delivery()
            asyncio.get_running_loop().call_soon(delivery.settle, BrokerUnavailable("no acknowledgement in time"))
            return [delivery] * len(records)

    service = Ingestion(publisher=Late())
    assert (await service.post(GOOD)).status_code == 503
    assert service.metric("ingestion_events_accepted_total", stored="kafka") == 0


async def test_a_fault_of_ours_is_a_500_in_the_one_shape_that_tells_nothing_secret() -> None:
    service = Ingestion(publisher=BrokenPublisher())
    response = await service.post(GOOD, x_request_id="find-me")
    error = error_of(response, details=False)
    assert (response.status_code, error["error_code"], error["request_id"]) == (500, "internal_error", "find-me")
    assert "hunter2" not in response.text
    assert "RuntimeError" not in response.text
    assert service.metric("ingestion_requests_total", status="500") == 1
