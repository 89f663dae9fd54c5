"""Sales that are set aside, on their topic of dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID, uuid5

from event_consumer.dead_letter import DeadLetter, headers_of
from event_consumer.letters.outbox import Outbox
from event_core.clock import Clock
from event_core.codec import Record
from event_core.dead_letters import dead_letter_record
from event_core.errors import BrokerUnavailable
from event_core.settings import BrokerSettings

SOURCE: Final = "event_consumer_sales"
_NAMESPACE: Final = UUID("6a0f1f2e-6f0c-5d0e-8d0a-53a1e5d7c0de")


class Letters(Protocol):
    """Where letters are put for good."""

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        """Returns once all of them are kept. The same letter twice is told by its id.

        Raises:
            BrokerUnavailable: they are not, or not all.
        """


class LetterTopic:
    """Letters on a topic of Kafka, at least once each."""

    def __init__(self, settings: BrokerSettings, topic: str, clock: Clock) -> None:
        self._topic = topic
        self._clock = clock
        self._outbox = Outbox(settings)
        self._sending = asyncio.Lock()  # lanes send at the same time, and the producer is left after an error of one

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        now = self._clock()
        async with self._sending, self._outbox.in_time(len(letters)):
            refused = await self._outbox.send_letters(
                self._topic, len(letters), lambda place, max_bytes: letter_record(letters[place], now, max_bytes)
            )
        if refused:
            why = next(iter(refused.values()))
            raise BrokerUnavailable(f"topic {self._topic} takes {len(refused)} dead letters in no form: {why}")

    async def close(self) -> None:
        await self._outbox.close()


class MemoryLetters:
    """Letters for tests, by id. Set ``outage`` to make every call fail."""

    def __init__(self) -> None:
        self.kept: dict[UUID, DeadLetter] = {}
        self.outage: BrokerUnavailable | None = None

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        if self.outage is not None:
            raise self.outage
        self.kept.update({letter_id(letter): letter for letter in letters})


def letter_id(letter: DeadLetter) -> UUID:
    """Of a replayed sale its letter's; else of topic, partition, offset and record time, so that a record which is read again
    makes no second letter, and one of a topic made anew does."""
    at = letter.message_at
    return letter.dead_letter_id or uuid5(_NAMESPACE, f"{letter.topic}/{letter.partition}/{letter.offset}/{at}")


def letter_record(letter: DeadLetter, failed_at: datetime, max_bytes: int) -> Record:
    """``letter`` as a record of its topic."""
    return dead_letter_record(
        letter.value or b"",
        topic=letter.topic,
        reason=letter.reason,
        error=letter.error,
        stage=letter.stage,
        source=SOURCE,
        failed_at=failed_at,
        retry_count=letter.retry_count,
        key=letter.key,
        headers=headers_of(letter.headers),
        partition=letter.partition,
        offset=letter.offset,
        dead_letter_id=letter_id(letter),
        max_bytes=max_bytes,
    )
