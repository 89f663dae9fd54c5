"""``make kafka``: what the documents tell an operator to type where there is no Docker."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.process import ROOT
from tests.support.sales import encoded
from tests.support.selling import Sales
from tests.support.wait import until

pytestmark = pytest.mark.integration


def kafka(sales: Sales, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": sales.servers}
    command = ["tools/kafka.sh", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", timeout=120, check=False
    )


def test_the_offsets_of_sales_are_set_anew_and_nothing_is_stored_twice(sales: Sales) -> None:
    """The remedy that the sales' document gives for a gap."""
    service = sales.start(KAFKA_GROUP_INSTANCE_ID="")
    sales.put([encoded(event_id=str(number)) for number in range(10)])
    until("10 documents", lambda: sales.count() == 10)
    assert service.stop() == 0
    reset = ("--reset-offsets", "--to-earliest", "--execute")
    done = kafka(sales, "consumer-groups", "--group", sales.settings["SALES_GROUP_ID"], "--topic", sales.topic, *reset)
    assert done.returncode == 0, done.stderr
    assert sales.topic in done.stdout
    assert sales.committed() == {}
    service = sales.start()
    until("they are read again", lambda: service.metric("sales_events_processed_total", status="duplicate") == 10)
    assert sales.count() == 10


def test_dead_letters_of_sales_are_shown_with_their_reason(sales: Sales) -> None:
    sales.start()
    sales.put([encoded(qty=0)])
    sales.letters(1)
    options = ("--from-beginning", "--timeout-ms", "5000", "--formatter-property", "print.headers=true")
    shown = kafka(sales, "console-consumer", "--topic", sales.dlq_topic, *options)
    assert "invalid_sale" in shown.stdout, shown.stderr
    assert "qty: " in shown.stdout


def test_a_wrong_name_lists_the_tools(sales: Sales) -> None:
    done = kafka(sales, "nonsense")
    assert done.returncode == 2
    assert "topics|consumer-groups|console-consumer" in done.stderr
