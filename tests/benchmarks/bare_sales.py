"""The server's own ceiling for sales: two writers insert documents that are ready in memory, and do nothing else.

Prints one line of JSON: the seconds from the first insert to the last acknowledgement, and this process's CPU seconds meanwhile.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pymongo import MongoClient

from event_consumer.sales.rows import to_row
from tests.benchmarks.mongo import COLLECTION, prepared
from tests.benchmarks.sales_topic import plain_story

WRITERS = 2


def run() -> None:
    """Of the settings MONGODB_URL, MONGODB_DATABASE, BATCH_SIZE and SALES."""
    size, sales = int(os.environ["BATCH_SIZE"]), int(os.environ["SALES"])
    now = time.time()
    documents = [to_row(one.record.value, now).document for one in plain_story(sales)]
    batches = [documents[first : first + size] for first in range(0, sales, size)]
    with MongoClient[dict[str, Any]](os.environ["MONGODB_URL"]) as client:
        collection = prepared(client, os.environ["MONGODB_DATABASE"])[COLLECTION]

        def write(number: int) -> None:
            for batch in batches[number::WRITERS]:
                collection.insert_many(batch, ordered=False)

        with ThreadPoolExecutor(WRITERS) as pool:
            began, used = time.perf_counter(), time.process_time()
            list(pool.map(write, range(WRITERS)))
            figures = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    print(json.dumps(figures))


if __name__ == "__main__":
    run()
