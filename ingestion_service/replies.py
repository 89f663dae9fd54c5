"""What clients are told of their batches. Pure."""

from __future__ import annotations

from typing import Any

from event_core.errors import InvalidEvent, PlatformError, Unavailable
from ingestion_service.errors import Conflict
from ingestion_service.fates import Fate, Fates
from ingestion_service.forms import field_of

SPOOLED = "Kafka is away: the events are durable on the collector's disk and reach Kafka when it is back"
SPOOLED_REPLY = b'{"status":"%s","event_id":"%s","warnings":["' + SPOOLED.encode() + b'"]}'


def batch_status(fates: Fates) -> int:
    """200: all accepted; 207: some; 422: none. Raises the Unavailable that kept all from being stored, where a retry helps."""
    if fates.accepted == fates.total:
        return 200
    if fates.accepted:
        return 207
    for fate in fates.odd:
        if isinstance(fate.error, Unavailable):
            raise fate.error.with_traceback(None)
    return 422


def batch_reply(batch_id: str, fates: Fates, milliseconds: float) -> dict[str, Any]:
    """The documented CollectReply."""
    results = [_result(fate) for fate in fates.odd]
    if fates.plain:
        results += [
            {"index": index, "event_id": event_id, "code": "accepted"} for index, event_id in fates.plain.items()
        ]
        results.sort(key=lambda result: result["index"])
    return {
        "batch_id": batch_id,
        "accepted_count": fates.accepted,
        "rejected_count": fates.total - fates.accepted,
        "processing_time_ms": round(milliseconds, 1),
        "kafka_partition": fates.partition,
        "dlq_events": fates.kept.dead_letters,
        "warnings": _warnings(fates),
        "results": results,
    }


def _warnings(fates: Fates) -> list[str]:
    warnings = []
    if fates.spooled:
        warnings.append(SPOOLED)
    if fates.kept.quarantined:
        warnings.append(
            f"{fates.kept.quarantined} events were refused too often: they went to quarantine, not to the DLQ"
        )
    if fates.kept.known:
        warnings.append(
            f"{fates.kept.known} events were refused too often: they were kept before, and are only counted now"
        )
    if fates.kept.lost:
        warnings.append(f"{fates.kept.lost} rejected events could not be kept as dead letters")
    return warnings


def _result(fate: Fate) -> dict[str, Any]:
    error = fate.error
    if error is None:
        return {"index": fate.index, "event_id": fate.event_id, "code": "duplicate"}
    return {
        "index": fate.index,
        "event_id": fate.event_id,
        "code": "retry" if isinstance(error, Unavailable) else "rejected",
        "field": _field(error),
        "reason": error.reason if isinstance(error, InvalidEvent) else error.code,
        "message": error.message,
        "retryable": error.retriable,
    }


def _field(error: PlatformError) -> str | None:
    if isinstance(error, Conflict):
        return "event_id"
    return field_of(error) if isinstance(error, InvalidEvent) else None
