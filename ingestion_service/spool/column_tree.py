"""What a column of byte strings is: one text, an earlier column, a choice of few texts, parts, shapes, or a kind. Pure.

The layout is in ``columns``. A column is a sequence of one or more byte strings. Whatever is chosen here is right, because each
form holds any texts it is chosen for; the choice only decides about the size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import eq
from typing import TypeVar

from ingestion_service.spool import column_kinds as kinds
from ingestion_service.spool.column_io import Column, Reader, Writer
from ingestion_service.spool.column_kinds import (
    AGAIN,
    CHOICE,
    COUNTED,
    JOINED,
    NUMBERS,
    QUOTED,
    SAME,
    SHAPES,
    TIMES,
    UUIDS,
)
from ingestion_service.spool.damaged import Damaged

T = TypeVar("T")

_PIECES = 255
"""Quotes at which a value is cut; what comes after the last of them stays whole."""
_SHAPES = 64
_MIN_SHAPE = 4
"""Most shapes, and fewest entries of one, that are worth columns of their own."""
MAX_HEADERS = 256
COLUMNS = 10 * (_PIECES + 1)
"""More columns than a record takes part in: twice the pieces of its value and its headers, each with two inside."""
DEPTH = 16
"""More levels than there are of columns in columns."""
JOINTS = 6
"""More times than a byte of a record is joined to others."""
_LONGEST_END = 64
"""Bytes at the end of texts in which a common end is looked for."""


def write_column(out: Writer, column: Column) -> None:
    """Any column."""
    if _is_same(column):
        _write_same(out, column[0])
        return
    if out.plain:
        kinds.write_texts(out, column)
        return
    count = len(column)
    some = column[0], column[count // 2], column[-1]
    mark = count, *some
    for node, earlier in out.seen.get(mark, ()):
        if all(map(eq, earlier, column)):
            out.meta.append(AGAIN)
            out.number(node)
            return
    out.seen.setdefault(mark, []).append((out.nodes, column))
    if not any(b'"' in text for text in some):
        _write_leaf(out, column)
        return
    distinct = set(column)
    if 4 * len(distinct) <= count:
        _write_choice(out, column, distinct, _write_parts)
    else:
        _write_parts(out, column)


def _write_same(out: Writer, text: bytes) -> None:
    out.meta.append(SAME)
    out.text(text)


def _write_parts(out: Writer, column: Column) -> None:
    """Cut at quotes. The first pieces are columns as long as all entries are alike outside of the texts; the rest has shapes."""
    rows = [text.split(b'"', _PIECES) for text in column]
    columns: list[Column] = list(zip(*rows, strict=False))
    if len(set(map(len, rows))) == 1:
        _write_joined(out, columns)
        return
    # The rest begins no later than with the last piece of the shortest entry, so that it is a piece or more in every entry.
    last = len(columns) - 1
    alike = next((place for place in range(0, last, 2) if not _is_same(columns[place])), last)
    if alike:
        _write_joined(out, [*columns[:alike], [b'"'.join(row[alike:]) for row in rows]], rest=True)
    else:
        _write_shapes(out, column, list(map(len, rows)))


def _is_same(column: Column) -> bool:
    return column.count(column[0]) == len(column)


def _write_joined(out: Writer, columns: Sequence[Column], rest: bool = False) -> None:
    """Columns with a quote between each two; the last may hold quotes, which are cut again only where it is a ``rest``."""
    parts: list[bytes | Column] = []
    literal = b""
    for place, column in enumerate(columns):
        if place:
            literal += b'"'
        if _is_same(column):
            literal += column[0]
        else:
            parts += (literal, column) if literal else (column,)
            literal = b""
    if literal:
        parts.append(literal)
    out.begin(JOINED)
    out.number(len(parts))
    for part in parts:
        if isinstance(part, bytes):
            _write_same(out, part)
        elif part is columns[-1] and not rest:
            _write_leaf(out, part)
        else:
            write_column(out, part)


def _write_shapes(out: Writer, column: Column, pieces: list[int]) -> None:
    """A column for each number of pieces that enough entries have, and one for all other entries."""
    enough = [shape for shape, times in Counter(pieces).most_common(_SHAPES) if times >= _MIN_SHAPE]
    numbers = {shape: number for number, shape in enumerate(enough)}
    order = [numbers.get(shape, len(enough)) for shape in pieces]
    if not enough:
        kinds.write_texts(out, column)
        return
    entries: list[list[bytes]] = [[] for _ in range(max(order) + 1)]
    for number, text in zip(order, column, strict=True):
        entries[number].append(text)
    out.begin(SHAPES)
    out.number(len(entries))
    out.integers(order)
    for number, shape in enumerate(entries):
        if number < len(enough) or _is_same(shape):
            write_column(out, shape)
        else:
            kinds.write_texts(out, shape)


def _write_choice(out: Writer, column: Column, distinct: set[bytes], write: Callable[[Writer, Column], None]) -> None:
    texts = sorted(distinct)
    numbers = {text: number for number, text in enumerate(texts)}
    out.begin(CHOICE)
    out.number(len(texts))
    write(out, texts)
    out.integers(list(map(numbers.__getitem__, column)))


def _write_leaf(out: Writer, column: Column) -> None:
    """A column of single texts: each as it is, or as one of a few."""
    distinct = set(column)
    if 2 * len(distinct) > len(column):
        _write_texts(out, column)
        return
    best = Writer(out.nodes)
    _write_choice(best, column, distinct, _write_texts)
    if 8 * len(distinct) > len(column):
        plain = Writer(out.nodes)
        _write_texts(plain, column)
        best = min(plain, best, key=lambda writer: writer.cost)
    out.take(best)


def _write_texts(out: Writer, column: Column) -> None:
    """Texts of which few are the same: ids, times, or what stands between a common start and end."""
    if kinds.try_uuids(out, column) or kinds.try_times(out, column):
        return
    # Digits stay: what is left of a number or an id without them is none.
    start = _common_start(min(column), max(column)).rstrip(b"0123456789")
    ends = [text[: -_LONGEST_END - 1 : -1] for text in column]
    end = _common_start(min(ends), max(ends))[::-1].lstrip(b"0123456789")
    end = end[max(0, len(start) + len(end) - min(map(len, column))) :]
    if start or end:
        out.begin(JOINED)
        out.number(bool(start) + 1 + bool(end))
        column = [text[len(start) : len(text) - len(end)] for text in column]
    if start:
        _write_same(out, start)
    if not (kinds.try_uuids(out, column) or kinds.try_numbers(out, column)):
        kinds.write_texts(out, column)
    if end:
        _write_same(out, end)


def _common_start(one: bytes, other: bytes) -> bytes:
    shorter = min(len(one), len(other))
    return one[: next((place for place in range(shorter) if one[place] != other[place]), shorter)]


def read_column(reader: Reader, count: int, depth: int = 0) -> Column:
    reader.fill(count)
    same = read_same(reader)
    if same is not None:
        return [same] * count
    kind = reader.byte()
    if kind == AGAIN:
        column = reader.nodes[reader.number()]
    elif depth > DEPTH:
        raise Damaged("columns are nested too deep")
    else:
        node = len(reader.nodes)
        reader.nodes.append([])
        column = _READERS[kind](reader, count, depth + 1)
        reader.nodes[node] = column
    if len(column) != count:
        raise Damaged("a column has another number of entries than there are")
    return column


def read_same(reader: Reader) -> bytes | None:
    """The text that is every entry of the next column, which is then read; None where they are not all the same."""
    if reader.peek() != SAME:
        return None
    reader.byte()
    return reader.text()


def _read_joined(reader: Reader, count: int, depth: int) -> Column:
    parts: list[Iterable[bytes]] = []
    for _ in range(reader.number()):
        same = read_same(reader)
        if same is None:
            column = read_column(reader, count, depth)
            reader.spend(sum(map(len, column)))
            parts.append(column)
        else:
            reader.spend(count * len(same))
            parts.append(repeat(same, count))
    return list(map(b"".join, zip(*parts, strict=True)))


def _read_choice(reader: Reader, count: int, depth: int) -> Column:
    distinct = reader.number()
    if not 0 < distinct <= count:
        raise Damaged("more texts to choose from than there are entries")
    texts = read_column(reader, distinct, depth)
    numbers = reader.integers(count)
    if min(numbers) < 0:
        raise Damaged("a negative choice")
    return list(map(texts.__getitem__, numbers))


def _read_shapes(reader: Reader, count: int, depth: int) -> Column:
    shapes = reader.number()
    order = reader.integers(count)
    return merge([read_column(reader, length, depth) for length in sizes_of(order, shapes)], order)


def _read_leaf(read: Callable[[Reader, int], Column]) -> Callable[[Reader, int, int], Column]:
    return lambda reader, count, _: read(reader, count)


_READERS: dict[int, Callable[[Reader, int, int], Column]] = {
    CHOICE: _read_choice,
    JOINED: _read_joined,
    SHAPES: _read_shapes,
    UUIDS: _read_leaf(kinds.read_uuids),
    TIMES: _read_leaf(kinds.read_times),
    NUMBERS: _read_leaf(kinds.read_numbers),
    QUOTED: _read_leaf(kinds.read_quoted),
    COUNTED: _read_leaf(kinds.read_counted),
}


def sizes_of(order: Sequence[int], groups: int) -> list[int]:
    """How many entries each group has; every one has some."""
    found = Counter(order)
    sizes = [found[group] for group in range(groups)] if 0 < groups <= len(order) else []
    if sum(sizes) != len(order) or not all(sizes):
        raise Damaged("an entry belongs to no group, or a group has no entry")
    return sizes


def merge(groups: Sequence[Sequence[T]], order: Sequence[int]) -> list[T]:
    """Entry i is the next one of group ``order[i]``."""
    if len(groups) == 1:
        return list(groups[0])
    sources = list(map(iter, groups))
    return list(map(next, map(sources.__getitem__, order)))
