"""One question, how many events there are, put to the API, to the views and to Superset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from tests.support.process import Service
from tests.support.superset import Analyst
from tests.support.wait import query


class Ask(NamedTuple):
    """How many events of [from_ts, to_ts): in all, of one name, for each name, or for each day in UTC."""

    from_ts: datetime
    to_ts: datetime
    event_name: str | None = None
    by: str | None = None


Numbers = Counter[object]
"""Of each value of ``by``, those without events left out; without one, of "all"."""
Source = Callable[[Ask], Numbers]


def of_view(database_url: str, view: str, metric: str, at: str) -> Source:
    """``metric`` of a view in plain SQL; ``at`` is its column of time."""

    def ask(what: Ask) -> Numbers:
        key = {None: "'all'", "event_name": "event_name", "day": f"date_trunc('day', \"{at}\", 'UTC')"}[what.by]
        name = "" if what.event_name is None else "and event_name = %s"
        values = [what.from_ts, what.to_ts, *([what.event_name] if name else [])]
        statement = f'select {key}, {metric} from analytics.{view} where "{at}" >= %s and "{at}" < %s {name} group by 1'
        return Counter[object](dict(query(database_url, statement, *values)))

    return ask


def of_api(service: Service) -> Source:
    def get(path: str, what: Ask, **more: Any) -> dict[str, Any]:
        params = {"from_ts": what.from_ts.isoformat(), "to_ts": what.to_ts.isoformat(), **more}
        if what.event_name is not None:
            params["event_name"] = what.event_name
        reply = service.get(path, **params)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def ask(what: Ask) -> Numbers:
        if what.by == "event_name":
            top = get("/analytics/top", what, by="event_name", limit=100)
            return Counter[object]({row["value"]: row["events"] for row in top["top"]})
        if what.by == "day":
            series = get("/analytics/timeseries", what, bucket="1d", zone="UTC")
            return +Counter[object]({datetime.fromisoformat(row["bucket"]): row["events"] for row in series["points"]})
        return +Counter[object]({"all": get("/analytics/events/count", what)["count"]})

    return ask


def of_superset(analyst: Analyst, view: str, metric: str, at: str) -> Source:
    """The same by way of a chart's question to Superset."""
    dataset = analyst.dataset(view)

    def ask(what: Ask) -> Numbers:
        rows = analyst.chart(
            dataset,
            metric,
            at,
            what.from_ts,
            what.to_ts,
            columns=["event_name"] if what.by == "event_name" else [],
            grain="P1D" if what.by == "day" else None,
            names=[what.event_name] if what.event_name else [],
        )
        key = {None: None, "event_name": "event_name", "day": at}[what.by]
        return +Counter[object]({row[key] if key else "all": row["metric"] or 0 for row in rows})

    return ask
