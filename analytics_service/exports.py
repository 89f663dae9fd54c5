"""Rows as a file that is sent while it is made: CSV, JSON lines, Parquet.

Memory holds one batch of rows (and Parquet's row group), however many there are. What goes wrong midway is raised, so that the
connection breaks: a cut file must not look like a whole one.

Values are given as they are stored. So a text that begins with ``=``, ``+``, ``-`` or ``@`` stays what it is in a CSV, though a
spreadsheet may take it for a formula: import such a column as text.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple, Protocol

import orjson

from analytics_service.errors import FormatUnavailable
from analytics_service.questions.base import Row
from event_core.clock import rfc3339

FileFormat = Literal["csv", "jsonl", "parquet"]


class Media(NamedTuple):
    """What a format is called."""

    type: str
    suffix: str


MEDIA: Final[dict[FileFormat, Media]] = {
    "csv": Media("text/csv; charset=utf-8; header=present", "csv"),
    "jsonl": Media("application/jsonl", "jsonl"),
    "parquet": Media("application/vnd.apache.parquet", "parquet"),
}

GROUP_ROWS = 65_536
GROUP_BYTES = 16 << 20
"""A Parquet row group ends with the batch that brings it to either."""


class Column(NamedTuple):
    """A column of the rows. ``type`` is PostgreSQL's name of it: text, timestamptz, int8, jsonb …"""

    name: str
    type: str


