"""CloudEvents 1.0 on POST /events: structured, binary and batched, as canonical events. Pure.

The same CloudEvent becomes the same event, with the same content, whichever mode carried it:

- event_id: ``id`` where it is a UUID (36 characters), else the UUIDv5 in ID_NAMESPACE of ``<characters of source>:<source><id>``,
  so that a repetition is known as one (source and id together are unique)
- event_name: ``type``; source: ``source``; timestamp: ``time``, else the time of arrival; tenant_id: extension ``tenantid``
- user_id: the first there is of the extensions ``userid`` and ``partitionkey``, of ``subject``, and of ``user_id`` within a JSON
  object as data
- metadata: data where it is a JSON object, ``{"data": …}`` where it is another JSON value or text, else ``{"data_base64": …}``
- context: ``{"cloudevents": …}``, every other attribute, and ``id`` where it is no UUID

Specification: cloudevents/spec v1.0.2, spec.md, formats/json-format.md, bindings/http-protocol-binding.md.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Final
from urllib.parse import unquote_to_bytes
from uuid import NAMESPACE_DNS, UUID, uuid5

import orjson
from pydantic import TypeAdapter, ValidationError

from event_core.errors import InvalidEvent, MalformedBody, TooLarge, Unstorable
from event_core.event import DEFAULT_TENANT, MAX_NAME, Event
from event_core.jsonguard import check_shape
from ingestion_service.collect import Batch
from ingestion_service.elements import NotJson, find_elements
from ingestion_service.errors import UnsupportedEncoding
from ingestion_service.forms import (
    Accepted,
    Refused,
    deeper_than,
    finish,
    is_json,
    malformed,
    new_id,
    refusal,
    sent_id,
    utc_time,
    wrong_field,
)
from ingestion_service.limits import Limits

ID_NAMESPACE: Final = uuid5(NAMESPACE_DNS, "cloudevents.io")
"""3b3bdb45-2edc-5aa7-893b-b2604f33ab20"""

_JSON_TYPE: Final = "application/json"
_SPEC_VERSION: Final = "1.0"
_TEXTS: Final = ("id", "source", "type", "specversion", "time", "subject", "dataschema", "datacontenttype")
"""Attributes of the specification, all of them texts."""
_USERS: Final = ("userid", "partitionkey", "subject")
_TAKEN: Final = frozenset(("id", "source", "type", "time", "userid", "tenantid"))
"""Attributes that have a field of their own in the event."""

_validate_object = TypeAdapter[Any](dict[str, Any]).validate_json
_validate_any = TypeAdapter[Any](Any).validate_json
_validate_time = TypeAdapter(datetime).validate_python
_is_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE).fullmatch
_is_name = re.compile(r"[a-z0-9]+").fullmatch
_is_time = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII).fullmatch
_is_text_type = re.compile(r"text/.*|.*[/+]xml|application/x-www-form-urlencoded", re.DOTALL).fullmatch
_quoted_pair = re.compile(rb"\\(.)", re.DOTALL)


class Mode(Enum):
    """How a request carries CloudEvents."""

    STRUCTURED = "structured"
    BINARY = "binary"
    BATCHED = "batched"


def mode_of(headers: Mapping[bytes, bytes]) -> Mode | None:
    """The mode of a request with these headers (names in lower case); None where it carries no CloudEvents.

    Raises:
        UnsupportedEncoding: ``unsupported_media_type``: CloudEvents in another format than JSON.
    """
    content_type = headers.get(b"content-type", b"")
    # Two look-ups are all that a request in another form pays.
    if content_type != b"application/json" and b"cloudevents" in (lowered := content_type.lower()):
        media_type = lowered.partition(b";")[0].strip()
        if media_type == b"application/cloudevents+json":
            return Mode.STRUCTURED
        if media_type == b"application/cloudevents-batch+json":
            return Mode.BATCHED
        if media_type.startswith(b"application/cloudevents"):
            raise UnsupportedEncoding(
                "Content-Type: CloudEvents are taken as application/cloudevents+json, application/cloudevents-batch+json or "
                "in binary mode",
                reason="unsupported_media_type",
            )
    return Mode.BINARY if b"ce-specversion" in headers else None


def structured(raw: bytes, now: datetime, limits: Limits) -> Accepted:
    """The event that ``raw`` (one CloudEvent in the JSON event format) describes, received at ``now`` (aware UTC).

    Raises:
        MalformedBody: empty, or not JSON.
        TooLarge: nested too deep or too wide.
        InvalidEvent: no CloudEvent 1.0, or nothing in it says whose event it is.
    """
    check_shape(raw, max_depth=limits.depth, max_separators=limits.separators)
    try:
        fields = _validate_object(raw)
    except ValidationError as error:
        raise refusal(error) if is_json(error) else malformed(raw, error) from None
    return _structured(fields, now, limits)


def binary(headers: Sequence[tuple[bytes, bytes]], raw: bytes, now: datetime, limits: Limits) -> Accepted:
    """The event whose attributes are in ``headers`` (names in lower case) and whose data is ``raw``, received at ``now``.

    Raises:
        MalformedBody: Content-Type says JSON, or there is none, and ``raw`` is not JSON.
        TooLarge, InvalidEvent: as for ``structured``.
    """
    attributes: dict[str, Any] = {}
    for name, value in headers:
        if name == b"content-type":
            attributes["datacontenttype"] = _decoded("datacontenttype", value.strip()) or None
        elif name.startswith(b"ce-"):
            attribute = name[3:].decode("latin-1")
            if attribute in ("data", "datacontenttype"):
                raise InvalidEvent(
                    "in binary mode the data is the body, and Content-Type says what it is: no header ce-data or "
                    "ce-datacontenttype",
                    reason="bad_attribute",
                )
            if attribute in attributes:
                raise InvalidEvent("an attribute comes twice among the headers", reason="duplicate_attribute")
            attributes[attribute] = _decoded(attribute, _unquoted(value))
    if not raw:
        return _event(attributes, {}, now, limits)
    content_type = attributes["datacontenttype"] = attributes.get("datacontenttype") or _JSON_TYPE
    metadata = _json_data(_parsed(raw, limits)) if _says_json(content_type) else _opaque_data(raw, content_type)
    return _event(attributes, metadata, now, limits)


def batched(raw: bytes, now: datetime, limits: Limits) -> Batch:
    """The events of ``raw`` (a JSON array of CloudEvents), received at ``now``; one bad event never fails its batch.

    Raises:
        MalformedBody: no JSON, no array, or an empty one.
        TooLarge: more events than ``limits.events``, or too wide to be parsed safely.
    """
    check_shape(raw, max_depth=len(raw), max_separators=limits.separators)  # depth is each event's own affair
    try:
        elements = find_elements(raw, limits.events)
    except NotJson:
        raise _no_array(raw) from None
    if elements.beside is not None:
        raise _no_array(raw)
    if len(elements.spans) > limits.events:
        raise TooLarge(
            f"the batch holds more than {limits.events:,} events: send them in several", reason="batch_too_large"
        )
    if not elements.spans:
        raise MalformedBody("the batch holds no events: send at least one", reason="empty_batch")
    items = [_item(index, raw[span], now, limits) for index, span in enumerate(elements.spans)]
    return Batch(str(new_id()), items)


def cloudevent_id(fields: object) -> str | None:
    """The ``id`` among a refused CloudEvent's fields as it was sent, where it can be repeated in a reply."""
    return sent_id({"event_id": fields.get("id")}) if isinstance(fields, dict) else None


