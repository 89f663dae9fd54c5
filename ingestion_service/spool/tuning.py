"""Sizes at which the spool does things; tests take smaller ones. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Tuning(NamedTuple):
    """A journal is sealed when the first of three is reached; the others are compaction's."""

    seal_log_bytes: int = 4 << 20
    """Its log repeats pages at each commit: with small commits this comes first (and an eighth of the limit at most)."""
    seal_raw_bytes: int = 4 << 20
    """Before compression: what a reader has in memory at once."""
    seal_records: int = 24_000
    blob_records: int = 1000
    """Records of a blob: twice as many take 0.4 bytes less an event, and make a step of compaction twice as long."""
    enough_records: int = 20_000
    """So many in journals are worth a segment; so are ``enough_bytes``, or ``fan_in`` journals, however small."""
    enough_bytes: int = 8 << 20
    fan_in: int = 8
    """So many small segments of one level become one of the next; at least 2."""
    merged_records: int = 60_000
    """No merge makes a larger segment."""
    sparse: int = 4
    """A segment is written anew when only one record in ``sparse`` is wanted, if it has ``worth_bytes``."""
    worth_bytes: int = 256 << 10
    buffered_bytes: int = 6 << 20
    """Records on their way into blobs that may be in memory at once."""
    step_seconds: float = 0.01
    """A step of compaction ends with the first piece of work behind this."""


DEFAULT = Tuning()