class _Attribute(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> Any: ...


def columns_of(attributes: Iterable[_Attribute], names: Sequence[str]) -> list[Column]:
    """The columns ``names`` of an asyncpg statement's ``get_attributes()``, in this order."""
    types = {attribute.name: str(attribute.type.name) for attribute in attributes}
    return [Column(name, types[name]) for name in names]


def disposition(kind: str, format: FileFormat) -> str:
    """The value of Content-Disposition. ``kind`` is a question's: plain ASCII."""
    return f'attachment; filename="{kind}.{MEDIA[format].suffix}"'


class _Encoder(Protocol):
    """Rows to bytes; called from one thread at a time."""

    def begin(self) -> bytes: ...
    def batch(self, rows: Sequence[Row]) -> bytes: ...
    def end(self) -> bytes: ...


async def export(
    batches: AsyncIterator[Sequence[Row]],
    columns: Sequence[Column],
    format: FileFormat,
) -> AsyncGenerator[bytes]:
    """The file, some bytes at a time. JSON columns are taken as text, as asyncpg gives them, or as objects.

    The first bytes come after the first rows: what fails before can still be answered with an error. Close it (``aclosing``)
    where it is left early: then ``batches`` is closed, and with it the query.

    Raises:
        FormatUnavailable: pyarrow is not installed.
    """
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(batches, AsyncGenerator):
            await stack.enter_async_context(contextlib.aclosing(batches))
        # In a thread: thousands of rows must not keep other requests waiting. The first import of pyarrow takes long, too.
        encoder = await asyncio.to_thread(_ENCODERS[format], columns)
        waiting = encoder.begin()
        async for rows in batches:
            waiting += await asyncio.to_thread(encoder.batch, rows)
            if waiting:
                yield waiting
                waiting = b""
        if rest := waiting + await asyncio.to_thread(encoder.end):
            yield rest


# --- CSV: RFC 4180. Nothing between commas is null, "" is an empty text, as in PostgreSQL's COPY.

_QUOTED = re.compile(r'[",\r\n]|^\s|\s$|^$')


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def _csv_text(value: Any) -> str:
    return _quoted(value if isinstance(value, str) else _plain(value))


def _csv_json(value: Any) -> str:
    return _quoted(value if isinstance(value, str) else orjson.dumps(value).decode())


class _Csv:
    def __init__(self, columns: Sequence[Column]) -> None:
        self._names = [column.name for column in columns]
        self._fields: list[Callable[[Any], str]] = [_csv_field(column.type) for column in columns]
        # A line that is empty is no row for most readers.
        self._null = '""' if len(columns) == 1 else ""

    def begin(self) -> bytes:
        return (",".join(map(_quoted, self._names)) + "\r\n").encode()

    def batch(self, rows: Sequence[Row]) -> bytes:
        null = self._null
        fields = list(zip(self._names, self._fields, strict=True))
        lines = (
            ",".join(null if (value := row[name]) is None else field(value) for name, field in fields) for row in rows
        )
        return "".join(line + "\r\n" for line in lines).encode()

    def end(self) -> bytes:
        return b""


def _csv_field(kind: str) -> Callable[[Any], str]:
    if kind in _JSON:
        return _csv_json
    return rfc3339 if kind == "timestamptz" else _csv_text


# --- JSON lines


class _JsonLines:
    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = [(column.name, _json_value(column.type)) for column in columns]

    def begin(self) -> bytes:
        return b""

    def batch(self, rows: Sequence[Row]) -> bytes:
        option = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
        columns = self._columns
        return b"".join(
            orjson.dumps(
                {name: None if row[name] is None else value(row[name]) for name, value in columns}, option=option
            )
            for row in rows
        )

    def end(self) -> bytes:
        return b""


def _json_value(kind: str) -> Callable[[Any], Any]:
    if kind in _JSON:
        return lambda value: orjson.Fragment(value) if isinstance(value, str) else value
    if kind in _NUMBERS:
        return _number
    return rfc3339 if kind == "timestamptz" else _json_plain


def _json_plain(value: Any) -> Any:
    return value if isinstance(value, str | bool | int | list) else _plain(value)


def _number(value: Any) -> Any:
    """Digit for digit; JSON has no NaN and no infinity."""
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f")) if value.is_finite() else None
    return value


# --- Parquet


class _Drain:
    """A file that gives away what was written to it."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._written += len(part)
        return len(part)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


class _Parquet:
    def __init__(self, columns: Sequence[Column]) -> None:
        try:
            import pyarrow  # large, and not everybody has it
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise FormatUnavailable(
                "format=parquet needs pyarrow: install event-platform[parquet], or ask for csv or jsonl"
            ) from error
        self._pa = pyarrow
        types, self._values = zip(*(_parquet_type(pyarrow, column.type) for column in columns), strict=True)
        self._names = [column.name for column in columns]
        self._schema = pyarrow.schema(list(zip(self._names, types, strict=True)))
        self._drain = _Drain()
        self._writer = parquet.ParquetWriter(
            pyarrow.PythonFile(self._drain, mode="w"), self._schema, compression="zstd", write_page_index=False
        )
        self._group: list[Any] = []

    def begin(self) -> bytes:
        return self._drain.taken()

    def batch(self, rows: Sequence[Row]) -> bytes:
        arrays = [
            self._pa.array([None if row[name] is None else value(row[name]) for row in rows], type=field.type)
            for name, value, field in zip(self._names, self._values, self._schema, strict=True)
        ]
        self._group.append(self._pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        if (
            sum(part.num_rows for part in self._group) >= GROUP_ROWS
            or sum(part.nbytes for part in self._group) >= GROUP_BYTES
        ):
            self._write_group()
        return self._drain.taken()

    def end(self) -> bytes:
        if self._group:
            self._write_group()
        self._writer.close()
        return self._drain.taken()

    def _write_group(self) -> None:
        table = self._pa.Table.from_batches(self._group, schema=self._schema)
        self._group = []
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))


def _parquet_type(pa: Any, kind: str) -> tuple[Any, Callable[[Any], Any]]:
    """Arrow's type of a column, and how a value becomes one of it."""
    if kind == "timestamptz":
        return pa.timestamp("us", tz="UTC"), _same
    if kind in ("int2", "int4", "int8"):
        return pa.int64(), _same
    if kind in _NUMBERS:
        return pa.float64(), float
    if kind == "bool":
        return pa.bool_(), _same
    if kind == "date":
        return pa.date32(), _same
    if kind in _JSON:
        return pa.string(), _json_text
    return pa.string(), _plain


def _same(value: Any) -> Any:
    return value


def _json_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


# --- what all have in common

_JSON = frozenset({"json", "jsonb"})
_NUMBERS = frozenset({"float4", "float8", "numeric"})


def _plain(value: Any) -> str:
    """A value as text, as people write it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return rfc3339(value) if value.tzinfo else value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, list):
        return orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z).decode()
    return str(value)


_ENCODERS: Final[dict[FileFormat, Callable[[Sequence[Column]], _Encoder]]] = {
    "csv": _Csv,
    "jsonl": _JsonLines,
    "parquet": _Parquet,
}
