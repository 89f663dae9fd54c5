"""The ingestion service's own counters, read cheaply: it answers on the event loop whose latency is being measured."""

from __future__ import annotations

import re
from typing import NamedTuple

import httpx

_SAMPLE = re.compile(r"^(ingestion_\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)


class Counters(NamedTuple):
    """Events, but for ``buffer_bytes``; since the process started, but for ``waiting`` and ``spooling``."""

    accepted: float
    """Acknowledged as new, in Kafka or on disk."""
    in_kafka: float
    duplicates: float
    spooled: float
    """Made durable on disk."""
    drained: float
    """On disk, and acknowledged by Kafka since."""
    commits: float
    """Group commits on disk."""
    waiting: float
    """On disk now."""
    buffer_bytes: float
    spooling: bool
    connected: bool


def counters(url: str) -> Counters:
    """As of now. ``spooling`` and the three after ``waiting`` may be a second old.

    Raises:
        httpx.HTTPError: no answer.
    """
    reply = httpx.get(f"{url}/metrics", timeout=30)
    reply.raise_for_status()
    found: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(reply.text):
        found[name] = found.get(name, 0.0) + float(value)
        found[name + labels] = float(value)
    return Counters(
        accepted=found.get("ingestion_events_accepted_total", 0.0),
        in_kafka=found.get('ingestion_events_accepted_total{stored="kafka"}', 0.0),
        duplicates=found.get("ingestion_events_duplicate_total", 0.0),
        spooled=found.get("ingestion_spool_records_total", 0.0),
        drained=found.get("ingestion_spool_drained_total", 0.0),
        commits=found.get("ingestion_spool_commit_seconds_count", 0.0),
        waiting=found.get("ingestion_spool_waiting_records", 0.0),
        buffer_bytes=found.get("ingestion_spool_bytes", 0.0),
        spooling=bool(found.get("ingestion_spooling", 0.0)),
        connected=bool(found.get("ingestion_kafka_connected", 0.0)),
    )
