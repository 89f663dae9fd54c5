"""What all questions have in common: a range, filters, and what a reply says of itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from analytics_service.errors import InvalidQuery
from analytics_service.times import parse_time
from event_core.event import MAX_NAME

MAX_VALUES = 100
"""Values of one filter."""
MAX_PATHS = 3
"""Metadata paths of one question; SQL's matching() has as many."""
MAX_PATH = 256
_DOT = "\x01"
DIMENSIONS = ("event_name", "user_id", "tenant_id", "experiment_id", "variant", "source")
"""What an event can be filtered and broken down by, beside metadata.PATH."""


class Row(Protocol):
    """A row of the database's answer, by column."""

    def __getitem__(self, column: str, /) -> Any: ...


_TIME = (
    "RFC 3339 (`2026-01-31T12:00:00Z`; no zone means UTC; write `+` as `%2B`), a date, or epoch seconds or milliseconds"
)


def _time_of(field: str) -> BeforeValidator:
    def parse(value: object) -> object:
        return value if isinstance(value, datetime) else parse_time(str(value), field)

    return BeforeValidator(parse, json_schema_input_type=str)


def one_or_more(value: object) -> object:
    """One value is as good as a list of one."""
    return [value] if isinstance(value, str) else value


def name(value: str, field: str) -> str:
    """``value``, which some event could have.

    Raises:
        InvalidQuery: none can.
    """
    # A lone surrogate is no text: no event has it, and no database takes it.
    if not 1 <= len(value) <= MAX_NAME or "\x00" in value or _surrogate(value):
        raise InvalidQuery(f"{field}: no event can have it: 1 to {MAX_NAME} characters, without U+0000")
    return value


def _surrogate(value: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in value)


def path(value: str, field: str) -> str:
    """A dotted metadata path.

    Raises:
        InvalidQuery: it is empty, too long, has an empty key, or U+0001, which stands for a key's own dots in SQL.
    """
    keys = value.replace("\\.", _DOT).split(".")
    if not 1 <= len(value) <= MAX_PATH or "\x00" in value or _DOT in value or _surrogate(value) or "" in keys:
        raise InvalidQuery(
            f"{field}: {value[:64]!r} is no path: send keys joined by dots, like address.city (a dot in a key: \\.)"
        )
    return value


def dimension(value: str, field: str) -> str:
    """What an answer is broken down by: a column, or metadata.PATH.

    Raises:
        InvalidQuery: it is neither.
    """
    if value in DIMENSIONS:
        return value
    if value.startswith("metadata."):
        path(value.removeprefix("metadata."), field)
        return value
    raise InvalidQuery(f"{field}: {value[:64]!r} is none of {', '.join(DIMENSIONS)} and metadata.PATH")


def _metadata(value: object) -> object:
    """``path=value`` of a query string, repeated, as {path: [values]}; an object as it is, each value a list of texts."""
    if value is None:
        return None
    found: dict[str, list[str]] = {}
    if isinstance(value, Mapping):
        for key, wanted in value.items():
            values = wanted if isinstance(wanted, list) else [wanted]
            found[key] = [one if isinstance(one, str) else _text_of(one) for one in values]
    else:
        for pair in value if isinstance(value, list) else [value]:
            key, equals, wanted = str(pair).partition("=")
            if not equals:
                raise InvalidQuery(f"metadata: {str(pair)[:64]!r} has no value: send metadata=plan=pro")
            found.setdefault(key, []).append(wanted)
    return found


def _text_of(value: object) -> str:
    """A JSON scalar as PostgreSQL shows it as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise InvalidQuery("metadata: values are texts, whole numbers, true or false (send other numbers as text)")


Names = Annotated[list[str], BeforeValidator(one_or_more), Field(min_length=1, max_length=MAX_VALUES)]
Zone = Annotated[str, Field(description="IANA time zone in which days begin", examples=["Europe/Berlin"])]


class Cost(NamedTuple):
    """The events that must be read one by one: those of the range that the filters on name and tenant let through."""

    from_ts: datetime
    to_ts: datetime
    filters: Mapping[str, Any]


class Answer(NamedTuple):
    """What the rows say."""

    fields: dict[str, Any]
    """Go into the reply."""
    spans: Sequence[tuple[datetime, datetime]] = ()
    """(start, end) of each bucket of the answer, as far as the range reaches."""
    approximate: bool = False
    error: float | None = None
    """Relative standard error of an approximate answer."""


class _Range(BaseModel):
    """Which time is meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_ts: Annotated[datetime, _time_of("from_ts"), Field(description=f"Start, inclusive: {_TIME}")]
    to_ts: Annotated[datetime, _time_of("to_ts"), Field(description=f"End, exclusive: {_TIME}")]


