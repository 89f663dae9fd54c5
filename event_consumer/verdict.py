"""What a database error means for the batch: wait, set the guilty event aside, or stop. Pure; SQLSTATE decides.

Classes: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    WAIT = "wait"  # an outage or a conflict: the same batch again, for as long as it takes
    SLOW = "slow"  # cancelled: the same batch again, a few times; then some row of it may be at fault
    DATA = "data"  # some row of the batch is at fault: find it, set it aside
    STOP = "stop"  # our own fault (schema, rights): end loudly, commit nothing


_WAIT_CLASSES = ("08", "25006", "40", "53", "55", "57", "58", "XX", "3D")
_DATA_CLASSES = ("22", "54", "23", "44", "P0")
_STOP_CLASSES = ("0A", "21", "28", "3F", "42")
_CANCELLED = "57014"
_MISSING_PARTITION = "23514"

CLASSES = ("none", "other", *sorted({code[:2] for code in (*_WAIT_CLASSES, *_DATA_CLASSES, *_STOP_CLASSES)}))
"""Every value of ``sqlstate_class``."""


def judge(sqlstate: str | None, *, constraint: str | None = None) -> Verdict:
    """The verdict on an error with ``sqlstate``; None means that the connection failed before the server could say.

    23514 without a constraint's name is PostgreSQL's way to say that no partition takes the row: our fault, not the row's.
    What is unknown is waited out: waiting loses nothing, and the log and the metric show it.
    """
    if sqlstate is None:
        return Verdict.WAIT
    if sqlstate == _CANCELLED:
        return Verdict.SLOW
    if sqlstate == _MISSING_PARTITION and not constraint:
        return Verdict.STOP
    if sqlstate.startswith(_DATA_CLASSES):
        return Verdict.DATA
    if sqlstate.startswith(_STOP_CLASSES):
        return Verdict.STOP
    return Verdict.WAIT


def sqlstate_class(sqlstate: str | None) -> str:
    """The first two characters, as a label of a closed set: ``none`` without a SQLSTATE, ``other`` where none of ours."""
    if sqlstate is None:
        return "none"
    return sqlstate[:2] if sqlstate[:2] in CLASSES else "other"
