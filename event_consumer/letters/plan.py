"""Where a letter's replay goes, or why there is none. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

from event_consumer.dead_letter import NOT_A_DEAD_LETTER
from event_consumer.letters.errors import CannotReplay
from event_consumer.letters.forms import door_request
from event_consumer.letters.mend import Mend, identified, keep_identity, mended, parsed
from event_consumer.letters.outgoing import DoorRequest, Outgoing
from event_core.codec import Headers, Record
from event_core.dead_letters import (
    HEADER_DEAD_LETTER_ID,
    HEADER_RETRY_COUNT,
    STAGE_REFUSED,
    as_uuid,
    without_letter_headers,
)
from event_core.topics import HEADER_EVENT_ID

MAX_REPLAYS: Final = 5
"""So often a letter is replayed without being forced: what failed as often fails again."""


class Letter(NamedTuple):
    """What of a row decides its replay."""

    dead_letter_id: UUID
    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    reason: str
    stage: str
    event_id: UUID | None
    stub: bool
    retry_count: int


@dataclass(frozen=True)
class ReplayOptions:
    """How to replay. ``topics`` are those that a message may go to."""

    topics: Sequence[str]
    mend: Mend = field(default_factory=Mend)
    to_topic: str | None = None
    force: bool = False
    dry_run: bool = False
    limit: int | None = None
    deadline: datetime | None = None
    note: str | None = None


class ToTopic(NamedTuple):
    letter: Letter
    outgoing: Outgoing


class ToDoor(NamedTuple):
    letter: Letter
    request: DoorRequest
    value: bytes


def was_record(partition: int | None, stage: str) -> bool:
    """Whether the bytes were a record of a topic, or were to be one: the platform's own form, not a client's."""
    return partition is not None or stage != STAGE_REFUSED


def plan(letter: Letter, options: ReplayOptions) -> ToTopic | ToDoor:
    """What to send for ``letter``.

    Raises:
        CannotReplay: nothing can be sent; the message says what would help.
    """
    if letter.stub:
        raise CannotReplay(
            "the original was too large to be kept, only its beginning is there: send the event anew, and discard"
        )
    if letter.retry_count >= MAX_REPLAYS and not options.force:
        raise CannotReplay(
            f"replayed {letter.retry_count} times already: mend it, or force it (--force; over HTTP force: true)"
        )
    value = mended(letter.value, options.mend) if options.mend else letter.value
    if value is None:
        raise CannotReplay("the message has no value: give it one, or discard it")
    if options.mend:
        if not isinstance(parsed(value, numbers=False), dict):
            raise CannotReplay("the mended value is no JSON object")
        keep_identity(value, letter.event_id, may_change=letter.reason == "conflict")
    if was_record(letter.partition, letter.stage):
        return ToTopic(letter, _outgoing(letter, value, options))
    if options.to_topic is not None:
        raise CannotReplay(
            "its bytes are a client's, not a message's: it goes through the door, so leave the topic out"
        )
    if options.mend and letter.event_id is not None:
        fields = parsed(value, numbers=False)
        if fields.get("event_id") is None and "specversion" not in fields and not letter.headers:
            value = identified(value, letter.event_id)
    return ToDoor(letter, door_request(value, letter.headers, letter.dead_letter_id), value)


def _outgoing(letter: Letter, value: bytes, options: ReplayOptions) -> Outgoing:
    topic = options.to_topic or letter.topic
    if options.to_topic is None and letter.reason == NOT_A_DEAD_LETTER:
        raise CannotReplay("nothing says which topic it was meant for: name one (--to-topic; over HTTP to_topic)")
    if topic not in options.topics:
        raise CannotReplay(
            f"no event of topic {topic} is stored by this consumer: name one of {', '.join(options.topics)} (--to-topic)"
        )
    key = letter.key
    headers = without_letter_headers(letter.headers)
    if options.mend:
        fields: Mapping[str, Any] = parsed(value, numbers=False)
        event_id = as_uuid(fields.get("event_id"))
        if fields.get("event_id") is None:
            event_id = letter.event_id or letter.dead_letter_id
            value = identified(value, event_id)
        if event_id is not None:
            said = str(event_id).encode()
            headers = [(name, said if name == HEADER_EVENT_ID else content) for name, content in headers]
        if isinstance(user_id := fields.get("user_id"), str):
            key = user_id.encode(errors="replace")  # it decides the partition, hence the order
    headers += [
        (HEADER_RETRY_COUNT, b"%d" % (letter.retry_count + 1)),
        # The very last: the consumer looks nowhere else.
        (HEADER_DEAD_LETTER_ID, str(letter.dead_letter_id).encode()),
    ]
    # Kafka, and aiokafka, take a missing key and a header without a value.
    return Outgoing(topic, Record(cast(bytes, key), value, cast(Headers, headers)), letter.partition)
