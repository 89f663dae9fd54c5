"""Sends realistic synthetic sales to Kafka, as the sales pipeline reads them: ``python tools/send_sales.py`` (300 sales).

It needs the project's environment: ``make venv``. What must become of each record is known before it is sent, so the summary says
how many documents and dead letters there must be.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
import typer

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only its own folder is searched

from event_consumer.sales.settings import SalesSettings
from event_core.clock import rfc3339
from event_core.codec import Record
from event_core.errors import BrokerUnavailable, ConfigurationError, RecordsRefused
from event_core.kafka.producer import ProducerSession
from event_core.kafka.topics import ensure_topics
from event_core.settings import load
from event_core.topics import TopicSpec, partition_for
from tools.sales_story import SEEDED_END, Fate, Mix, Told, begins, story

__all__ = ["Fate", "Mix", "Told", "story"]

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
REMEDY: Final = "Is it running? Start it with `make up`, or with `cd docker && docker compose up`."
ACK_SECONDS: Final = 30.0
ROUND: Final = 1_000
"""Records between two waits for the broker's acknowledgement, at most: what is not acknowledged yet is bounded by it."""
PROGRESS_SECONDS: Final = 2.0


@dataclass
class Tally:
    """What the broker has acknowledged. ``problem``: why it is not everything."""

    fates: Counter[Fate] = field(default_factory=Counter)
    under_way: int = 0
    """Records that may have arrived without an answer."""
    seconds: float = 0.0
    problem: str = ""

    @property
    def sent(self) -> int:
        return self.fates.total()


async def send(
    settings: SalesSettings, told: Iterable[Told], rate: float, tally: Tally, on_round: Callable[[], None]
) -> None:
    """Sends ``told`` in its order, ``rate`` records per second (0: as fast as they are acknowledged), and counts in ``tally``.

    Raises:
        BrokerUnavailable, RecordsRefused, TimeoutError: not all was acknowledged. Of the round under way it is not known.
    """
    topic = settings.sales_topic
    await ensure_topics(
        settings, [TopicSpec(topic, settings.sales_topic_partitions, settings.kafka_replication_factor)]
    )
    session = await ProducerSession.open(settings, acks="all", compression="lz4")
    try:
        partitions = await session.partitions(topic)
        stream, size = iter(told), min(ROUND, max(1, int(rate / 10))) if rate else ROUND
        began = time.monotonic()
        while chunk := list(islice(stream, size)):
            if rate:
                await asyncio.sleep(began + tally.sent / rate - time.monotonic())
            by_partition: dict[int, list[Record]] = {}
            for record, _ in chunk:
                by_partition.setdefault(partition_for(record.key, partitions), []).append(record)
            tally.under_way = len(chunk)
            sending = [session.send(topic, *each, seconds=ACK_SECONDS) for each in by_partition.items()]
            await asyncio.gather(*sending)
            tally.fates.update(fate for _, fate in chunk)
            tally.under_way = 0
            tally.seconds = time.monotonic() - began
            on_round()
    finally:
        await session.abandon()  # nothing is under way that is waited for


# --- the command

