"""From the body of POST /events to a canonical event, or a refusal that says what to change. Pure.

Two forms, told apart by ``event_name`` and ``event_type``: exactly one of them must be there. One parse decides in all but odd
cases (the other form's word within the data, escaped keys), which are then looked at exactly.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from event_core.errors import InvalidEvent
from event_core.event import DEFAULT_TENANT, Event
from event_core.jsonguard import check_shape
from ingestion_service.forms import PLATFORM_KEY as PLATFORM_KEY
from ingestion_service.forms import Accepted as Accepted
from ingestion_service.forms import Form as Form
from ingestion_service.forms import Refused as Refused
from ingestion_service.forms import finish, is_json, malformed, new_id, refusal, utc_time
from ingestion_service.limits import Limits
from ingestion_service.schemas import EventIn, ProductEventIn

_validate_event = TypeAdapter[Any](EventIn).validate_json
_validate_product = TypeAdapter[Any](ProductEventIn).validate_json

_NEITHER = {"event_name": "Field required (or event_type, with properties and event_time, in the other form)"}


def accept(raw: bytes, now: datetime, limits: Limits) -> Accepted:
    """The event that ``raw`` (one JSON object in one of the two forms) describes, received at ``now`` (aware UTC).

    Raises:
        MalformedBody: empty, or not JSON (lone surrogates and raw control characters are not JSON either).
        TooLarge: nested too deep or too wide to be parsed safely.
        InvalidEvent: a field is missing, of the wrong type or out of range, the form is ambiguous, or the event is too old.
    """
    check_shape(raw, max_depth=limits.depth, max_separators=limits.separators)
    try:
        if b'"event_type"' in raw:
            return _product(_validate_product(raw), now, limits)
        return _event(_validate_event(raw), now, limits)
    except ValidationError as error:
        if not is_json(error):
            raise malformed(raw, error) from None
    return _looked_at(raw, now, limits)


def _looked_at(raw: bytes, now: datetime, limits: Limits) -> Accepted:
    """Decides by the names that the object really has."""
    fields = from_json(raw)
    typed = "event_type" in fields if isinstance(fields, dict) else False
    if typed and "event_name" in fields:
        raise _ambiguous()
    del fields  # two parsed forms of a body need not be in memory at once
    try:
        return _product(_validate_product(raw), now, limits) if typed else _event(_validate_event(raw), now, limits)
    except ValidationError as error:
        raise refusal(error, instead=_NEITHER) from None


def _event(given: dict[str, Any], now: datetime, limits: Limits) -> Accepted:
    event_id = given.pop("event_id", None)
    moment = given.pop("timestamp", None)
    if moment is not None:
        moment = utc_time(moment, "timestamp")
    event: Event = {
        "event_id": event_id or new_id(),
        "tenant_id": DEFAULT_TENANT,
        "user_id": given.pop("user_id"),
        "event_name": given.pop("event_name"),
        "timestamp": moment or now,
        "received_at": now,
        "metadata": given.pop("metadata", None) or {},
        "context": given,
    }
    if "event_type" in given:
        raise _ambiguous()
    return finish(
        event, kind="event", given=moment, named=event_id is not None, now=now, retention_days=limits.retention_days
    )


def _product(given: dict[str, Any], now: datetime, limits: Limits) -> Accepted:
    event_id = given.pop("event_id", None)
    moment = given.pop("event_time", None)
    if moment is not None:
        moment = utc_time(moment, "event_time")
    event: Event = {
        "event_id": event_id or new_id(),
        "tenant_id": DEFAULT_TENANT,
        "user_id": given.pop("user_id"),
        "event_name": given.pop("event_type"),
        "timestamp": moment or now,
        "received_at": now,
        "metadata": given.pop("properties", None) or {},
        "context": given,
    }
    experiment_id, variant = given.pop("experiment_id", None), given.pop("variant", None)
    if experiment_id is not None:
        event["experiment_id"] = experiment_id
    if variant is not None:
        event["variant"] = variant
    if "event_name" in given:
        raise _ambiguous()
    return finish(
        event,
        kind="product",
        given=moment,
        named=event_id is not None,
        now=now,
        retention_days=limits.retention_days,
        form=Form.PRODUCT,
    )


def _ambiguous() -> InvalidEvent:
    return InvalidEvent(
        "event_name and event_type are both present: exactly one of them tells the event's form",
        reason="ambiguous_form",
    )