# --- Modes ------------------------------------------------------------------------------------------------------------


def _item(index: int, raw: bytes, now: datetime, limits: Limits) -> Accepted | Refused:
    """Raises MalformedBody where the event is not JSON: then the body is none."""
    fields: object = None
    try:
        check_shape(raw, max_depth=limits.depth, max_separators=limits.separators)
        fields = _validate_any(raw)
        if not isinstance(fields, dict):
            raise InvalidEvent("the event must be one JSON object", reason="not_an_object")
        return _structured(fields, now, limits)
    except InvalidEvent as error:
        return Refused(index, cloudevent_id(fields), raw, error)
    except ValidationError as error:
        wrong = malformed(raw, error)
        try:
            # By the bare grammar, lone surrogates and numbers of any length are JSON: one event's fault, not the body's.
            lenient = json.loads(raw.decode(), parse_int=str, parse_float=str)
        except ValueError:
            raise MalformedBody(f"event {index}: {wrong.message}", reason=wrong.reason) from None
        problem = wrong.message.rpartition(": ")[2]
        return Refused(
            index, cloudevent_id(lenient), raw, Unstorable(f"a value cannot be stored without change: {problem}")
        )


def _structured(fields: dict[str, Any], now: datetime, limits: Limits) -> Accepted:
    metadata: dict[str, Any] = {}
    content_type = fields.get("datacontenttype")
    encoded = fields.pop("data_base64", None)
    if "data" in fields:
        data = fields.pop("data")
        if encoded is not None and data is not None:
            raise InvalidEvent("data and data_base64 are both present: send one of them", reason="ambiguous_data")
        if encoded is None:
            metadata = _json_data(data)
            if content_type is None:
                fields["datacontenttype"] = _JSON_TYPE
    if encoded is not None:
        metadata = _decoded_data(encoded, content_type, limits)
    return _event(fields, metadata, now, limits)


