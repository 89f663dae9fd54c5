"""Exports: what a program reads back from each format is what was stored."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple, get_args
from uuid import UUID

import orjson
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_service import exports
from analytics_service.errors import FormatUnavailable
from analytics_service.exports import MEDIA, Column, FileFormat, columns_of, disposition, export

COLUMNS = [
    Column("event_id", "uuid"),
    Column("user_id", "text"),
    Column("timestamp", "timestamptz"),
    Column("events", "int8"),
    Column("share", "float8"),
    Column("new", "bool"),
    Column("metadata", "jsonb"),
]
FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)
AT = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)

# PostgreSQL holds neither U+0000 nor lone surrogates.
TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])) | st.sampled_from(
    [
        "",
        '"',
        '""',
        "a,b",
        "a\r\nb",
        "\n",
        "\r",
        " a ",
        "=1+1",
        "+1",
        "-1",
        "@a",
        "\t=1",
        "null",
        "ß€😀",
        "\u2028",
        "\x85",
        "\ufeff",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "event_id": st.uuids(),
            "user_id": st.none() | TEXTS,
            "timestamp": st.none() | st.datetimes(timezones=st.just(UTC)),
            "events": st.none() | st.integers(-(2**63), 2**63 - 1),
            "share": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "new": st.none() | st.booleans(),
            "metadata": st.none()
            | st.dictionaries(TEXTS, JSON, max_size=3).map(lambda value: orjson.dumps(value).decode()),
        }
    ),
    max_size=8,
)


async def batches_of(rows: Sequence[Any], size: int = 3) -> AsyncGenerator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


async def exported(rows: Sequence[Any], form: FileFormat, columns: Sequence[Column] = COLUMNS, size: int = 3) -> bytes:
    return b"".join([chunk async for chunk in export(batches_of(rows, size), columns, form)])


def as_read(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its metadata as an object and its id as text."""
    metadata = row["metadata"]
    return {**row, "event_id": str(row["event_id"]), "metadata": None if metadata is None else json.loads(metadata)}


@given(ROWS)
@settings(deadline=None, max_examples=60)
def test_csv_gives_back_every_value(rows: list[dict[str, Any]]) -> None:
    text = asyncio.run(exported(rows, "csv")).decode("utf-8")
    header, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert header == [column.name for column in COLUMNS]
    read = []
    for line in lines:
        found: dict[str, Any] = dict(zip(header, (field or None for field in line), strict=True))
        found["timestamp"] = found["timestamp"] and datetime.fromisoformat(found["timestamp"])
        found["events"] = found["events"] and int(found["events"])
        found["share"] = found["share"] and float(found["share"])
        found["new"] = found["new"] and found["new"] == "true"
        found["metadata"] = found["metadata"] and json.loads(found["metadata"])
        read.append(found)
    # This reader does not tell "" from nothing.
    assert read == [{**as_read(row), "user_id": row["user_id"] or None} for row in rows]


@given(ROWS)
@settings(deadline=None, max_examples=60)
def test_json_lines_give_back_every_value(rows: list[dict[str, Any]]) -> None:
    text = asyncio.run(exported(rows, "jsonl"))
    assert text.count(b"\n") == len(rows)
    read = [json.loads(line) for line in text.split(b"\n")[:-1]]
    for found in read:
        found["timestamp"] = found["timestamp"] and datetime.fromisoformat(found["timestamp"])
    assert read == [as_read(row) for row in rows]


@given(ROWS)
@settings(deadline=None, max_examples=60)
def test_parquet_gives_back_every_value_with_its_type(rows: list[dict[str, Any]]) -> None:
    table = parquet.read_table(io.BytesIO(asyncio.run(exported(rows, "parquet"))))
    assert {field.name: str(field.type) for field in table.schema} == {
        "event_id": "string",
        "user_id": "string",
        "timestamp": "timestamp[us, tz=UTC]",
        "events": "int64",
        "share": "double",
        "new": "bool",
        "metadata": "string",
    }
    read = table.to_pylist()
    for found in read:
        found["metadata"] = found["metadata"] and json.loads(found["metadata"])
    assert read == [as_read(row) for row in rows]


def row_of(**values: Any) -> dict[str, Any]:
    return {**dict.fromkeys([column.name for column in COLUMNS]), "event_id": UUID(int=1), **values}


async def test_a_csv_reads_like_this() -> None:
    rows = [
        row_of(user_id='He said "hi",\nand left', timestamp=AT, events=3, share=0.25, new=True, metadata='{"a": [1]}'),
        row_of(user_id=""),
        row_of(user_id="=cmd()"),
    ]
    assert (await exported(rows, "csv")).decode() == (
        "event_id,user_id,timestamp,events,share,new,metadata\r\n"
        '00000000-0000-0000-0000-000000000001,"He said ""hi"",\nand left",2026-01-31T12:00:00.000005Z,3,0.25,true,'
        '"{""a"": [1]}"\r\n'
        '00000000-0000-0000-0000-000000000001,"",,,,,\r\n'
        "00000000-0000-0000-0000-000000000001,=cmd(),,,,,\r\n"
    )


