"""The baseline for the consumer: ``json.loads`` per message, ``executemany`` per 100 rows, then a commit to Kafka."""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer

BATCH = 100
INSERT = """
    insert into events (event_id, user_id, event_name, metadata, "timestamp", received_at, tenant_id, context)
    values ($1, $2, $3, $4, $5, $6, $7, $8)
    on conflict ("timestamp", event_id) do nothing
"""


def _row(event: dict[str, Any]) -> tuple[object, ...]:
    return (
        UUID(event["event_id"]),
        event["user_id"],
        event["event_name"],
        json.dumps(event["metadata"]),
        datetime.fromisoformat(event["timestamp"]),
        datetime.fromisoformat(event["received_at"]),
        event["tenant_id"],
        json.dumps(event["context"]),
    )


async def run() -> None:
    """Until the process is ended. A number of messages that ``BATCH`` does not divide leaves a rest unwritten."""
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    consumer = AIOKafkaConsumer(
        os.environ["KAFKA_TOPIC"],
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        group_id=os.environ["KAFKA_GROUP_ID"],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    rows: list[tuple[object, ...]] = []
    async for message in consumer:
        rows.append(_row(json.loads(message.value)))
        if len(rows) == BATCH:
            await connection.executemany(INSERT, rows)
            await consumer.commit()
            rows = []


if __name__ == "__main__":
    uvloop.run(run())
