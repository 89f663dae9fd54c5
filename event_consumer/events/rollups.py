"""What new rows add to the rollups. Pure; docs/schema.md says what each table holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import NamedTuple

from event_consumer.events.days import bit_of
from event_consumer.events.rows import EventRow
from event_core.instants import DAY, EPOCH, SECOND

MOST_KNOWN = 200_000
"""Users of a day that are remembered: about 50 MiB."""

QUARTER = 15 * 60 * SECOND
QUARTERS = DAY // QUARTER
_FIRST_DAY = EPOCH.date()
_UserOfDay = tuple[int, tuple[str, str]]


class Additions(NamedTuple):
    """Rows for each table, with distinct keys, in the order of the keys; times as ``event_core.instants``."""

    counts: list[tuple[int, str, str, int]]
    """(bucket, tenant_id, event_name, events)"""
    days: list[date]
    user_days: list[tuple[str, date, str, int]]
    """(tenant_id, month, user_id, days)"""
    first_seen: list[tuple[str, str, int]]
    """(tenant_id, user_id, first_seen_at)"""
    learned: dict[_UserOfDay, int]
    """For ``Known.learn`` once all of it is committed."""


class Known:
    """Which users are known to be in user_days on a day, and in first_seen no later than at a time: nothing to write for them.

    Right as long as the tables lose no rows; whoever removes some raises the epoch, which makes it forget.
    """

    def __init__(self, most: int = MOST_KNOWN) -> None:
        self._most = most
        self._days: dict[int, dict[tuple[str, str], int]] = {}  # the day that was learned of longest ago comes first
        self._count = 0
        self._epoch = 0

    def __len__(self) -> int:
        return self._count

    def forget(self) -> None:
        """The tables may have lost rows without a new epoch: a database that was put back, or another one in its place."""
        self._days, self._count = {}, 0

    def check(self, epoch: int) -> None:
        """Forgets everything where ``epoch`` is another than before."""
        if epoch != self._epoch:
            self.forget()
            self._epoch = epoch

    def learn(self, learned: dict[_UserOfDay, int], epoch: int) -> None:
        """Takes over what was committed while ``epoch`` held."""
        if epoch != self._epoch:
            return
        for day in {day for day, _ in learned}:
            self._days[day] = self._days.pop(day, {})
        for (day, user), at in learned.items():
            users = self._days[day]
            self._count += user not in users
            users[user] = at
        while self._count > self._most:
            self._count -= len(self._days.pop(next(iter(self._days))))

    def unknown(self, rows: Iterable[EventRow], quarters: Iterable[int]) -> dict[_UserOfDay, int]:
        """Of the users and days of ``rows`` those that are not known, with the earliest time; ``quarters`` are the rows'."""
        found: dict[_UserOfDay, int] = {}
        days = self._days
        nobody: dict[tuple[str, str], int] = {}
        for row, quarter in zip(rows, quarters, strict=True):
            day, user, at = quarter // QUARTERS, (row.tenant_id, row.user_id), row.timestamp
            known = days.get(day, nobody).get(user)
            if known is not None and known <= at:
                continue
            earliest = found.get((day, user))
            if earliest is None or at < earliest:
                found[day, user] = at
        return found


def additions(rows: Sequence[EventRow], known: Known) -> Additions:
    """What ``rows``, which were stored now, add."""
    quarters = [row.timestamp // QUARTER for row in rows]
    counted = Counter([(quarter, row.tenant_id, row.event_name) for quarter, row in zip(quarters, rows, strict=True)])
    unknown = known.unknown(rows, quarters)
    user_days: dict[tuple[str, date, str], int] = {}
    first_seen: dict[tuple[str, str], int] = {}
    for (day, user), at in unknown.items():
        on = _date(day)
        key = (user[0], on.replace(day=1), user[1])
        user_days[key] = user_days.get(key, 0) | bit_of(on)
        earliest = first_seen.get(user)
        if earliest is None or at < earliest:
            first_seen[user] = at
    return Additions(
        [(quarter * QUARTER, tenant, name, n) for (quarter, tenant, name), n in sorted(counted.items())],
        [_date(day) for day in sorted({quarter // QUARTERS for quarter in set(quarters)})],
        [(*key, days) for key, days in sorted(user_days.items())],
        [(*user, at) for user, at in sorted(first_seen.items())],
        unknown,
    )


def _date(day: int) -> date:
    return _FIRST_DAY + timedelta(days=day)