async def test_json_lines_read_like_this() -> None:
    rows = [row_of(user_id="ß", timestamp=AT, metadata='{"a": 1e3}')]
    assert (await exported(rows, "jsonl")).decode() == (
        '{"event_id":"00000000-0000-0000-0000-000000000001","user_id":"ß","timestamp":"2026-01-31T12:00:00.000005Z",'
        '"events":null,"share":null,"new":null,"metadata":{"a": 1e3}}\n'
    )


@pytest.mark.parametrize("form", FORMATS)
async def test_no_rows_are_a_whole_file_too(form: FileFormat) -> None:
    data = await exported([], form)
    if form == "parquet":
        table = parquet.read_table(io.BytesIO(data))
        assert (table.num_rows, table.column_names) == (0, [column.name for column in COLUMNS])
    else:
        assert data == (b"event_id,user_id,timestamp,events,share,new,metadata\r\n" if form == "csv" else b"")


async def test_other_types_of_columns_have_a_form_in_each_format() -> None:
    columns = [Column("total", "numeric"), Column("day", "date"), Column("steps", "text[]"), Column("small", "int4")]
    rows = [{"total": Decimal("12345678901234567890.5"), "day": date(2026, 1, 31), "steps": ["a", 'b"'], "small": 7}]
    assert (await exported(rows, "csv", columns)).decode().splitlines()[1] == (
        '12345678901234567890.5,2026-01-31,"[""a"",""b\\""""]",7'
    )
    assert await exported(rows, "jsonl", columns) == (
        b'{"total":12345678901234567890.5,"day":"2026-01-31","steps":["a","b\\""],"small":7}\n'
    )
    (found,) = parquet.read_table(io.BytesIO(await exported(rows, "parquet", columns))).to_pylist()
    assert found == {"total": 12345678901234567890.5, "day": date(2026, 1, 31), "steps": '["a","b\\""]', "small": 7}


async def test_what_is_no_number_in_json_is_null_there() -> None:
    columns = [Column("a", "float8"), Column("b", "numeric")]
    assert await exported([{"a": float("nan"), "b": Decimal("NaN")}], "jsonl", columns) == b'{"a":null,"b":null}\n'


@pytest.mark.parametrize("form", FORMATS)
async def test_a_column_of_nulls_alone_keeps_its_rows(form: FileFormat) -> None:
    data = await exported([{"a": None}] * 2, form, [Column("a", "text")])
    if form == "csv":
        assert list(csv.reader(io.StringIO(data.decode()))) == [["a"], [""], [""]]
    elif form == "jsonl":
        assert data == b'{"a":null}\n' * 2
    else:
        assert parquet.read_table(io.BytesIO(data)).to_pylist() == [{"a": None}] * 2


class _Type(NamedTuple):
    name: str


class _Attribute(NamedTuple):
    name: str
    type: _Type


def test_the_columns_are_those_asked_for_with_the_statements_types() -> None:
    attributes = [
        _Attribute("total", _Type("int8")),
        _Attribute("value", _Type("text")),
        _Attribute("more", _Type("bool")),
    ]
    assert columns_of(attributes, ("value", "total")) == [Column("value", "text"), Column("total", "int8")]


def test_the_file_has_a_name_and_a_media_type() -> None:
    assert disposition("events", "parquet") == 'attachment; filename="events.parquet"'
    assert disposition("events", "csv") == 'attachment; filename="events.csv"'
    assert MEDIA["csv"].type.startswith("text/csv")


@pytest.mark.parametrize("form", FORMATS)
async def test_memory_holds_a_few_rows_however_many_there_are(
    form: FileFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row's text is let go of soon: the bytes come while the rows do."""
    monkeypatch.setattr(exports, "GROUP_BYTES", 200_000)
    given = taken = most = 0

    async def endless() -> AsyncGenerator[Sequence[Any]]:
        nonlocal given
        for number in range(200):
            given += 10
            yield [row_of(user_id=UUID(int=(number << 64) + n).hex * 100) for n in range(10)]

    async for chunk in export(endless(), COLUMNS, form):
        taken += len(chunk) > 0
        most = max(most, given // taken)
    assert given == 2000
    assert most <= 100, "rows for each chunk"


async def test_parquet_makes_row_groups_of_a_useful_size_from_small_batches() -> None:
    rows = [row_of(events=n) for n in range(1000)]
    file = parquet.ParquetFile(io.BytesIO(await exported(rows, "parquet", size=10)))
    assert (file.metadata.num_rows, file.metadata.num_row_groups) == (1000, 1)


async def test_without_pyarrow_csv_works_and_parquet_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert await exported([row_of()], "csv")
    with pytest.raises(FormatUnavailable, match=r"event-platform\[parquet\]"):
        await exported([row_of()], "parquet")