def _no_array(raw: bytes) -> MalformedBody:
    try:
        _validate_any(raw)
    except ValidationError as error:
        return malformed(raw, error)
    return MalformedBody("the body is no array of CloudEvents", reason="not_a_batch")


# --- Data -------------------------------------------------------------------------------------------------------------


def _says_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))


def _parsed(raw: bytes, limits: Limits) -> Any:
    check_shape(raw, max_depth=limits.depth, max_separators=limits.separators)
    try:
        return _validate_any(raw)
    except ValidationError as error:
        raise malformed(raw, error) from None


def _json_data(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"data": value}


def _opaque_data(data: bytes, content_type: str) -> dict[str, Any]:
    if _is_text_type(content_type.partition(";")[0].strip().lower()) and b"\x00" not in data:
        try:
            return {"data": data.decode()}
        except UnicodeDecodeError:
            pass
    return {"data_base64": binascii.b2a_base64(data, newline=False).decode()}


def _decoded_data(encoded: object, content_type: object, limits: Limits) -> dict[str, Any]:
    """As the same bytes in binary mode; but only a hint that they are JSON, so what is none stays as it is."""
    if not isinstance(encoded, str):
        raise wrong_field("data_base64", "must be a string", reason="wrong_type")
    try:
        data = binascii.a2b_base64(encoded.encode(), strict_mode=True)
    except binascii.Error:
        raise wrong_field("data_base64", "is not Base64 (RFC 4648, with padding)", reason="bad_base64") from None
    if isinstance(content_type, str):
        if not _says_json(content_type):
            return _opaque_data(data, content_type)
        try:
            return _json_data(_parsed(data, limits))
        except InvalidEvent:
            pass
    return {"data_base64": encoded}


# --- Header values ----------------------------------------------------------------------------------------------------


def _unquoted(value: bytes) -> bytes:
    """RFC 7230, 3.2.6; then one round of percent-decoding, as the HTTP binding (3.1.3.2) says."""
    value = value.strip()
    if len(value) > 1 and value[:1] == b'"' == value[-1:]:
        value = _quoted_pair.sub(rb"\1", value[1:-1])
    return unquote_to_bytes(value) if b"%" in value else value


