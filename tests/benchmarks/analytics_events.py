"""The events that the analytics benchmark asks about: the same seed and first day, the same events. Pure.

30 days, each one stream of its own, so that several processes can make them. Within a day events come in the order of their
times, as they would have been stored.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import accumulate
from typing import NamedTuple

DAYS = 30
USERS = 200_000
SEED = 1
NAMES = (
    *("page_view", "click", "search", "product_view", "scroll", "add_to_cart", "login", "share", "checkout", "like"),
    *("purchase", "comment", "play", "pause", "download", "upload", "invite", "settings", "logout", "error"),
)
"""From the most to the least frequent: the k-th has a share of 1/k of the first one's."""
EXPERIMENT = "exp_1"
VARIANTS = ("A", "B")
EXPOSED = 0.02
"""The share of events with an experiment and a variant."""
ASTRAY = 0.001
"""The share of those with the other variant than the user's own."""
PLANS = ("free", "free", "free", "free", "free", "free", "free", "pro", "pro", "team")
SOURCES = ("web", "web", "ios", "android")
PAGES = 500
COLUMNS = (
    *("event_id", "user_id", "event_name", "metadata", "timestamp", "processed_at", "received_at", "tenant_id"),
    *("experiment_id", "variant", "source"),
)
"""In the order of a line's fields."""

_KNOWN_AT_FIRST = 0.4
"""The share of users who may come on the first day; the others join evenly."""
_SKEW = 2.5
"""User number r of n has a share that falls with r to the power of 0.6 = 1 - 1/2.5, so the first of 200,000 has 0.8 %."""
_WEEKEND = 0.7
_HOURS = (*(3, 2, 1.5, 1.2, 1.2, 1.5), *(2.5, 4, 6, 7, 7.5, 7.5), *(7, 7, 7, 7, 7, 7), *(7.5, 8, 8, 7, 5.5, 4))
"""How many events an hour of the day (UTC) has beside the others."""
_CHUNK = 2_000
_MEAN_DELAY_SECONDS = 0.5


class Plan(NamedTuple):
    """What to make."""

    events: int
    first_day: date
    seed: int = SEED
    users: int = USERS

    @property
    def days(self) -> list[date]:
        return [self.first_day + timedelta(days=number) for number in range(DAYS)]


def events_on(plan: Plan, day: date) -> int:
    """How many; the days' sum is ``plan.events``. Weekends have less."""
    return _shares(plan.events, [_WEEKEND if one.weekday() >= 5 else 1.0 for one in plan.days])[plan.days.index(day)]


def user_id(number: int) -> str:
    """0 is the most active."""
    return f"user_{number:06d}"


def lines(plan: Plan, day: date) -> Iterator[bytes]:
    """The day's events for COPY, as text, some thousand in each piece; the fields are ``COLUMNS``."""
    rng = random.Random(f"{plan.seed}/{plan.users}/{plan.days.index(day)}")
    number = events_on(plan, day)
    joined = _KNOWN_AT_FIRST + (1 - _KNOWN_AT_FIRST) * (plan.days.index(day) + 1) / DAYS
    users = max(1, round(plan.users * joined))
    weights = list(accumulate(1 / rank for rank in range(1, len(NAMES) + 1)))
    midnight_ms = (day - date(1970, 1, 1)).days * 86_400_000
    piece: list[str] = []
    for moment in _moments(rng, number):
        user = int(users * rng.random() ** _SKEW)
        name = rng.choices(NAMES, cum_weights=weights)[0]
        at = f"{day}{_clock(moment)}"
        stored = f"{day}{_clock(min(86_399_999, moment + int(rng.expovariate(1 / _MEAN_DELAY_SECONDS) * 1000)))}"
        page = int(PAGES * rng.random() ** 2)
        exposure = "\\N\t\\N"
        if rng.random() < EXPOSED:
            exposure = f"{EXPERIMENT}\t{VARIANTS[user % 2 ^ (rng.random() < ASTRAY)]}"
        bits = f"{rng.getrandbits(80):020x}"
        hexes = f"{midnight_ms + moment:012x}"
        piece.append(
            f"{hexes[:8]}-{hexes[8:]}-7{bits[:3]}-{'89ab'[user % 4]}{bits[3:6]}-{bits[6:18]}\tuser_{user:06d}\t{name}\t"
            f'{{"n":{int(bits[18:], 16)},"page":"/p/{page}","plan":"{PLANS[user % 10]}"}}\t{at}\t{stored}\t{stored}\t'
            f"default\t{exposure}\t{SOURCES[user // 2 % 4]}\n"
        )
        if len(piece) == _CHUNK:
            yield "".join(piece).encode()
            piece.clear()
    yield "".join(piece).encode()


def _moments(rng: random.Random, number: int) -> Iterator[int]:
    """Milliseconds of the day, in order."""
    random_ = rng.random
    for hour, count in enumerate(_shares(number, _HOURS)):
        yield from sorted([int((hour + random_()) * 3_600_000) for _ in range(count)])


def _clock(ms: int) -> str:
    return f"T{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}Z"


def _shares(total: int, weights: list[float] | tuple[float, ...]) -> list[int]:
    """Whole numbers like ``weights`` whose sum is ``total``."""
    ends = [round(total * end / sum(weights)) for end in accumulate(weights)]
    ends[-1] = total
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
