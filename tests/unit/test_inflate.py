"""Compressed bodies: every codec's round trip, and what hostile or damaged bodies cost and say."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli  # type: ignore[import-untyped]  # ships no types
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from event_core.errors import InvalidEvent, MalformedBody, TooLarge
from ingestion_service.errors import UnsupportedEncoding
from ingestion_service.inflate import PIECE, ZSTD_PIECE, inflate

MIB = 1 << 20
QUICK_SECONDS = 5.0
"""Some ten to a hundred times what an idle machine needs."""


def raw_deflate(data: bytes, level: int = -1) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


def zstd_stream(window_log: int) -> zstandard.ZstdCompressionObj:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log)
    return zstandard.ZstdCompressor(compression_params=parameters).compressobj()


def zstd_streamed(data: bytes, window_log: int = 21) -> bytes:
    """A frame that does not say how long its content is."""
    stream = zstd_stream(window_log)
    return stream.compress(data) + stream.flush()


def brotli_fast(data: bytes) -> bytes:
    return bytes(brotli.compress(data, quality=4))


FORMS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"x-gzip", gzip.compress),
    "deflate, zlib": (b"deflate", zlib.compress),
    "deflate, zlib level 0": (b"deflate", lambda data: zlib.compress(data, 0)),
    "deflate, raw": (b"deflate", raw_deflate),
    "deflate, raw level 0": (b"deflate", lambda data: raw_deflate(data, 0)),
    "zstd": (b"zstd", zstandard.compress),
    "zstd, streamed": (b"zstd", zstd_streamed),
    "br": (b"br", brotli_fast),
}
forms = pytest.mark.parametrize("form", FORMS)

BODIES = st.binary(max_size=300) | st.builds(
    lambda part, times: part * times, st.binary(max_size=20), st.integers(0, 500)
)


def refusal(body: bytes, encoding: bytes, max_bytes: int = MIB) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        inflate(body, encoding, max_bytes)
    return caught.value


def compressed(form: str, data: bytes) -> tuple[bytes, bytes]:
    encoding, compress = FORMS[form]
    return compress(data), encoding


@forms
@given(data=BODIES)
def test_every_codec_gives_back_what_was_compressed(form: str, data: bytes) -> None:
    assert inflate(*compressed(form, data), max_bytes=len(data)) == data


SIZES = [0, 1, 2]
SIZES += [size + off for size in (ZSTD_PIECE, 128 << 10, PIECE, 2 * PIECE) for off in (-1, 0, 1)]


@forms
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("noisy", [False, True], ids=["zeros", "noise"])
def test_a_limit_is_met_exactly_at_every_size(form: str, size: int, noisy: bool) -> None:
    data = random.Random(size).randbytes(size) if noisy else bytes(size)
    body, encoding = compressed(form, data)
    assert inflate(body, encoding, size) == data
    assert inflate(body, encoding, size + 1) == data
    if size:
        error = refusal(body, encoding, size - 1)
        assert (type(error), error.reason) == (TooLarge, "body_too_large")


@pytest.mark.parametrize("encoding", [None, b"", b" ", b"identity", b"IDENTITY", b" identity ,", b"identity,identity"])
def test_without_an_encoding_the_body_is_taken_as_it_is(encoding: bytes | None) -> None:
    body = b"\x1f\x8b not gzip"
    assert inflate(body, encoding, 100) is body
    assert refusal(body, encoding or b"", len(body) - 1).reason == "body_too_large"


@pytest.mark.parametrize(
    "encoding", [b"gzip", b"GZip", b" gzip\t", b"gzip,", b",gzip", b"identity, gzip", b"gzip,identity"]
)
def test_an_encoding_is_known_in_every_spelling(encoding: bytes) -> None:
    assert inflate(gzip.compress(b"[]"), encoding, 100) == b"[]"


@pytest.mark.parametrize(
    "encoding",
    [
        b"compress",
        b"x-compress",
        b"gzip;q=1",
        b"lz4",
        b"snappy",
        b"*",
        b"none",
        b"zlib",
        b"\xff",
        b"\xe9" * 999,
        b"a" * 10**5,
    ],
    ids=lambda value: repr(value[:12]),
)
def test_another_encoding_is_refused_with_those_that_are_taken(encoding: bytes) -> None:
    error = refusal(b"", encoding)
    assert (type(error), error.reason) == (UnsupportedEncoding, "unsupported_content_encoding")
    assert "gzip, deflate, zstd, br" in error.message
    assert len(error.message) < 300
    assert error.message.isascii()


@pytest.mark.parametrize("encoding", [b"gzip, br", b"gzip,gzip", b"br , identity, zstd", b"x,y", b"gzip," * 999])
def test_one_encoding_on_top_of_another_is_refused(encoding: bytes) -> None:
    error = refusal(gzip.compress(gzip.compress(b"[]")), encoding)
    assert type(error) is UnsupportedEncoding
    assert "only one" in error.message


@forms
@pytest.mark.parametrize("data", [b"", b"a", b'{"user_id":"u"}' * 40], ids=["empty", "one byte", "text"])
def test_a_stream_cut_at_any_byte_is_refused(form: str, data: bytes) -> None:
    body, encoding = compressed(form, data)
    for end in range(len(body)):
        error = refusal(body[:end], encoding)
        assert (type(error), error.reason) == (MalformedBody, "bad_compression")
        assert "too early" in error.message


@forms
@pytest.mark.parametrize("size", [0, 100, PIECE, 2 * PIECE + 1])
def test_whatever_follows_the_stream_is_refused(form: str, size: int) -> None:
    body, encoding = compressed(form, bytes(size))
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    for more in (b"\x00", b"\n", b"[]", skippable, body, bytes(1000)):
        error = refusal(body + more, encoding, 4 * MIB)
        assert (type(error), error.reason) == (MalformedBody, "bad_compression")


def test_what_follows_is_named() -> None:
    for form in ("gzip", "deflate, zlib", "deflate, raw", "zstd", "zstd, streamed"):
        body, encoding = compressed(form, b"[]")
        assert "one gzip member" in refusal(body + body, encoding).message


@pytest.mark.parametrize("magic", range(0x50, 0x60))
@pytest.mark.parametrize("length", [0, 4, 100, 2**32 - 1])
def test_a_skippable_frame_of_zstd_ends_at_once(magic: int, length: int) -> None:
    skippable = bytes([magic]) + b"\x2a\x4d\x18" + length.to_bytes(4, "little") + bytes(min(length, 1000))
    began = time.perf_counter()
    for body in (skippable + zstandard.compress(b"[]"), skippable * 3):
        assert refusal(body, b"zstd").reason == "bad_compression"
    assert time.perf_counter() - began < QUICK_SECONDS


def test_a_zstd_window_beyond_8_mib_is_refused_where_it_would_cost_memory() -> None:
    data = bytes(100)
    assert inflate(zstd_streamed(data, window_log=23), b"zstd", MIB) == data
    assert refusal(zstd_streamed(data, window_log=24), b"zstd").reason == "bad_compression"


def test_a_large_window_of_brotli_is_refused() -> None:
    # RFC 7932 (9.1): a first byte of 0x11 is reserved; decoders of the large-window extension read 10–30 bits from it.
    assert refusal(b"\x11\x1e" + brotli_fast(b"[]")[1:], b"br").reason == "bad_compression"


def test_a_zstd_frame_that_needs_a_dictionary_is_refused() -> None:
    dictionary = zstandard.ZstdCompressionDict(b'{"user_id":"","event_name":"page_view"}' * 50)
    body = zstandard.ZstdCompressor(dict_data=dictionary).compress(b'{"user_id":"u","event_name":"page_view"}' * 9)
    assert refusal(body, b"zstd").reason == "bad_compression"


def test_a_deflate_stream_that_needs_a_dictionary_is_refused() -> None:
    stream = zlib.compressobj(zdict=b"user_id")
    assert refusal(stream.compress(b"user_id") + stream.flush(), b"deflate").reason == "bad_compression"


def test_a_damaged_checksum_is_noticed() -> None:
    checked = zstandard.ZstdCompressor(write_checksum=True).compress(b"[1,2,3]")
    for body, encoding in (
        (gzip.compress(b"[1,2,3]"), b"gzip"),
        (zlib.compress(b"[1,2,3]"), b"deflate"),
        (checked, b"zstd"),
    ):
        for place in (-1, -4):
            changed = bytearray(body)
            changed[place] ^= 1
            assert refusal(bytes(changed), encoding).reason == "bad_compression"


@forms
@settings(max_examples=300)
@given(data=st.binary(max_size=200), edits=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4))
def test_a_damaged_stream_is_its_data_or_a_refusal(form: str, data: bytes, edits: list[tuple[int, int]]) -> None:
    body, encoding = compressed(form, data)
    changed = bytearray(body)
    for place, value in edits:
        changed[place % len(body)] = value
    assert_decided(bytes(changed), encoding)


@settings(max_examples=500)
@given(st.binary(max_size=200), st.sampled_from([*(form[0] for form in FORMS.values())]) | st.binary(max_size=20))
def test_any_bytes_in_any_encoding_are_a_body_or_a_refusal(body: bytes, encoding: bytes) -> None:
    assert_decided(body, encoding)
    for magic in (b"\x1f\x8b\x08\x00" + bytes(6), b"\x78\x9c", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\x00\x58"):
        assert_decided(magic + body, encoding)


REFUSALS = {
    (MalformedBody, "bad_compression"),
    (TooLarge, "body_too_large"),
    (UnsupportedEncoding, "unsupported_content_encoding"),
}


def assert_decided(body: bytes, encoding: bytes, max_bytes: int = 1000) -> None:
    began = time.perf_counter()
    refused: InvalidEvent | None = None
    try:
        assert len(inflate(body, encoding, max_bytes)) <= max_bytes
    except InvalidEvent as error:
        refused = error
    assert refused is None or (type(refused), refused.reason) in REFUSALS
    assert time.perf_counter() - began < QUICK_SECONDS


def hostile_deflate() -> bytes:
    """10 MiB of dynamic blocks of 90 bits that hold nothing: a table is built for each."""
    bits: list[int] = [0, 0, 1, *[0] * 10, 0, 1, 1, 1]  # not the last, dynamic, 257 + 1 lengths, 18 code lengths
    for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1):
        bits += [1 if symbol in (18, 1) else 0, 0, 0]
    bits += [1, *[1] * 7, 1, 1, 1, 0, 1, 0, 1, 1]  # 138 and 118 zeros: no literal has a code
    bits += [0, 0, 0]  # one for the end of a block, one distance; the end of this block
    eight = sum(bit << place for place, bit in enumerate(bits * 8)).to_bytes(len(bits), "little")
    return eight * (10 * MIB // len(eight)) + b"\x03\x00"


HOSTILE: dict[str, tuple[bytes, Callable[[], bytes]]] = {
    "deflate: empty dynamic blocks": (b"deflate", hostile_deflate),
    "deflate: empty stored blocks": (b"deflate", lambda: b"\x00\x00\x00\xff\xff" * (2 * MIB) + b"\x03\x00"),
    "zstd: empty raw blocks": (b"zstd", lambda: b"\x28\xb5\x2f\xfd\x00\x58" + bytes(3_400_000 * 3) + b"\x01\x00\x00"),
    "br: a block per byte": (b"br", lambda: brotli_blocks(30_000)),
}


def brotli_blocks(count: int) -> bytes:
    stream = brotli.Compressor(quality=4)
    blocks = [stream.process(bytes([number % 251])) + stream.flush() for number in range(count)]
    return b"".join(blocks) + bytes(stream.finish())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_body_of_blocks_that_hold_next_to_nothing_is_read_quickly(name: str) -> None:
    encoding, make = HOSTILE[name]
    body = make()
    began = time.perf_counter()
    assert len(inflate(body, encoding, 10 * MIB)) <= 30_000
    assert time.perf_counter() - began < QUICK_SECONDS


BOMB = """
import sys
from ingestion_service.inflate import inflate
from event_core.errors import TooLarge

