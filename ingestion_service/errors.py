"""The one table of errors to HTTP statuses."""

from __future__ import annotations

from typing import Final

from event_core.errors import (
    InvalidEvent,
    MalformedBody,
    PlatformError,
    TooLarge,
    Unavailable,
)


class UnsupportedEncoding(InvalidEvent):
    code = "unsupported_content_encoding"


class BodyTimeout(InvalidEvent):
    """The rest of the body did not come in time; sending it again may work."""

    code = "body_timeout"
    retriable = True


class Conflict(InvalidEvent):
    """The event_id was acknowledged before, with other content."""

    code = "conflict"


class BufferFull(Unavailable):
    """The disk buffer has reached MAX_BUFFER_SIZE_MB, or the disk is full."""

    code = "buffer_full"


class BufferBroken(Unavailable):
    """The disk did not take the events; nothing was acknowledged."""

    code = "buffer_broken"


STATUSES: Final[dict[type[PlatformError], int]] = {
    MalformedBody: 400,
    BodyTimeout: 408,
    TooLarge: 413,
    UnsupportedEncoding: 415,
    Conflict: 409,
    InvalidEvent: 422,
    Unavailable: 503,
}
