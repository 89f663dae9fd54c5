"""HTTP answers as the generators read them: they must have a Content-Length, which every answer of these services has."""

from __future__ import annotations

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"


def is_whole(answer: bytes) -> bool:
    """Whether ``answer``, what a connection has brought since its request, is all of it."""
    head = answer.find(_END_OF_HEAD)
    if head < 0:
        return False
    start = answer.lower().find(_LENGTH, 0, head + 2) + len(_LENGTH)
    length = int(answer[start : answer.index(b"\r\n", start)])
    return len(answer) >= head + len(_END_OF_HEAD) + length