def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024

MIB = 1 << 20
encoding, bomb = sys.argv[1].encode(), open(sys.argv[2], "rb").read()
inflate({small!r}, encoding, MIB)
before = peak()
try:
    inflate(bomb, encoding, 10 * MIB)
    sys.exit("taken")
except TooLarge:
    print(peak() - before)
"""


def gibibyte_of_zeros(form: str) -> bytes:
    """1 GiB of zeros in 5 MB (zstd, br: far less), with the largest window that the codec may use."""
    make: dict[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.compressobj(1, zlib.DEFLATED, 31),
        "deflate, zlib": lambda: zlib.compressobj(1, zlib.DEFLATED, 15),
        "deflate, raw": lambda: zlib.compressobj(1, zlib.DEFLATED, -15),
        "zstd": lambda: zstd_stream(window_log=23),
        "br": lambda: brotli.Compressor(quality=1, lgwin=24),
    }
    stream = make[form]()
    compress, end = (stream.process, stream.finish) if form == "br" else (stream.compress, stream.flush)
    chunk = bytes(16 * MIB)
    return b"".join(compress(chunk) for _ in range(64)) + bytes(end())


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the resident memory from /proc")
@pytest.mark.parametrize("form", ["gzip", "deflate, zlib", "deflate, raw", "zstd", "br"])
def test_a_gibibyte_of_zeros_costs_no_more_than_the_limit_and_a_window(form: str, tmp_path: Path) -> None:
    small, encoding = compressed(form, b"[]")
    bomb = gibibyte_of_zeros(form)
    file = tmp_path / "bomb"
    file.write_bytes(bomb)
    program = textwrap.dedent(BOMB).format(small=small)
    done = subprocess.run(
        [sys.executable, "-c", program, encoding.decode(), str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 10 + 25
