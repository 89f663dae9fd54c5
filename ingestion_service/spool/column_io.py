"""The two streams that a blob is made of, and their compression: Writer and Reader. Pure; the layout is in ``columns``."""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Sequence
from itertools import accumulate, repeat
from operator import add, floordiv, mul, sub

import zstandard

from ingestion_service.spool.damaged import Damaged

Column = Sequence[bytes]

_LEVEL = 9
_APART = 256
"""Bytes from which on a block is compressed apart: a flush and a table of codes cost a few dozen."""


class _Zstd(threading.local):
    """One of each a thread: they may not be used by two at once, and making them costs more than using them."""

    def __init__(self) -> None:
        self.best = zstandard.ZstdCompressor(level=_LEVEL)
        self.fast = zstandard.ZstdCompressor(level=1)
        self.back = zstandard.ZstdDecompressor()


_zstd = _Zstd()


class Writer:
    """A blob in the making: ``meta`` says what the columns are, ``blocks`` hold their bytes in the same order."""

    def __init__(self, nodes: int = 0, plain: bool = False) -> None:
        """``nodes``: columns that come before it; ``plain``: columns are to be written as they are."""
        self.plain = plain
        self.meta = bytearray()
        self.blocks: list[bytes] = []
        self.nodes = nodes
        self.seen: dict[tuple[int, bytes, bytes, bytes], list[tuple[int, Column]]] = {}

    def begin(self, kind: int) -> None:
        self.meta.append(kind)
        self.nodes += 1

    def take(self, other: Writer) -> None:
        """``other`` began where this one stands, and is what comes next."""
        self.meta += other.meta
        self.blocks += other.blocks
        self.nodes = other.nodes

    def number(self, value: int) -> None:
        """A natural number, 7 bits to a byte, the lowest first (LEB128)."""
        while value > 0x7F:
            self.meta.append(value & 0x7F | 0x80)
            value >>= 7
        self.meta.append(value)

    def signed(self, value: int) -> None:
        self.number(value << 1 if value >= 0 else ~value << 1 | 1)

    def text(self, value: bytes) -> None:
        self.number(len(value))
        self.meta += value

    @property
    def cost(self) -> int:
        """About as many bytes as it comes to."""
        return len(self.meta) + sum(min(len(block), len(_zstd.fast.compress(block))) for block in self.blocks)

    def compressed(self) -> bytes:
        head = Writer()
        head.text(bytes(self.meta))
        blocks = [bytes(head.meta), *self.blocks]
        stream = _zstd.best.compressobj(size=sum(map(len, blocks)))
        parts = []
        pending = 0
        for block in blocks:
            if pending and pending + len(block) > _APART:
                parts.append(stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
                pending = 0
            parts.append(stream.compress(block))
            pending += len(block)
        parts.append(stream.flush())
        return b"".join(parts)

    def integers(self, values: Sequence[int]) -> None:
        """Two or more numbers of 64 bits: as what they exceed their least by, or their steps likewise; byte by byte."""
        first = values[0]
        low, high = min(values), max(values)
        best = list(map(sub, values, repeat(low)))
        steps = list(map(sub, values[1:], values))
        least = min(steps)
        risen = list(map(sub, steps, repeat(least)))
        stepwise = max(risen) >> 64 == 0 and sum(map(int.bit_length, risen)) < sum(map(int.bit_length, best))
        if stepwise:
            best, low, high = risen, least, max(steps)
        unit = math.gcd(*best) or 1
        if unit > 1:
            best = list(map(floordiv, best, repeat(unit)))
        width = (((high - low) // unit).bit_length() + 7) // 8
        self.meta.append(width << 1 | stepwise)
        self.signed(low)
        self.number(unit)
        if stepwise:
            self.signed(first)
        words = struct.pack(f"<{len(best)}Q", *best)
        self.blocks += (words[place::8] for place in range(width))


class Reader:
    """Reads what a Writer wrote; raises Damaged where it is not that."""

    def __init__(self, meta: bytes, blocks: bytes, cells: int, size: int) -> None:
        """``cells``: entries that all columns may have, and ``size``: bytes that all joined ones may come to."""
        self.nodes: list[Column] = []
        self.at = 0
        self._cells = cells
        self._size = size
        self._meta = meta
        self._blocks = blocks
        self._block_at = 0

    @classmethod
    def of(cls, frame: bytes, largest: int, cells: int, size: int) -> Reader:
        """Reads what ``Writer.compressed`` gave; ``largest``: bytes that it may come to.

        Raises:
            zstandard.ZstdError: it is no such thing.
        """
        # The frame's own word about its size is what the decompressor makes room for.
        if not 0 <= zstandard.frame_content_size(frame) <= largest:
            raise Damaged("the compressed part claims to be larger than a blob can be")
        raw = _zstd.back.decompress(frame, allow_extra_data=False)
        head = cls(raw[:10], b"", 0, 0)
        end = head.number() + head.at
        return cls(raw[head.at : end], raw[end:], cells, size)

    @property
    def done(self) -> bool:
        return self.at == len(self._meta) and self._block_at == len(self._blocks)

    def peek(self) -> int:
        if self.at >= len(self._meta):
            raise Damaged("the description of the columns ends too early")
        return self._meta[self.at]

    def byte(self) -> int:
        value = self.peek()
        self.at += 1
        return value

    def number(self) -> int:
        value = shift = 0
        while (part := self.byte()) > 0x7F:
            value |= (part & 0x7F) << shift
            shift += 7
            if shift > 70:
                raise Damaged("a number has more than 64 bits")
        return value | part << shift

    def signed(self) -> int:
        value = self.number()
        return ~(value >> 1) if value & 1 else value >> 1

    def text(self) -> bytes:
        end = self.number() + self.at
        if end > len(self._meta):
            raise Damaged("a text reaches past the end")
        value = self._meta[self.at : end]
        self.at = end
        return value

    def block(self, length: int) -> bytes:
        end = self._block_at + length
        if end > len(self._blocks):
            raise Damaged("a block reaches past the end")
        value = self._blocks[self._block_at : end]
        self._block_at = end
        return value

    def integers(self, count: int) -> Sequence[int]:
        flags = self.byte()
        width, stepwise = flags >> 1, flags & 1
        if width > 8 or count < 2:
            raise Damaged("not a column of numbers")
        low, unit = self.signed(), self.number()
        first = self.signed() if stepwise else 0
        length = count - stepwise
        words = bytearray(8 * length)
        for place in range(width):
            words[place::8] = self.block(length)
        values: Sequence[int] = struct.unpack(f"<{length}Q", words)
        if unit != 1:
            values = list(map(mul, values, repeat(unit)))
        if low:
            values = list(map(add, values, repeat(low)))
        return list(accumulate(values, initial=first)) if stepwise else values

    def fill(self, cells: int) -> None:
        """Raises Damaged where the columns get more entries than those of ``pack`` can have."""
        self._cells -= cells
        if self._cells < 0:
            raise Damaged("the columns have more entries than the records can fill")

    def spend(self, size: int) -> None:
        """Raises Damaged where more bytes are to be made than the records can hold: a small blob never fills the memory."""
        self._size -= size
        if self._size < 0:
            raise Damaged("the columns are larger than the records they belong to")
