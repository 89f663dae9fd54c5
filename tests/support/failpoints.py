"""The event consumer, real but for one place where a fault is put in: ``python -m tests.support.failpoints [sales] <failpoint>``.

It takes the consumer's settings, and is run in its stead (``Service.run``).
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from event_consumer.dead_letter import DeadLetter
from event_consumer.events.store import PostgresStore
from event_consumer.sales.collection import Document, MongoCollection
from event_consumer.sales.letters import LetterTopic
from event_core.errors import DatabaseUnavailable
from event_core.kafka.consumer import KafkaSource

BEFORE_KAFKAS_COMMIT = "before-kafkas-commit"
"""Killed when batches are committed in Postgres and Kafka is about to be told."""
AFTER_THE_DATABASES_COMMIT = "after-the-databases-commit"
"""Killed when a batch is committed in Postgres and the loop does not know it yet."""
ANSWERS_LOST = "answers-lost"
"""Not killed: of every third batch the answer to the commit is lost on its way from Postgres."""

AFTER_THE_DOCUMENTS = "after-the-documents"
"""Killed when a batch's sales are in MongoDB and the loop does not know it yet."""
AFTER_THE_LETTERS = "after-the-letters"
"""Killed when a batch's dead letters are on their topic and no offset is committed."""
DOCUMENTS_ANSWERS_LOST = "documents-answers-lost"
"""Not killed: of every third insertion the answer is lost on its way from MongoDB."""

_write = PostgresStore.write
_insert = MongoCollection.insert
_send = LetterTopic.send


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _commit(source: KafkaSource, offsets: object) -> None:
    _die()


async def _write_and_die(store: PostgresStore, *batch: Any) -> None:
    await _write(store, *batch)
    _die()


async def _insert_and_die(collection: MongoCollection, documents: Sequence[Document]) -> None:
    await _insert(collection, documents)
    _die()


async def _send_and_die(topic: LetterTopic, letters: Sequence[DeadLetter]) -> None:
    await _send(topic, letters)
    _die()


def _lossy(write: Callable[..., Any]) -> Callable[..., Any]:
    writes = 0

    async def lossy(*arguments: Any) -> Any:
        nonlocal writes
        writes += 1
        outcome = await write(*arguments)
        if writes % 3 == 0:
            raise DatabaseUnavailable("the connection broke after the commit was sent", retry_after=1)
        return outcome

    return lossy


FAILPOINTS: dict[str, tuple[type, str, Callable[..., Any]]] = {
    BEFORE_KAFKAS_COMMIT: (KafkaSource, "commit", _commit),
    AFTER_THE_DATABASES_COMMIT: (PostgresStore, "write", _write_and_die),
    ANSWERS_LOST: (PostgresStore, "write", _lossy(_write)),
    AFTER_THE_DOCUMENTS: (MongoCollection, "insert", _insert_and_die),
    AFTER_THE_LETTERS: (LetterTopic, "send", _send_and_die),
    DOCUMENTS_ANSWERS_LOST: (MongoCollection, "insert", _lossy(_insert)),
}


if __name__ == "__main__":
    owner, method, instead = FAILPOINTS[sys.argv.pop()]
    setattr(owner, method, instead)
    runpy.run_module("event_consumer", run_name="__main__", alter_sys=True)
