"""A learner event of a batch as a canonical event, and what the events of a batch have in common. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from event_core.clock import rfc3339
from event_core.errors import InvalidEvent, MalformedBody, TooLarge, Unstorable
from event_core.event import DEFAULT_TENANT, Event
from event_core.jsonguard import encode as encode_json
from ingestion_service.forms import Accepted, deeper_than, finish, new_id, utc_time, wrong_field
from ingestion_service.limits import Limits
from ingestion_service.skew import corrected, correction

MAX_NOTE_BYTES = 8 << 10
"""What a batch says beside its events is kept with each of them, so a thousand times."""


@dataclass(slots=True)
class Setting:
    """What the events of a batch have in common."""

    now: datetime
    depth: int
    retention_days: int | None = None
    batch_id: str = field(default_factory=lambda: str(new_id()))
    shift: timedelta | None = None
    """What to add to their times."""
    notes: dict[str, Any] | None = None
    """What the platform notes in the context of each; shared by them all."""
    corrected: int = 0
    """How many had their time corrected so far."""


def learner_event(given: dict[str, Any], setting: Setting) -> Accepted:
    """The canonical event of a validated one; what is left of ``given`` becomes its context.

    Raises:
        InvalidEvent: a time that cannot be stored or is too long ago, too deep, or the platform's own name is taken.
    """
    metadata = given.pop("event_data", None) or {}
    event_id = given.pop("event_id", None)
    moment = given.pop("timestamp", None)
    notes = setting.notes
    if moment is None:
        timestamp = setting.now
    else:
        timestamp = moment = utc_time(moment, "timestamp")
        if setting.shift is not None:
            timestamp = _shifted(moment, setting.shift)
            notes = {**(notes or {}), "original_timestamp": rfc3339(moment)}
    event: Event = {
        "event_id": event_id or new_id(),
        "tenant_id": given.pop("tenant_id", None) or DEFAULT_TENANT,
        "user_id": given.pop("learner_id"),
        "event_name": given.pop("event_type"),
        "timestamp": timestamp,
        "received_at": setting.now,
        "metadata": metadata,
        "context": given,
    }
    source = given.pop("source_service", None)
    if source is not None:
        event["source"] = source
    if "metadata" in given and not given["metadata"]:
        del given["metadata"]
    if "priority" in given and given["priority"] is None:
        del given["priority"]
    if deeper_than(metadata.values(), setting.depth - 2) or deeper_than(given.values(), setting.depth - 1):
        raise TooLarge(f"the event is nested deeper than {setting.depth} levels", reason="too_deep")
    accepted = finish(
        event,
        kind="learner",
        given=moment,
        named=event_id is not None,
        now=setting.now,
        retention_days=setting.retention_days,
        notes=notes,
    )
    if moment is not timestamp and moment is not None:
        setting.corrected += 1
    return accepted


def _shifted(moment: datetime, shift: timedelta) -> datetime:
    try:
        return corrected(moment, shift)
    except ValueError as error:
        raise wrong_field("timestamp", str(error), reason="bad_timestamp") from None


def setting_of(given: dict[str, Any], now: datetime, limits: Limits) -> Setting:
    """From a validated batch without its events.

    Raises:
        MalformedBody: a time or value that cannot be stored.
        TooLarge: too deep, or more than MAX_NOTE_BYTES.
    """
    setting = Setting(now, limits.depth, limits.retention_days)
    if not given:
        return setting
    if deeper_than(given.values(), limits.depth - 1):
        raise TooLarge(f"the batch's metadata is nested deeper than {limits.depth} levels", reason="too_deep")
    sent_at = given.pop("sent_at", None)
    if sent_at is not None:
        try:
            setting.shift = correction(utc_time(sent_at, "sent_at"), now)
        except InvalidEvent as error:
            raise MalformedBody(error.message, reason=error.reason, details=error.details) from None
    # What is left goes with every event: the batch's id, its metadata, and fields that the form does not know.
    note = {name: value for name, value in given.items() if value is not None}
    if "batch_id" in note:
        setting.batch_id = note["batch_id"]
    if not note.get("metadata", True):
        del note["metadata"]
    if note:
        _check_note(note)
        setting.notes = {"batch": note}
    return setting


def _check_note(note: dict[str, Any]) -> None:
    try:
        size = len(encode_json(note))
    except Unstorable as error:
        raise MalformedBody(f"beside the events: {error.message}", reason=error.reason) from None
    if size > MAX_NOTE_BYTES:
        raise too_much_beside()


def too_much_beside() -> TooLarge:
    return TooLarge(
        f"the batch says more than {MAX_NOTE_BYTES:,} bytes beside its events, all kept with each event: send less metadata",
        reason="batch_metadata_too_large",
    )
