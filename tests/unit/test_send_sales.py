"""The sales that ``tools/send_sales.py`` makes: that the pipeline finds in each what was foretold, and what a user is told."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.batch import Batch
from event_consumer.breaker import Breaker
from event_consumer.sales.collection import MemoryCollection
from event_consumer.sales.letters import MemoryLetters
from event_consumer.sales.rows import SaleRow, decoder, to_row
from event_consumer.sales.store import SalesStore
from event_consumer.sales.wire import read_sale
from event_core.clock import utc_now
from event_core.errors import UndecodableMessage
from event_core.source import FakeMessage
from event_core.topics import TopicPartition, partition_for
from tools.sales_story import BADS, SEEDED_END, WIRE_PREFIX, Fate, Mix, Told, story
from tools.send_sales import DONE, FAILED, USAGE

SCRIPT = Path(__file__).parents[2] / "tools" / "send_sales.py"
PARTITIONS = 3

shares = st.floats(0, 0.24)  # of four records one is stored still
mixes = st.builds(
    Mix,
    records=st.integers(4, 120),
    skus=st.integers(1, 12),
    duplicates=shares,
    conflicts=shares,
    bad=shares,
    without_id=st.floats(0, 0.49),
    wire_prefix=st.booleans(),
)


def told(mix: Mix, seed: str = "a") -> list[Told]:
    return list(story(mix, seed, SEEDED_END))


def documents(records: Iterable[Told]) -> list[SaleRow]:
    return [to_row(record.value, 0.0) for record, fate in records if fate is not Fate.BAD]


@given(mixes)
def test_each_share_is_met_to_the_nearest_record(mix: Mix) -> None:
    found = Counter(fate for _, fate in told(mix))
    assert found.total() == mix.records
    for fate, share in (
        (Fate.DUPLICATE, mix.duplicates),
        (Fate.CONFLICT, mix.conflicts),
        (Fate.BAD, mix.bad),
    ):
        assert abs(found[fate] - mix.records * share) <= 0.5
    stored = [record for record in told(mix) if record.fate is Fate.STORED]
    anonymous = sum(row.sale_id != _named(record) for record, row in zip(stored, documents(stored), strict=True))
    assert abs(anonymous - len(stored) * mix.without_id) <= 0.5


def _named(one: Told) -> str:
    """The event_id that the sale was sent with."""
    return read_sale(one.record.value).event_id


@given(mixes, st.text(max_size=5))
def test_a_seed_tells_the_same_story_and_another_seed_another(mix: Mix, seed: str) -> None:
    assert told(mix, seed) == told(mix, seed)
    assert told(mix, seed) != told(mix, seed + "x")


@given(mixes)
def test_the_store_does_with_each_record_what_was_foretold(mix: Mix) -> None:
    """Through the pipeline's own decoder and store, partition by partition, in the order of the topic."""
    by_partition: dict[int, list[Told]] = {}
    for one in told(mix):
        by_partition.setdefault(partition_for(one.record.key, PARTITIONS), []).append(one)
    collection, letters = MemoryCollection(), MemoryLetters()
    store = SalesStore(collection, letters, _NoOffsets(), Breaker(1))
    decode = decoder(utc_now)
    duplicates = 0
    foretold: Counter[Fate] = Counter()
    for partition, records in by_partition.items():
        foretold.update(one.fate for one in records)
        batch: Batch[SaleRow] = Batch(max_records=len(records), max_age=0, max_bytes=1 << 30)
        messages = [
            FakeMessage("sales", partition, offset, one.record.value, one.record.key)
            for offset, one in enumerate(records)
        ]
        items, dead = decode(messages)
        batch.add(TopicPartition("sales", partition), messages, items, dead, now=0.0)
        written = asyncio.run(store.write(batch, {}))
        duplicates += written.duplicates  # type: ignore[union-attr]  # nobody takes the fence of a fake
        bad = {offset for offset, one in enumerate(records) if one.fate in (Fate.BAD, Fate.CONFLICT)}
        assert {letter.offset for letter in letters.kept.values() if letter.partition == partition} == bad
    assert len(collection.documents) == foretold[Fate.STORED]
    assert duplicates == foretold[Fate.DUPLICATE]
    assert {one["_id"] for one in collection.documents.values()} == {
        row.sale_id for row in documents(one for one in told(mix) if one.fate is Fate.STORED)
    }