class Filters(BaseModel):
    """Which events are meant. Of each filter any of the values; all of the filters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event_name: Annotated[Names | None, Field(description="Only events of this name; several: any of them")] = None
    user_id: Annotated[Names | None, Field(description="Only events of this user")] = None
    tenant_id: Annotated[Names | None, Field(description="Only events of this tenant")] = None
    experiment_id: Annotated[Names | None, Field(description="Only events of this experiment")] = None
    variant: Annotated[Names | None, Field(description="Only events of this variant")] = None
    source: Annotated[Names | None, Field(description="Only events that this service sent")] = None
    metadata: Annotated[
        # The list is for FastAPI: of a parameter that cannot be one it would take the last value only.
        dict[str, list[str]] | list[str] | None,
        BeforeValidator(_metadata, json_schema_input_type=list[str] | dict[str, Any]),
        Field(
            description="Only events with this in their metadata: `plan=pro`, `address.city=Rome` (a dot in a key: `\\.`)"
        ),
    ] = None

    @model_validator(mode="after")
    def _possible(self) -> Filters:
        for field in DIMENSIONS:
            for value in getattr(self, field) or ():
                name(value, field)
        metadata = self.metadata if isinstance(self.metadata, dict) else {}
        if self.metadata is not None and not metadata:
            raise InvalidQuery("metadata: it names nothing: leave it out, or send metadata=plan=pro")
        if len(metadata) > MAX_PATHS:
            raise InvalidQuery(f"metadata: at most {MAX_PATHS} paths")
        for key, values in metadata.items():
            path(key, "metadata")
            if any("\x00" in value or _surrogate(value) for value in values):
                raise InvalidQuery(f"metadata: {key}: no event can have it")
            if not 1 <= len(values) <= MAX_VALUES:
                raise InvalidQuery(f"metadata: {key}: send 1 to {MAX_VALUES} values")
        return self

    @cached_property
    def filters(self) -> dict[str, Any]:
        """As SQL takes them: only what was given."""
        given = {field: getattr(self, field) for field in (*DIMENSIONS, "metadata")}
        return {field: value for field, value in given.items() if value is not None}

    def filters_json(self) -> str:
        return orjson.dumps(self.filters).decode()


Format = Literal["json", "csv", "jsonl", "parquet"]


class Question(Filters):
    """A question about the stored events."""

    KIND: ClassVar[str]
    ROWS: ClassVar[str]
    """What ``statement`` gives, where it is always the same."""
    COLUMNS: ClassVar[tuple[str, ...]]
    """What ``columns`` gives, where they are always the same."""

    format: Annotated[
        Format, Field(description="`json`: the reply; `csv`, `jsonl`, `parquet`: the rows it is made of, streamed")
    ] = "json"

    def statement(self) -> str:
        """The rows of this are the answer."""
        return self.ROWS

    def arguments(self) -> tuple[object, ...]:
        """Of the statement."""
        raise NotImplementedError

    def columns(self) -> tuple[str, ...]:
        """Of the rows of an export, in order."""
        return self.COLUMNS

    def exported(self) -> tuple[str, tuple[object, ...]]:
        """The statement of an export, and its arguments."""
        return self.statement(), self.arguments()

    def touched(self) -> tuple[datetime, datetime]:
        """The answer stays the same as long as the days of these times (UTC) do."""
        raise NotImplementedError

    def cost(self) -> Cost | None:
        """What must be read one by one; None where that is little."""
        return None

    def settles(self) -> datetime | None:
        """Before the watermark has reached this time, time alone changes the answer; None where only events do."""
        return None

    def semantics(self) -> str:
        """What exactly was counted."""
        raise NotImplementedError

    def answer(self, rows: Sequence[Row]) -> Answer:
        """The reply's own part."""
        raise NotImplementedError


# The range is a base of its own, and the last, so that its parameters come first in the documentation.
class Ranged(Question, _Range):
    """A question about the events of [from_ts, to_ts)."""

    @model_validator(mode="after")
    def _forwards(self) -> Ranged:
        if self.from_ts >= self.to_ts:
            raise InvalidQuery("from_ts must lie before to_ts: the range [from_ts, to_ts) is empty")
        return self

    def touched(self) -> tuple[datetime, datetime]:
        return self.from_ts, self.to_ts


class Freshness(BaseModel):
    """How fresh an answer is."""

    watermark: Annotated[
        datetime | None,
        Field(description="What Kafka held at this time is stored; null: unknown (no consumer ever ran)"),
    ]
    age_seconds: Annotated[float | None, Field(description="How long ago that was")]


class Reply(BaseModel):
    """What every reply says."""

    kind: str
    from_ts: datetime | None = None
    to_ts: datetime | None = None
    filters: dict[str, Any]
    semantics: Annotated[str, Field(description="What exactly was counted")]
    freshness: Freshness
    approximate: Annotated[bool, Field(description="false: the numbers are exact")]
    error: Annotated[float | None, Field(description="Relative standard error of approximate numbers")]
    incomplete_buckets: Annotated[
        list[datetime],
        Field(description="Beginnings of the buckets that the range cuts, or that were not over at the watermark"),
    ]
