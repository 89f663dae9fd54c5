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


STATUSES: Final[dict[type[PlatformError], int]] = {
    MalformedBody: 400,
    BodyTimeout: 408,
    TooLarge: 413,
    UnsupportedEncoding: 415,
    InvalidEvent: 422,
    Unavailable: 503,
}
