"""What can be wrong with a question about dead letters.

PlatformError
├── NoSuchLetter     no letter has that id
├── CannotReplay     what was asked cannot be done with these letters
├── BadSelection     the filters contradict each other, or none was given
└── Unavailable
    └── DoorUnavailable  the ingestion service does not answer, or what answers is not it
"""

from __future__ import annotations

from typing import ClassVar, Final

from event_core.errors import PlatformError, Unavailable


class NoSuchLetter(PlatformError):
    code: ClassVar[str] = "no_such_letter"


class CannotReplay(PlatformError):
    code: ClassVar[str] = "cannot_replay"


class BadSelection(PlatformError):
    code: ClassVar[str] = "bad_selection"


class DoorUnavailable(Unavailable):
    code: ClassVar[str] = "ingestion_unavailable"


STATUSES: Final[dict[type[PlatformError], int]] = {
    NoSuchLetter: 404,
    CannotReplay: 409,
    BadSelection: 422,
}
