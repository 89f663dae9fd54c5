"""Synthetic sales, and what must become of each in the sales pipeline. Pure; ``tools/send_sales.py`` sends them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import accumulate
from typing import Any, Final, NamedTuple
from uuid import UUID

from event_consumer.sales.sales_event_pb2 import SalesEvent
from event_core.clock import rfc3339
from event_core.codec import Record

SEEDED_END: Final = datetime(2026, 1, 31, 18, tzinfo=UTC)
"""When the last sale of a seeded story was made: told twice it is the same, times and all."""
SECONDS_APART: Final = 0.8
"""Between one sale and the next, on average."""
KEPT: Final = 5_000
"""Sales that copies and conflicts are made of."""
WIRE_PREFIX: Final = b"\0" + (1).to_bytes(4, "big") + b"\0"
"""Of Confluent's schema registry: magic byte, schema 1, its first message."""
QUANTITIES: Final = {1: 60, 2: 20, 3: 8, 4: 5, 6: 4, 12: 2, 48: 1}
DISCOUNTS: Final = {1.0: 80, 0.9: 12, 0.8: 5, 0.5: 3}
"""Price factors. Each value here is a weight."""


class Fate(StrEnum):
    """What must become of a record, in a collection and a topic that hold nothing else."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    """A dead letter: another sale is stored under its event_id."""
    BAD = "bad"
    """A dead letter: it is no valid sale."""


class Told(NamedTuple):
    record: Record
    fate: Fate


@dataclass(frozen=True)
class Mix:
    """Of ``records``, the shares that are ``duplicates``, ``conflicts`` and ``bad``; of the others the share ``without_id``. All
    are met to the nearest record.

    Raises:
        ValueError: there can be no such mix.
    """

    records: int = 300
    skus: int = 20
    duplicates: float = 0.0
    conflicts: float = 0.0
    bad: float = 0.0
    without_id: float = 0.0
    wire_prefix: bool = False

    def __post_init__(self) -> None:
        if self.records < 1 or self.skus < 1:
            raise ValueError("at least one sale, of one product")
        for name in ("duplicates", "conflicts", "bad", "without_id"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name.replace('_', '-')} is a share, from 0 to 1")
        counts = self.counts
        if counts[Fate.STORED] < 0:
            raise ValueError("--duplicates, --conflicts and --bad are more than all records together")
        if counts[Fate.DUPLICATE] and not counts[Fate.STORED]:
            raise ValueError("--duplicates leaves no sale to be a copy of: lower the shares")
        if counts[Fate.CONFLICT] and counts[Fate.STORED] == self.anonymous:
            raise ValueError("--conflicts needs a sale with an event_id before: lower the shares")

    @property
    def counts(self) -> dict[Fate, int]:
        """Records of each fate."""
        shares = {Fate.DUPLICATE: self.duplicates, Fate.CONFLICT: self.conflicts, Fate.BAD: self.bad}
        counts = {fate: _nearest(self.records * share) for fate, share in shares.items()}
        return {Fate.STORED: self.records - sum(counts.values()), **counts}

    @property
    def anonymous(self) -> int:
        """Sales to be stored that have no event_id."""
        return _nearest(self.counts[Fate.STORED] * self.without_id)


def _nearest(number: float) -> int:
    return math.floor(number + 0.5)


def begins(mix: Mix, end: datetime) -> datetime:
    """No sale of ``mix`` was made before."""
    return end - timedelta(seconds=SECONDS_APART * mix.records)


def story(mix: Mix, seed: str, end: datetime) -> Iterator[Told]:
    """The records of ``mix`` in the order to be sent; the sales' times end at ``end`` (UTC). The same arguments, the same story.

    The key is the SKU. A copy and a conflict have their original's, so they follow it in its partition: the original is stored.
    """
    return _Story(mix, random.Random(seed), end).tell()


class _Story:
    def __init__(self, mix: Mix, rng: random.Random, end: datetime) -> None:
        self._mix = mix
        self._rng = rng
        self._begin = begins(mix, end)
        self._prices = {
            f"sku-{1001 + n}": max(0.99, round(rng.lognormvariate(3.2, 1.0)) - 0.01) for n in range(mix.skus)
        }
        self._skus = list(self._prices)
        self._popular = list(accumulate(1 / (1 + n) for n in range(mix.skus)))
        self._kept: list[SalesEvent] = []
        self._named: list[SalesEvent] = []

    def tell(self) -> Iterator[Told]:
        left, anonymous = self._mix.counts, self._mix.anonymous
        for number in range(self._mix.records):
            possible = dict(left)
            if not self._kept:
                possible[Fate.DUPLICATE] = 0
            if not self._named:
                possible[Fate.CONFLICT] = 0
            fate = self._rng.choices(list(possible), list(possible.values()))[0]
            if fate is Fate.STORED:
                # So many of so many are left: at the end it comes out even.
                named = self._rng.randrange(left[fate]) >= anonymous
                anonymous -= not named
                yield self._stored(number, named=named)
            elif fate is Fate.DUPLICATE:
                sale = self._rng.choice(self._kept)
                yield self._told(sale.sku, sale.SerializeToString(), fate)
            elif fate is Fate.CONFLICT:
                sale = _other(self._rng.choice(self._named), self._rng)
                yield self._told(sale.sku, sale.SerializeToString(), fate)
            else:
                sale = self._sale(number)
                sku, spoil = sale.sku, BADS[left[fate] % len(BADS)]
                yield self._told(sku, spoil(sale), fate)
            left[fate] -= 1

    def _stored(self, number: int, *, named: bool) -> Told:
        sale = self._sale(number)
        if named:
            self._keep(self._named, sale)
        else:
            sale.event_id = ""
        self._keep(self._kept, sale)
        return self._told(sale.sku, sale.SerializeToString(), Fate.STORED)

    def _sale(self, number: int) -> SalesEvent:
        """The times of any two differ, so those without an event_id are told apart."""
        rng = self._rng
        sku = rng.choices(self._skus, cum_weights=self._popular)[0]
        discount = rng.choices(list(DISCOUNTS), list(DISCOUNTS.values()))[0]
        at = self._begin + timedelta(seconds=SECONDS_APART * (number + 0.99 * rng.random()))
        return SalesEvent(
            sku=sku,
            qty=rng.choices(list(QUANTITIES), list(QUANTITIES.values()))[0],
            price=round(self._prices[sku] * discount, 2),
            ts=rfc3339(at),
            event_id=str(UUID(int=rng.getrandbits(128), version=4)),
        )

    def _keep(self, kept: list[SalesEvent], sale: SalesEvent) -> None:
        if len(kept) < KEPT:
            kept.append(sale)
        else:
            kept[self._rng.randrange(KEPT)] = sale

    def _told(self, sku: str, value: bytes, fate: Fate) -> Told:
        if self._mix.wire_prefix and value:
            value = WIRE_PREFIX + value
        return Told(Record(sku.encode(), value, []), fate)


def _other(sale: SalesEvent, rng: random.Random) -> SalesEvent:
    """Another sale under the same event_id."""
    other = SalesEvent()
    other.CopyFrom(sale)
    other.qty += rng.randint(1, 3)
    return other


def _with(**fields: Any) -> Callable[[SalesEvent], bytes]:
    def spoilt(sale: SalesEvent) -> bytes:
        for name, value in fields.items():
            setattr(sale, name, value)
        return sale.SerializeToString()

    return spoilt


BADS: Final[list[Callable[[SalesEvent], bytes]]] = [
    lambda sale: json.dumps({"sku": sale.sku, "qty": sale.qty}).encode(),  # no Protobuf
    lambda sale: b"",
    _with(qty=0),
    _with(price=-1.0),
    _with(price=math.nan),
    _with(sku=""),
    _with(ts="yesterday"),
]
