"""From the body of POST /api/v1/collect to canonical events and refusals, one for each event sent. Pure.

An array whose events are all good is parsed a piece at a time: what is made of a piece fits into the processor's cache. Where
anything fails, each event's own bytes are found and validated alone by the same rules, so that one bad event never fails its
batch. A large body is always taken so, and one event at a time: its parsed form may be ten times its bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, FailFast, TypeAdapter, ValidationError, with_config
from pydantic_core import from_json
from typing_extensions import TypedDict

from event_core.errors import InvalidEvent, MalformedBody, TooLarge, Unstorable
from event_core.jsonguard import check_shape
from ingestion_service.elements import Elements, NotJson, find_elements, skip_space
from ingestion_service.forms import Accepted, Refused, is_json, malformed, refusal
from ingestion_service.forms import sent_id as sent_id
from ingestion_service.learner import Setting, learner_event, setting_of, too_much_beside
from ingestion_service.limits import Limits
from ingestion_service.schemas import CollectRequest, Envelope, LearnerEventIn

WHOLE_BYTES = 2 << 20
"""A larger body is never parsed as a whole, and a larger event not at all."""
PIECE_BYTES = 24 << 10
"""About so much of an array is parsed together."""
MAX_ENVELOPE_BYTES = 64 << 10
"""What a batch may say beside its events, as it was sent: with whitespace and escapes."""


_cut = re.compile(rb"\}[ \t\r\n]*+,[ \t\r\n]*+\{").search


@with_config(ConfigDict(extra="ignore"))
class _Anything(TypedDict):
    """Parses an object and keeps nothing of it."""


_validate_batch = TypeAdapter[Any](Annotated[list[LearnerEventIn], FailFast()]).validate_json
_validate_request = TypeAdapter[Any](CollectRequest).validate_json
_validate_envelope = TypeAdapter[Any](Envelope).validate_json
_validate_event = TypeAdapter[Any](LearnerEventIn).validate_json
_parse = TypeAdapter[Any](_Anything).validate_json


@dataclass(slots=True)
class Batch:
    """What a body holds."""

    batch_id: str
    """The client's as it was sent, or a new UUIDv7."""
    items: Iterable[Accepted | Refused]
    """Item i is event i as sent. Read it once: each event is made as it is read, so let go of one before the next. Reading raises
    what ``collect`` raises: take nothing of the batch before all was read."""
    corrected: int = 0
    """Events whose time was corrected by ``sent_at``; final once the items were read."""


def collect(raw: bytes, now: datetime, limits: Limits) -> Batch:
    """The events that ``raw`` holds (a bare array, or an object with ``events``), received at ``now`` (aware UTC).

    Raises:
        MalformedBody: no JSON, neither of the two forms, no events, or a wrong field beside the events.
        TooLarge: more events than ``limits.events``, too wide to be parsed safely, or too much beside the events.
    """
    check_shape(raw, max_depth=len(raw), max_separators=limits.separators)  # depth is each event's own affair
    if len(raw) <= WHOLE_BYTES:
        batch = _at_once(raw, now, limits)
        if batch is not None:
            return batch
    return _one_by_one(raw, now, limits)


def originals(raw: bytes, limits: Limits) -> list[slice]:
    """The place of each event's bytes in ``raw``, a body that ``collect`` took."""
    return find_elements(raw, limits.events).spans


def original_of(raw: bytes, limits: Limits) -> Callable[[int], bytes]:
    """Gives the bytes of event i of ``raw``; the places are found once, when first asked for."""
    places: list[slice] = []

    def original(index: int) -> bytes:
        if not places:
            places.extend(originals(raw, limits))
        return raw[places[index]]

    return original


def _at_once(raw: bytes, now: datetime, limits: Limits) -> Batch | None:
    """The batch where every event is good; None where that has to be looked at one by one."""
    start = skip_space(raw)
    if raw[start : start + 1] == b"[":
        setting = setting_of({}, now, limits)
        batch = Batch(setting.batch_id, ())
        batch.items = _in_pieces(raw, start + 1, setting, limits, batch)
        return batch
    try:
        envelope = _validate_request(raw)
        events = envelope.pop("events")
    except ValidationError:
        return None
    if not 0 < len(events) <= limits.events:
        return None
    setting = setting_of(envelope, now, limits)
    try:
        items = [learner_event(given, setting) for given in events]
    except InvalidEvent:
        return None
    return Batch(setting.batch_id, items, setting.corrected)


def _in_pieces(raw: bytes, start: int, setting: Setting, limits: Limits, batch: Batch) -> Iterator[Accepted | Refused]:
    """The events of a bare array whose first is at ``start``; from the first piece that is not all good on, one by one."""
    number = 0
    original = original_of(raw, limits)
    for piece in _pieces(raw, start):
        try:
            events = _validate_batch(piece)
        except ValidationError:
            break
        for given in events:
            try:
                yield learner_event(given, setting)
            except InvalidEvent:  # for instance a time that cannot be stored
                yield _item(number, original(number), setting, limits)
            number += 1
        if number > limits.events:
            break
    else:
        if number:
            batch.corrected = setting.corrected
            return
    yield from _items(raw, _elements(raw, limits).spans, setting, limits, batch, first=number)


