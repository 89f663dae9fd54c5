"""What a database error means for the batch: wait, set the guilty event aside, or stop. Pure; SQLSTATE decides.

Classes: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    WAIT = "wait"  # an outage or a conflict: the same batch again, for as long as it takes
    DATA = "data"  # some row of the batch is at fault: find it, set it aside
    STOP = "stop"  # our own fault (schema, rights): end loudly, commit nothing


_DATA_CLASSES = ("22", "54", "23")
_STOP_CLASSES = ("28", "42", "3F")
_MISSING_PARTITION = "23514"


def judge(sqlstate: str | None, *, constraint: str | None = None) -> Verdict:
    """The verdict on an error with ``sqlstate``; None means that the connection failed before the server could say.

    23514 without a constraint's name is PostgreSQL's way to say that no partition takes the row: our fault, not the row's.
    What is unknown is waited out: waiting loses nothing, and the log and the metric show it.
    """
    if sqlstate is None:
        return Verdict.WAIT
    if sqlstate == _MISSING_PARTITION and not constraint:
        return Verdict.STOP
    if sqlstate.startswith(_DATA_CLASSES):
        return Verdict.DATA
    if sqlstate.startswith(_STOP_CLASSES):
        return Verdict.STOP
    return Verdict.WAIT
