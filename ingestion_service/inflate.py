"""A compressed body back to its bytes, with a limit that holds while inflating. Pure.

A mebibyte can inflate to gigabytes, so every codec works in pieces and stops at the first byte beyond the limit. One stream
in one encoding is a body: a truncated one, and anything behind its end (a second gzip member or zstd frame, a skippable
frame), is refused, because a reader that stops there would drop a sender's events without a word.

A second encoding on top of the first ("gzip, br") is refused too, as RFC 9110 (8.4) allows: nobody gains by it, and each
layer would cost the event loop another inflation of up to the limit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import IO, Final, cast

import brotli  # type: ignore[import-untyped]  # ships no types
import zstandard

from event_core.errors import MalformedBody, TooLarge
from ingestion_service.errors import UnsupportedEncoding

PIECE: Final = 1 << 20
"""Bytes that one step inflates to at most (brotli: twice as many, as its buffer grows in powers of two)."""
ZSTD_PIECE: Final = 1 << 16
"""zstd allocates a whole piece each time, so small bodies want a small one."""
ZSTD_WINDOW: Final = 8 << 20
"""Largest window of a zstd frame: what RFC 9659 lets HTTP senders use."""

_RAW: Final = -zlib.MAX_WBITS
_GZIP: Final = zlib.MAX_WBITS | 16


def inflate(body: bytes, encoding: bytes | None, max_bytes: int) -> bytes:
    """``body`` as it was before ``encoding``, the value of Content-Encoding (None where it is absent), was applied.

    ``encoding`` is gzip, x-gzip, deflate (zlib's form, or the raw form that many clients send), zstd, br or identity, in any
    case. ``max_bytes`` limits the result; memory beyond the result stays below it plus a piece and the codec's window
    (32 KiB, zstd 8 MiB, br 16 MiB).

    Raises:
        UnsupportedEncoding: another encoding, or more than one.
        MalformedBody: ``bad_compression``: damaged, truncated, or followed by something else.
        TooLarge: ``body_too_large``: more than ``max_bytes``.
    """
    if encoding is None:
        pieces = iter((body,))
    else:
        name = _one_encoding(encoding)
        pieces = _CODECS[name](body) if name else iter((body,))
    inflated: list[bytes] = []
    size = 0
    try:
        for piece in pieces:
            size += len(piece)
            if size > max_bytes:
                raise TooLarge(
                    f"the body is larger than {max_bytes:,} bytes once inflated: send less at once",
                    reason="body_too_large",
                )
            inflated.append(piece)
    except (zlib.error, brotli.error, zstandard.ZstdError) as error:
        raise _bad(f"the body is damaged, or not what Content-Encoding says: {error}") from None
    return inflated[0] if len(inflated) == 1 else b"".join(inflated)


def _one_encoding(value: bytes) -> str:
    """The name of the one codec in a Content-Encoding header; "" where nothing is encoded."""
    names = [name for part in value.decode("latin-1").lower().split(",") if (name := part.strip())]
    names = [name for name in names if name != "identity"]
    if not names:
        return ""
    if len(names) > 1:
        raise UnsupportedEncoding("Content-Encoding: only one encoding is taken; compress the body once")
    if names[0] not in _CODECS:
        raise UnsupportedEncoding(
            f"Content-Encoding: {names[0][:32]!a} is not supported; send gzip, deflate, zstd, br or none"
        )
    return names[0]


def _gzip(body: bytes) -> Iterator[bytes]:
    return _zlib(body, _GZIP)


def _deflate(body: bytes) -> Iterator[bytes]:
    # RFC 1950: the two header bytes are a multiple of 31 and name method 8. A raw stream could only look like that if its
    # first block were a stored one with non-zero padding, which no compressor writes.
    wrapped = len(body) > 1 and body[0] & 0x8F == 0x08 and int.from_bytes(body[:2], "big") % 31 == 0
    return _zlib(body, zlib.MAX_WBITS if wrapped else _RAW)


def _zlib(body: bytes, window: int) -> Iterator[bytes]:
    stream = zlib.decompressobj(window)
    while True:
        piece = stream.decompress(body, PIECE)
        yield piece
        if stream.eof:
            break
        if len(piece) < PIECE:
            raise _truncated()
        body = stream.unconsumed_tail
    if stream.unused_data:
        raise _trailing()


def _brotli(body: bytes) -> Iterator[bytes]:
    # Bytes behind the end are an error of the decoder itself.
    stream = brotli.Decompressor()
    while True:
        piece = stream.process(body, output_buffer_limit=PIECE)
        yield piece
        if stream.is_finished():
            return
        if len(piece) < PIECE:
            raise _truncated()
        body = b""


def _zstd(body: bytes) -> Iterator[bytes]:
    source = _LastByteApart(body)
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    # It asks of a file no more than read().
    yield from decompressor.read_to_iter(cast("IO[bytes]", source), write_size=ZSTD_PIECE)
    if source.ran_dry:
        raise _truncated()
    if source.unread:
        raise _trailing()


class _LastByteApart:
    """Hands out a body in pieces, the last of which is its last byte alone.

    The decoder stops reading at the end of its frame without saying where in a piece that was. A frame that ends with the
    body takes every piece; a shorter one leaves the last byte; a truncated one asks for more.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0
        self.ran_dry = False

    @property
    def unread(self) -> int:
        return len(self._body) - self._at

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, ever: the decoder copies what it gets into a buffer of that size without looking."""
        piece = self._body[self._at : self._at + min(size, max(1, self.unread - 1))]
        self._at += len(piece)
        self.ran_dry = not piece
        return piece


def _truncated() -> MalformedBody:
    return _bad("the compressed body ends too early: send it again as a whole")


def _trailing() -> MalformedBody:
    return _bad(
        "the compressed body goes on behind the end of its first stream: send one gzip member, one zlib or deflate "
        "stream, one zstd frame or one brotli stream"
    )


def _bad(message: str) -> MalformedBody:
    return MalformedBody(message, reason="bad_compression")


_CODECS: Final[dict[str, Callable[[bytes], Iterator[bytes]]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
    "br": _brotli,
}
