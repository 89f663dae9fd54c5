"""What a MongoDB error means for the batch: wait, set the guilty sale aside, or stop. Pure; the error's code decides.

Codes: https://www.mongodb.com/docs/manual/reference/error-codes/
"""

from __future__ import annotations

from typing import Final

from event_consumer.verdict import Verdict

DUPLICATE: Final = frozenset({11000, 11001, 12582})
"""A document of this ``_id`` or ``event_id`` is there: no fault yet, its content decides."""

_DATA: Final = frozenset(
    {
        2,  # BadValue
        9,  # FailedToParse
        14,  # TypeMismatch
        15,  # Overflow
        16,  # InvalidLength
        22,  # InvalidBSON
        52,  # DollarPrefixedFieldName
        121,  # DocumentValidationFailure: somebody gave the collection a validator
        10334,  # BSONObjectTooLarge
        17280,  # KeyTooLong
    }
)
_STOP: Final = frozenset(
    {
        11,  # UserNotFound
        13,  # Unauthorized
        18,  # AuthenticationFailed
        20,  # IllegalOperation
        59,  # CommandNotFound
        67,  # CannotCreateIndex
        72,  # InvalidOptions
        73,  # InvalidNamespace
        79,  # UnknownReplWriteConcern
        85,  # IndexOptionsConflict
        86,  # IndexKeySpecsConflict
        115,  # CommandNotSupported
        166,  # CommandNotSupportedOnView
    }
)


def judge(code: int | None) -> Verdict:
    """The verdict on an error with ``code``; None means that the connection failed before the server could say.

    What is unknown is waited out, as are failovers, shutdowns, full disks and write concerns that are not met: waiting loses
    nothing, and the log and the metric show it.
    """
    if code in _DATA:
        return Verdict.DATA
    if code in _STOP:
        return Verdict.STOP
    return Verdict.WAIT