_EPILOG = (
    "SALES_TOPIC and KAFKA_BOOTSTRAP_SERVERS are read as the pipeline reads them: environment, then .env. "
    "Exit codes: 0 all was acknowledged; 1 not; 2 wrong usage or settings."
)
_SHARE: Final[Mapping[str, Any]] = {"min": 0.0, "max": 1.0, "metavar": "SHARE"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=_EPILOG)
def main(
    sales: Annotated[int, typer.Option(min=1, help="How many records, copies and bad ones among them.")] = 300,
    rate: Annotated[
        float, typer.Option(min=0.0, help="Records per second; 0: as fast as they are acknowledged.")
    ] = 0.0,
    skus: Annotated[int, typer.Option("--skus", "--products", min=1, help="Of how many products.")] = 20,
    duplicates: Annotated[float, typer.Option(help="Exact copies of earlier sales.", **_SHARE)] = 0.0,
    conflicts: Annotated[float, typer.Option(help="Another sale under an earlier one's event_id.", **_SHARE)] = 0.0,
    bad: Annotated[float, typer.Option(help="What is no sale, of several kinds in turn.", **_SHARE)] = 0.0,
    without_id: Annotated[float, typer.Option(help="Of the other sales, those without an event_id.", **_SHARE)] = 0.0,
    wire_prefix: Annotated[bool, typer.Option("--wire-prefix", help="A schema registry's prefix before each.")] = False,
    bootstrap_servers: Annotated[str | None, typer.Option(help="Kafka's address.", show_default=False)] = None,
    topic: Annotated[str | None, typer.Option(help="Instead of SALES_TOPIC (sales_txn).", show_default=False)] = None,
    seed: Annotated[
        str | None,
        typer.Option(help="The same records every time, to the byte: sent again, no sale is new.", show_default=False),
    ] = None,
    json_summary: Annotated[bool, typer.Option("--json-summary", help="End stdout with one line of JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no summary, only problems.")] = False,
) -> None:
    """Send realistic synthetic sales to Kafka, with duplicates and bad messages on request."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it would say, ours say better
    try:
        if not math.isfinite(rate):
            raise ValueError("--rate is a number of records per second")
        mix = Mix(sales, skus, duplicates, conflicts, bad, without_id, wire_prefix)
        given = {"kafka_bootstrap_servers": bootstrap_servers, "sales_topic": topic}
        settings = load(SalesSettings, **{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except ConfigurationError as error:
        _say(error.message)
        raise typer.Exit(USAGE) from None
    end = SEEDED_END if seed is not None else datetime.now(UTC)
    told = story(mix, seed if seed is not None else str(time.time_ns()), end)
    tally = Tally()
    code = _sent(settings, told, rate, tally, _progress(tally, sales, quiet=quiet))
    if tally.problem:
        _say(tally.problem)
        if tally.under_way:
            _say(
                f"Whether {tally.under_way:,} more arrived is not known; with --seed the same sales may be sent again."
            )
    if not quiet:
        _summarise(settings, tally, mix, end)
    if json_summary:
        typer.echo(json.dumps(_as_json(settings, tally, mix, end)))
    raise typer.Exit(code)


def _sent(
    settings: SalesSettings, told: Iterable[Told], rate: float, tally: Tally, on_round: Callable[[], None]
) -> int:
    """The exit code."""
    try:
        asyncio.run(send(settings, told, rate, tally, on_round))
    except KeyboardInterrupt:
        tally.problem = "Interrupted."
        return INTERRUPTED
    except (BrokerUnavailable, RecordsRefused) as error:
        tally.problem = error.message + (f". {REMEDY}" if isinstance(error, BrokerUnavailable) else "")
        return FAILED
    except TimeoutError:
        where = settings.kafka_bootstrap_servers
        tally.problem = f"Kafka at {where} did not acknowledge within {ACK_SECONDS:g} s. {REMEDY}"
        return FAILED
    return DONE


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _progress(tally: Tally, records: int, *, quiet: bool) -> Callable[[], None]:
    told = time.monotonic()

    def progress() -> None:
        nonlocal told
        now = time.monotonic()
        if not quiet and now - told >= PROGRESS_SECONDS:
            told = now
            _say(f"{tally.sent:,} of {records:,} acknowledged")

    return progress


def _letters(tally: Tally) -> int:
    return tally.fates[Fate.CONFLICT] + tally.fates[Fate.BAD]


def _summarise(settings: SalesSettings, tally: Tally, mix: Mix, end: datetime) -> None:
    if not tally.sent:
        typer.echo(f"None of the {mix.records:,} records was acknowledged.")
        return
    fates, pace = tally.fates, tally.sent / tally.seconds if tally.seconds else 0.0
    typer.echo(f"{tally.sent:,} records sent to {settings.sales_topic} in {tally.seconds:.2f} s ({pace:,.0f}/s).")
    if tally.sent < mix.records:
        typer.echo(f"{mix.records - tally.sent:,} of the {mix.records:,} were not acknowledged.")
    for number, what in (
        (fates[Fate.STORED], "distinct sales, each to be stored once"),
        (fates[Fate.DUPLICATE], "duplicates of these, to be counted and not stored"),
        (fates[Fate.CONFLICT], "conflicts: another sale under an event_id of these"),
        (fates[Fate.BAD], "bad messages"),
        (_letters(tally), f"dead letters to be made, in topic {settings.dlq_topic}"),
    ):
        if number:
            typer.echo(f"  {number:>9,} {what}")
    if tally.sent == mix.records:
        begin = begins(mix, end)
        typer.echo(f"The sales were made from {rfc3339(begin)} to {rfc3339(end)}.")
    if fates[Fate.BAD] >= settings.consumer_breaker_share * tally.sent:
        typer.echo("So many bad messages may stop the pipeline: see CONSUMER_BREAKER_SHARE.")
    typer.echo(f"Next: see them stored:  curl http://localhost:{settings.sales_port}/stats")


def _as_json(settings: SalesSettings, tally: Tally, mix: Mix, end: datetime) -> dict[str, Any]:
    return {
        "asked": mix.records,
        "sent": tally.sent,
        **{fate.value: tally.fates[fate] for fate in Fate},
        "dead_letters": _letters(tally),
        "seconds": round(tally.seconds, 3),
        "from_ts": rfc3339(begins(mix, end)),
        "to_ts": rfc3339(end),
        "topic": settings.sales_topic,
        "dead_letter_topic": settings.dlq_topic,
        "problem": tally.problem or None,
    }


if __name__ == "__main__":
    app(prog_name="tools/send_sales.py")