def _pieces(raw: bytes, start: int) -> Iterator[bytes]:
    """``raw``, an array whose first element is at ``start``, as arrays of neighbouring elements.

    It is cut where one object seems to end and another to begin. If that is within a text or a deeper array, the piece before it
    is no JSON: whatever is before an element's end is an array once it is closed, and nothing else is.
    """
    while len(raw) - start > 2 * PIECE_BYTES and (cut := _cut(raw, start + PIECE_BYTES)) is not None:
        yield b"[" + raw[start : cut.start() + 1] + b"]"
        start = cut.end() - 1
    yield b"[" + raw[start:]


# --- Event by event ---------------------------------------------------------------------------------------------------


def _one_by_one(raw: bytes, now: datetime, limits: Limits) -> Batch:
    elements = _elements(raw, limits)
    envelope = {} if elements.beside is None else _envelope(raw, elements.beside)
    setting = setting_of(envelope, now, limits)
    batch = Batch(setting.batch_id, ())
    batch.items = _items(raw, elements.spans, setting, limits, batch)
    return batch


def _elements(raw: bytes, limits: Limits) -> Elements:
    try:
        elements = find_elements(raw, limits.events)
    except NotJson:
        raise _not_json(raw) from None
    if not elements.listed:
        raise _no_batch(raw)
    if len(elements.spans) > limits.events:
        raise TooLarge(
            f"the batch holds more than {limits.events:,} events: send them in several", reason="batch_too_large"
        )
    if not elements.spans:
        raise MalformedBody("the batch holds no events: send at least one", reason="empty_batch")
    return elements


def _no_batch(raw: bytes) -> MalformedBody:
    """The refusal of what has no array of events."""
    if len(raw) <= WHOLE_BYTES:  # a larger one is not even parsed to tell what is wrong with it
        try:
            _parse(raw)
        except ValidationError as error:
            if not is_json(error):
                return malformed(raw, error)
    return MalformedBody(
        "the body is neither an array of events nor an object with an array named events", reason="not_a_batch"
    )


def _not_json(raw: bytes) -> MalformedBody:
    """The refusal of what has not even the outline of a batch."""
    start = skip_space(raw)
    if len(raw) > WHOLE_BYTES:
        if start == len(raw):
            return MalformedBody("the body is empty: send JSON", reason="empty_body")
        if raw[start] in b"[{":
            return MalformedBody("the body is not JSON: its brackets or quotes do not match")
    return _no_batch(raw)


def _envelope(raw: bytes, beside: list[slice]) -> dict[str, Any]:
    if sum(span.stop - span.start for span in beside) > MAX_ENVELOPE_BYTES:
        raise too_much_beside()
    try:
        given: dict[str, Any] = _validate_envelope(b"{" + b",".join([raw[span] for span in beside]) + b"}")
    except ValidationError as error:
        if not is_json(error):
            raise _no_batch(raw) from None
        wrong = refusal(error)
        raise MalformedBody(wrong.message, reason=wrong.reason, details=wrong.details) from None
    return given


def _items(
    raw: bytes, spans: list[slice], setting: Setting, limits: Limits, batch: Batch, *, first: int = 0
) -> Iterator[Accepted | Refused]:
    for index in range(first, len(spans)):
        yield _item(index, raw[spans[index]], setting, limits)
    batch.corrected = setting.corrected


def _item(index: int, raw: bytes, setting: Setting, limits: Limits) -> Accepted | Refused:
    """Raises MalformedBody where the event is not JSON: then the body is none."""
    try:
        _check_element(raw, limits)
        return learner_event(_validate_event(raw), setting)
    except TooLarge as error:
        return Refused(index, None, raw, error)
    except InvalidEvent as error:
        return Refused(index, sent_id(from_json(raw)), raw, error)
    except ValidationError as error:
        if is_json(error):
            return Refused(index, sent_id(from_json(raw)), raw, refusal(error, what="event"))
        fields = _lenient(index, raw, error)
        problem = malformed(raw, error).message.rpartition(": ")[2]
        return Refused(index, sent_id(fields), raw, Unstorable(f"a value cannot be stored without change: {problem}"))


def _check_element(raw: bytes, limits: Limits) -> None:
    if len(raw) > WHOLE_BYTES:
        raise TooLarge(
            f"the event is larger than {limits.event_bytes:,} bytes: send less event_data", reason="event_too_large"
        )
    try:
        check_shape(raw, max_depth=limits.depth, max_separators=limits.separators)
    except TooLarge as error:
        raise TooLarge(error.message.replace("the body", "the event", 1), reason=error.reason) from None


def _lenient(index: int, raw: bytes, error: ValidationError) -> object:
    """What the parser refused, by the bare grammar of JSON: lone surrogates and numbers of any length are within it.

    Raises:
        MalformedBody: it breaks the grammar too.
    """
    try:
        return json.loads(raw.decode(), parse_int=str, parse_float=str)
    except ValueError:
        wrong = malformed(raw, error)
        raise MalformedBody(f"event {index}: {wrong.message}", reason=wrong.reason) from None
