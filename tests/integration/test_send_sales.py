"""``tools/send_sales.py`` on a real Kafka: what it says it sent is in the topic."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from event_consumer.sales.rows import to_row
from event_core.topics import partition_for
from tests.support.backend import Backend
from tests.support.topics import Record, scan
from tools.sales_story import SEEDED_END, Fate, Mix, story

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).parents[2] / "tools" / "send_sales.py"
PARTITIONS = 3


def started(backend: Backend, topic: str, *arguments: str) -> subprocess.Popen[str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), "--topic", topic, "--json-summary", *arguments],
        cwd=SCRIPT.parent,
        env={**inherited, "KAFKA_BOOTSTRAP_SERVERS": backend.kafka, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sent(backend: Backend, topic: str, *arguments: str, code: int = 0) -> Any:
    """The summary."""
    with started(backend, topic, *arguments) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return json.loads(output.splitlines()[-1])


def in_topic(backend: Backend, topic: str) -> list[Record]:
    found: list[Record] = []
    scan(backend.kafka, topic, found.append)
    return found


def test_the_records_arrive_as_foretold_and_again_with_the_same_seed(backend: Backend) -> None:
    topic = f"sales-{uuid.uuid4().hex[:8]}"
    asked = ("--sales=2500", "--duplicates=0.1", "--conflicts=0.02", "--bad=0.02", "--without-id=0.2", "--seed=7")
    summary = sent(backend, topic, *asked)
    mix = Mix(records=2_500, duplicates=0.1, conflicts=0.02, bad=0.02, without_id=0.2)
    wanted = list(story(mix, "7", SEEDED_END))
    fates = Counter(one.fate for one in wanted)
    assert summary["sent"] == 2_500
    assert {fate: summary[fate] for fate in Fate} == fates
    assert summary["dead_letters"] == fates[Fate.CONFLICT] + fates[Fate.BAD]

    found = in_topic(backend, topic)
    for number in range(PARTITIONS):
        here = [one for one in wanted if partition_for(one.record.key, PARTITIONS) == number]
        assert [(r.key, r.value) for r in found if r.partition == number] == [
            (one.record.key, one.record.value) for one in here
        ]
    stored = {to_row(one.record.value, 0.0).sale_id for one in wanted if one.fate is Fate.STORED}
    assert len(stored) == fates[Fate.STORED]

    assert sent(backend, topic, *asked)["sent"] == 2_500
    twice = in_topic(backend, topic)
    assert Counter((r.key, r.value) for r in twice) == Counter((r.key, r.value) for r in [*found, *found])


def test_a_rate_is_kept_and_an_interruption_tells_what_was_sent(backend: Backend) -> None:
    topic = f"sales-{uuid.uuid4().hex[:8]}"
    with started(backend, topic, "--sales=100000", "--rate=200") as process:
        assert process.stderr is not None
        first = process.stderr.readline()  # of its progress, after some seconds
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert "of 100,000 acknowledged" in first, first + errors
    assert process.returncode == 130
    assert "Traceback" not in errors
    summary = json.loads(output.splitlines()[-1])
    assert 0 < summary["sent"] <= len(in_topic(backend, topic)) < 100_000
    assert summary["sent"] <= 200 * summary["seconds"] + 200
    assert "were not acknowledged" in output
