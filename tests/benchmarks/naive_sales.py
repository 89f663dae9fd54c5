"""The baseline for sales: per message one ``insert_one``, then a commit to Kafka."""

from __future__ import annotations

import os
import time
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer
from pymongo import AsyncMongoClient

from event_consumer.sales.sales_event_pb2 import SalesEvent
from tests.benchmarks.mongo import COLLECTION


async def run() -> None:
    """Until the process is ended."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ["MONGODB_URL"])
    collection = client[os.environ["MONGODB_DATABASE"]][COLLECTION]
    consumer = AIOKafkaConsumer(
        os.environ["SALES_TOPIC"],
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        group_id=os.environ["SALES_GROUP_ID"],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    async for message in consumer:
        sale = SalesEvent.FromString(message.value)
        document = {"sku": sale.sku, "qty": sale.qty, "price": sale.price, "ts": sale.ts, "event_id": sale.event_id}
        await collection.insert_one({"_id": sale.event_id, **document, "processed_at": time.time()})
        await consumer.commit()


if __name__ == "__main__":
    uvloop.run(run())
