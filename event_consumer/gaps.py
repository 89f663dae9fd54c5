"""Whether a log can be read on from where reading stopped. Pure.

A stored offset means something only within the log it was read from: a topic that was deleted and made anew, or a cluster that
was replaced, counts from 0 again and soon regrows past it; and retention may have deleted what was not read yet.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from hashlib import blake2b
from typing import NamedTuple

from event_core.source import Log, Message


class Position(NamedTuple):
    """What is stored of a partition (consumer_offsets)."""

    next_offset: int
    slot: int = 0
    cluster_id: str | None = None
    last_mark: str | None = None
    """``mark`` of the record before ``next_offset``; None where nothing was read yet, or the operator said to go on."""
    last_record_at: datetime | None = None


class GapKind(Enum):
    CLUSTER = "cluster"
    BEYOND_END = "beyond_end"
    EXPIRED = "expired"
    RECREATED = "recreated"


class Gap(NamedTuple):
    """Why a partition is not read on."""

    kind: GapKind
    explanation: str


def check(position: Position, log: Log, cluster_id: str) -> Gap | None:
    """What is wrong with reading on from ``position``, as far as the log's bounds tell."""
    offset = position.next_offset
    if position.cluster_id is not None and position.cluster_id != cluster_id:
        return Gap(GapKind.CLUSTER, f"read from cluster {position.cluster_id} before, this is cluster {cluster_id}")
    if offset > log.end:
        return Gap(GapKind.BEYOND_END, f"the next offset is {offset}, but the log ends at {log.end}: was it made anew?")
    if offset < log.begin:
        return Gap(
            GapKind.EXPIRED,
            f"the next offset is {offset}, but the log begins at {log.begin}: {log.begin - offset} records were deleted unread",
        )
    return None


def can_verify(position: Position, log: Log) -> bool:
    """Whether the record before ``position`` is still there to be compared with its mark."""
    return position.last_mark is not None and log.begin < position.next_offset <= log.end


def mark(message: Message) -> str:
    """A digest by which ``message`` is known again: of its time and its bytes."""
    digest = blake2b(digest_size=12)
    digest.update(b"%d\n%d\n" % (message.offset, message.timestamp))
    for part in (message.key, message.value):
        digest.update(b"-" if part is None else b"%d\n" % len(part) + part)
    return digest.hexdigest()


def not_the_same(position: Position) -> Gap:
    """The gap where the record before ``position`` is another than the one that was read."""
    return Gap(
        GapKind.RECREATED,
        f"the record before offset {position.next_offset} is not the one that was read: the topic was made anew",
    )
