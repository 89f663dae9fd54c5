"""From messages to documents of sales_db.raw_sales, or to dead letters. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Final, NamedTuple

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from event_consumer.batch import Item
from event_consumer.dead_letter import DeadLetter, dead_letter
from event_consumer.sales.wire import read_sale
from event_core.clock import Clock
from event_core.errors import UndecodableMessage
from event_core.source import Message

MAX_NAME: Final = 256
"""Characters of a SKU and of an event id at most."""

_date_and_time = re.compile(
    r"\d{4}-?\d\d-?\d\d[Tt ]\d\d(:?\d\d(:?\d\d([.,]\d{1,9})?)?)?([Zz]|[+-]\d\d(:?\d\d)?)?"
).fullmatch


def _iso_8601(text: str) -> str:
    """``text`` as it is. Raises ValueError where it is no date and time."""
    form = "an ISO 8601 date and time is required, e.g. 2024-01-15T10:30:00Z"
    if _date_and_time(text) is None:
        raise ValueError(form)
    try:
        datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise ValueError(f"{form}: {error}") from None
    return text


class Sale(BaseModel):
    """What a sale must be. Values are kept as they were sent, the time as text."""

    model_config = ConfigDict(strict=True, frozen=True)

    sku: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    qty: Annotated[int, Field(gt=0)]
    price: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    ts: Annotated[str, AfterValidator(_iso_8601)]
    event_id: Annotated[str, Field(max_length=MAX_NAME)] = ""


class SaleRow(NamedTuple):
    """A document and the identity under which it is stored once."""

    sale_id: str
    document: dict[str, Any]
    """``_id`` and ``event_id`` (both ``sale_id``), sku, qty, price, ts, processed_at (seconds since 1970)."""


CONTENT: Final = ("sku", "qty", "price", "ts")
"""What makes two documents of one identity the same sale."""

Decode = Callable[[Sequence[Message]], tuple[list[Item[SaleRow]], list[DeadLetter]]]


def decoder(clock: Clock) -> Decode:
    """What makes rows and dead letters of messages; ``clock`` gives ``processed_at``."""

    def decode_all(messages: Sequence[Message]) -> tuple[list[Item[SaleRow]], list[DeadLetter]]:
        items: list[Item[SaleRow]] = []
        dead: list[DeadLetter] = []
        processed_at = clock().timestamp()
        for message in messages:
            try:
                items.append(Item(to_row(message.value, processed_at), message))
            except UndecodableMessage as error:
                dead.append(dead_letter(message, error))
        return items, dead

    return decode_all


def to_row(value: bytes | None, processed_at: float) -> SaleRow:
    """The row of a record's value.

    Raises:
        UndecodableMessage: no sale: a dead letter.
    """
    sent = read_sale(value)
    try:
        sale = Sale(sku=sent.sku, qty=sent.qty, price=sent.price, ts=sent.ts, event_id=sent.event_id)
    except ValidationError as error:
        raise UndecodableMessage(_explained(error), reason="invalid_sale") from None
    sale_id = sale.event_id or content_id(sale)
    return SaleRow(
        sale_id,
        {
            "_id": sale_id,
            "sku": sale.sku,
            "qty": sale.qty,
            "price": sale.price + 0.0,  # -0.0 is 0.0
            "ts": sale.ts,
            "event_id": sale_id,
            "processed_at": processed_at,
        },
    )


def content_id(sale: Sale) -> str:
    """The identity of a sale that was sent without one: SHA-256, in hexadecimal, of ``[sku,qty,price,ts]`` as JSON in UTF-8
    without spaces, the price in the shortest form that reads back the same (29.99, 30.0, 1e16)."""
    return sha256(orjson.dumps([sale.sku, sale.qty, sale.price + 0.0, sale.ts])).hexdigest()


def same_sale(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two documents of one identity tell of the same sale."""
    return all(one.get(name) == other.get(name) for name in CONTENT)


def _explained(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False)
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r:.100})"
        for problem in problems
    )