class _NoOffsets:
    async def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {}

    async def commit(self, offsets: object) -> bool:
        return True


@pytest.mark.parametrize("prefix", [False, True])
def test_every_kind_of_bad_message_is_refused_and_differs(prefix: bool) -> None:
    mix = Mix(records=2 * len(BADS), bad=1.0, wire_prefix=prefix)
    reasons = []
    for one in told(mix):
        with pytest.raises(UndecodableMessage) as caught:
            to_row(one.record.value, 0.0)
        reasons.append(caught.value.message.split("(got")[0])
    assert len(set(reasons)) == len(BADS)


def test_the_prefix_stands_before_what_would_be_sent_without_it() -> None:
    plain, prefixed = told(Mix(records=50)), told(Mix(records=50, wire_prefix=True))
    assert [one.record.value for one in prefixed] == [WIRE_PREFIX + one.record.value for one in plain]


def test_sales_are_realistic() -> None:
    """Some products sell often, small quantities prevail, prices are those of the products, times go on to the end."""
    rows = [row.document for row in documents(told(Mix(records=2_000)))]
    by_sku = Counter(row["sku"] for row in rows).most_common()
    assert len(by_sku) == 20
    assert by_sku[0][1] > 5 * by_sku[-1][1]
    assert Counter(row["qty"] for row in rows).most_common(1)[0][0] == 1
    assert all(0 < row["price"] < 10_000 and round(row["price"], 2) == row["price"] for row in rows)
    times = [datetime.fromisoformat(row["ts"]) for row in rows]
    assert times == sorted(times)
    assert 0 <= (SEEDED_END - times[-1]).total_seconds() < 1


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"records": 0}, "at least one"),
        ({"bad": 1.1}, "--bad"),
        ({"without_id": float("nan")}, "--without-id"),
        ({"duplicates": 0.6, "bad": 0.6}, "more than all"),
        ({"duplicates": 1.0}, "--duplicates"),
        ({"conflicts": 0.5, "without_id": 1.0}, "--conflicts"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(asked: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Mix(**asked)


def test_a_million_records_need_no_memory_for_all() -> None:
    """The first ones come at once, and are those of the share that was asked for."""
    beginning = story(Mix(records=10**9, duplicates=0.5), "a", datetime(2026, 1, 1, tzinfo=UTC))
    fates = Counter(next(beginning).fate for _ in range(2_000))
    assert 800 < fates[Fate.DUPLICATE] < 1_200


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=SCRIPT.parent,  # a developer's .env must not be read
        env={**inherited, "COLUMNS": "200", **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_kafka_it_says_how_to_start_it(tmp_path: Path) -> None:
    done = run("--json-summary", "--quiet", KAFKA_BOOTSTRAP_SERVERS="localhost:1")
    assert done.returncode == FAILED
    assert "localhost:1 does not answer" in done.stderr
    assert "make up" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["sent"] == 0


@pytest.mark.parametrize(
    ("arguments", "settings", "named"),
    [
        (["--sales", "0"], {}, "--sales"),
        (["--bad", "2"], {}, "--bad"),
        (["--duplicates", "1"], {}, "--duplicates"),
        (["--rate", "inf"], {}, "--rate"),
        (["--topic", "a b"], {}, "topic"),
        ([], {"KAFKA_TOPIC": "events"}, "SALES_TOPIC"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], settings: dict[str, str], named: str) -> None:
    done = run(*arguments, **settings)
    assert done.returncode == USAGE
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_help_tells_every_option() -> None:
    done = run("--help")
    assert done.returncode == DONE
    for option in ("--duplicates", "--conflicts", "--bad", "--without-id", "--wire-prefix", "--seed", "--products"):
        assert option in done.stdout
