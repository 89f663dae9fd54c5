"""How one column of byte strings becomes bytes: ids, times, numbers and text. Pure; the layout is in ``columns``.

Every ``try_*`` takes two or more entries and returns whether it wrote them. It does only after it made the texts again from
what it would write and found them equal: what merely looks like an id or a time is written as text.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import accumulate, pairwise

from ingestion_service.spool.column_io import Column, Reader, Writer
from ingestion_service.spool.damaged import Damaged

SAME, AGAIN, CHOICE, JOINED, SHAPES, UUIDS, TIMES, NUMBERS, QUOTED, COUNTED = range(10)
"""The kinds of columns; each is written by its number."""

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - the zone is in the texts
_SECOND = timedelta(seconds=1)
_WORD = 1 << 63
_UUID_BYTES = (0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34)
"""Where the two hexadecimal digits of each byte stand in a UUID's text."""
_VERSION_7 = 0x70
_TIME_7 = 6
"""A UUIDv7 begins with 6 bytes of milliseconds."""
_MAX_DIGITS = 20


def try_uuids(out: Writer, column: Column) -> bool:
    """Lower-case UUIDs of 36 characters, as 16 columns of one byte each; the time of UUIDv7 as numbers."""
    if len(column[0]) != 36 or set(map(len, column)) != {36}:
        return False
    joined = b"".join(column)
    digits = joined.translate(None, b"-")
    try:
        raw = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return False
    columns = [raw[place::16] for place in range(16)]
    if len(raw) != 16 * len(column) or _uuid_text(columns) != joined:
        return False
    timed = all(map(_VERSION_7.__eq__, columns[6].translate(_HIGH_NIBBLE)))
    out.begin(UUIDS)
    out.meta.append(timed)
    if timed:
        out.integers(_times_7(columns))
    out.blocks += columns[_TIME_7:] if timed else columns
    return True


def read_uuids(reader: Reader, count: int) -> Column:
    columns: list[bytes] = []
    if reader.byte():
        times = struct.pack(f">{count}Q", *reader.integers(count))
        columns = [times[place::8] for place in range(2, 8)]
    columns += (reader.block(count) for _ in range(16 - len(columns)))
    return _cut(_uuid_text(columns), 36)


_HIGH_NIBBLE = bytes(byte & 0xF0 for byte in range(256))


def _times_7(columns: list[bytes]) -> tuple[int, ...]:
    words = bytearray(8 * len(columns[0]))
    for place in range(_TIME_7):
        words[place + 2 :: 8] = columns[place]
    return struct.unpack(f">{len(columns[0])}Q", words)


def _uuid_text(columns: list[bytes]) -> bytes:
    text = bytearray(b"-") * (36 * len(columns[0]))
    for place, column in zip(_UUID_BYTES, columns, strict=True):
        digits = column.hex().encode()
        text[place::36] = digits[::2]
        text[place + 1 :: 36] = digits[1::2]
    return bytes(text)


def _cut(text: bytes, width: int) -> list[bytes]:
    return [text[at : at + width] for at in range(0, len(text), width)]


def try_times(out: Writer, column: Column) -> bool:
    """UTC times as RFC 3339 with Z: all with equally many decimals, or without any where they are zero (as orjson writes)."""
    lengths = set(map(len, column))
    longest = max(lengths)
    decimals = longest - 21 if longest > 20 else 0
    if column[0][-1:] != b"Z" or not 20 <= longest <= 30 or longest == 21 or lengths - {20, longest}:
        return False
    unit = 10**decimals
    omits = len(lengths) > 1
    heads = [text[:19] for text in column]
    try:
        seconds = {head: (datetime.fromisoformat(head.decode()) - _EPOCH) // _SECOND * unit for head in set(heads)}
        if decimals:
            values = [seconds[head] + int(text[20:-1] or 0) for head, text in zip(heads, column, strict=True)]
        else:
            values = [seconds[head] for head in heads]
        if min(values) <= -_WORD or max(values) >= _WORD or _time_texts(values, decimals, omits) != list(column):
            return False
    except (
        ValueError,
        TypeError,
        OverflowError,
    ):  # also a zone among the first 19 characters, or a sign before the decimals
        return False
    out.begin(TIMES)
    out.meta.append(decimals << 1 | omits)
    out.integers(values)
    return True


def read_times(reader: Reader, count: int) -> Column:
    flags = reader.byte()
    if flags >> 1 > 9:
        raise Damaged("a time has more than nine decimals")
    return _time_texts(reader.integers(count), flags >> 1, bool(flags & 1))


def _time_texts(values: Sequence[int], decimals: int, omits: bool) -> list[bytes]:
    unit = 10**decimals
    parts = [divmod(value, unit) for value in values]
    heads = {second: (_EPOCH + second * _SECOND).isoformat().encode() for second in {part[0] for part in parts}}
    if not decimals:
        return [heads[second] + b"Z" for second, _ in parts]
    form = b"%%b.%%0%ddZ" % decimals
    if omits:
        return [form % (heads[second], rest) if rest else heads[second] + b"Z" for second, rest in parts]
    return [form % (heads[second], rest) for second, rest in parts]


def try_numbers(out: Writer, column: Column) -> bool:
    """Decimal integers of 63 bits, all as short as can be, or all filled with zeros to one width."""
    if max(map(len, column)) > _MAX_DIGITS:
        return False
    try:
        values = list(map(int, column))
    except ValueError:
        return False
    digits = len(column[0]) if any(text[:1] == b"0" and len(text) > 1 for text in column) else 0
    if min(values) <= -_WORD or max(values) >= _WORD or _number_texts(values, digits) != list(column):
        return False
    out.begin(NUMBERS)
    out.meta.append(digits)
    out.integers(values)
    return True


def read_numbers(reader: Reader, count: int) -> Column:
    digits = reader.byte()
    if digits > _MAX_DIGITS:
        raise Damaged("a number has more than 20 digits")
    return _number_texts(reader.integers(count), digits)


def _number_texts(values: Sequence[int], digits: int) -> list[bytes]:
    if digits:
        return list(map((b"%%0%dd" % digits).__mod__, values))
    return list(map(b"%d".__mod__, values))


def write_texts(out: Writer, column: Column) -> None:
    """Anything: one after the other, between quotes where none holds a quote, else after their lengths."""
    joined = b'"'.join(column)
    if joined.count(b'"') == len(column) - 1:
        out.begin(QUOTED)
        out.number(len(joined))
        out.blocks.append(joined)
    else:
        out.begin(COUNTED)
        out.integers(list(map(len, column)))
        out.blocks.append(b"".join(column))


def read_quoted(reader: Reader, count: int) -> Column:
    column = reader.block(reader.number()).split(b'"')
    if len(column) != count:
        raise Damaged("a column has another number of texts than its records")
    return column


def read_counted(reader: Reader, count: int) -> Column:
    lengths = reader.integers(count)
    if min(lengths) < 0:
        raise Damaged("a text has a negative length")
    text = reader.block(sum(lengths))
    ends = list(accumulate(lengths, initial=0))
    return [text[start:end] for start, end in pairwise(ends)]