def _decoded(attribute: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidEvent(
            f"header of {attribute[:32]!a}: not UTF-8; percent-encode what is not printable ASCII", reason="bad_header"
        ) from None


# --- The event --------------------------------------------------------------------------------------------------------


def _event(attributes: dict[str, Any], metadata: dict[str, Any], now: datetime, limits: Limits) -> Accepted:
    attributes = {name: value for name, value in attributes.items() if value is not None}
    _check(attributes)
    if deeper_than(metadata.values(), limits.depth - 2):
        raise TooLarge(f"the event is nested deeper than {limits.depth} levels", reason="too_deep")
    original_id, source = attributes["id"], _name("source", attributes["source"])
    by_uuid = _is_uuid(original_id) is not None
    moment = _time(attributes["time"]) if "time" in attributes else None
    kept = {name: value for name, value in attributes.items() if name not in _TAKEN}
    if not by_uuid:
        kept["id"] = original_id
    event: Event = {
        "event_id": UUID(original_id) if by_uuid else uuid5(ID_NAMESPACE, f"{len(source)}:{source}{original_id}"),
        "tenant_id": _name("tenantid", attributes["tenantid"]) if "tenantid" in attributes else DEFAULT_TENANT,
        "user_id": _user(attributes, metadata),
        "event_name": _name("type", attributes["type"]),
        "timestamp": moment or now,
        "received_at": now,
        "metadata": metadata,
        "context": {"cloudevents": {name: _text(value) for name, value in kept.items()}},
        "source": source,
    }
    # In binary mode every value is a text, so the content is that of the texts; what is kept is what was sent.
    accepted = finish(event, kind="cloudevent", given=moment, named=True, now=now, retention_days=limits.retention_days)
    event["context"]["cloudevents"] = kept
    return accepted


def _check(attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        if not _is_name(name):
            raise InvalidEvent(
                f"attribute {name[:32]!a}: a name holds only lower-case letters a–z and digits",
                reason="bad_attribute_name",
            )
        if not isinstance(value, str | int | float):
            raise wrong_field(name, "must be a string, a number or a boolean", reason="wrong_type")
    for name in _TEXTS:
        value = attributes.get(name)
        if value is None:
            if name in ("id", "source", "type", "specversion"):
                raise wrong_field(name, "every CloudEvent has it", reason="missing_field")
        elif not isinstance(value, str):
            raise wrong_field(name, "must be a string", reason="wrong_type")
        elif not value:
            raise wrong_field(name, "must not be empty", reason="bad_length")
    if attributes["specversion"] != _SPEC_VERSION:
        raise wrong_field("specversion", f"only {_SPEC_VERSION} is taken", reason="unsupported_specversion")


def _user(attributes: dict[str, Any], metadata: dict[str, Any]) -> str:
    for name in _USERS:
        if name in attributes:
            return _name(name, attributes[name])
    user_id = metadata.get("user_id")
    if isinstance(user_id, str):
        return _name("data.user_id", user_id)
    raise wrong_field(
        "userid",
        "nothing says whose event it is: send the extension userid or partitionkey, subject, or user_id within the data",
        reason="missing_field",
    )


def _name(field: str, value: Any) -> str:
    if isinstance(value, bool | float):
        raise wrong_field(field, "must be a string", reason="wrong_type")
    text = _text(value)
    if not 0 < len(text) <= MAX_NAME:
        raise wrong_field(field, f"must have 1 to {MAX_NAME} characters", reason="bad_length")
    return text


def _text(value: Any) -> str:
    """A value's canonical text, which is what a header says."""
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else orjson.dumps(value).decode()


def _time(text: str) -> datetime:
    try:
        if not _is_time(text):
            raise ValueError
        moment = _validate_time(text)
    except ValueError:
        raise wrong_field("time", "must be an RFC 3339 time", reason="bad_timestamp") from None
    return utc_time(moment, "time")
