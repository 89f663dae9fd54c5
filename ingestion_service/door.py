"""What happens to validated events, whichever form they came in: deduplicated, encoded, made durable, counted; and to those that
were refused: kept as dead letters."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from event_core.clock import Clock
from event_core.codec import Headers, Record, encode
from event_core.dead_letters import HEADER_DEAD_LETTER_ID, STAGE_REFUSED, dead_letter_record
from event_core.errors import InvalidEvent, PlatformError, TooLarge, Unavailable
from event_core.telemetry import get_logger
from ingestion_service.deduplication import Window
from ingestion_service.delivery import Delivery, Stored
from ingestion_service.errors import Conflict
from ingestion_service.failures import Failures
from ingestion_service.fates import Fate, Fates, Kept
from ingestion_service.forms import Accepted, Form, Refused
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import Publisher
from ingestion_service.settings import IngestionSettings

log = get_logger(__name__)

HEADER_BYTES = 1_000
"""More than the key (256 characters) and the headers of any of our records take beside its value."""
NO_HEADERS: Headers = []


class Ticket(NamedTuple):
    """One event on its way."""

    event_id: bytes
    duplicate: bool
    delivery: Delivery


class Door:
    """Shared by every endpoint that takes events."""

    def __init__(self, settings: IngestionSettings, publisher: Publisher, metrics: Metrics, clock: Clock) -> None:
        self._publisher = publisher
        self._metrics = metrics
        self._clock = clock
        self._window = Window(settings.ingestion_dedupe_events, settings.ingestion_dedupe_minutes * 60)
        self._failures = Failures()
        self._most_failures = settings.kafka_max_retries
        self._most_bytes = settings.ingestion_max_event_bytes
        self._topics = {Form.EVENT: settings.kafka_topic, Form.PRODUCT: settings.kafka_product_topic}
        self._dlq = settings.dlq_topic
        self._service = settings.service_name

    # --- one event

    def admit(self, accepted: Accepted, traceparent: str | None) -> Ticket:
        """Puts the event on its way; ``finish`` waits for it. In two steps, so that nobody holds the body while waiting.

        Raises:
            InvalidEvent: it cannot be stored as it is (Conflict: its id was acknowledged with other content).
            Unavailable: it could not be made durable now.
        """
        content = accepted.content
        if content is not None:
            number = accepted.event["event_id"].int
            self._window.turn(time.monotonic())
            seen = self._window.find(number)
            if seen is not None:
                if seen.content != content:
                    raise _conflict()
                return Ticket(str(accepted.event["event_id"]).encode(), True, seen.delivery)
        topic = self._topics[accepted.form]
        record = _encoded(accepted, traceparent, self._most(topic))
        delivery = self._publisher.publish(topic, (record,))[0]
        if content is not None:
            self._window.add(number, content, delivery)
        return Ticket(record.headers[0][1], False, delivery)

    async def finish(self, ticket: Ticket) -> Stored:
        """Where the event is, once it is durable. Raises Unavailable."""
        try:
            stored = await ticket.delivery.wait()
        except asyncio.CancelledError:
            if not ticket.duplicate:
                self._note_unheard((ticket.delivery,))
            raise
        if ticket.duplicate:
            self._metrics.duplicates.inc()
        else:
            self._metrics.accepted.inc(1, stored)
        return stored

    def _most(self, topic: str) -> int:
        """Bytes of the largest value that the settings and ``topic`` allow."""
        return min(self._most_bytes, self._publisher.largest(topic) - HEADER_BYTES)

    # --- a batch

    async def take_all(
        self,
        items: Iterable[Accepted | Refused],
        traceparent: str | None,
        original: Callable[[int], bytes],
        *,
        verbose: bool = False,
        keep: bool = True,
    ) -> Fates:
        """Returns once each event is durable or refused. ``items`` are read once, one at a time; ``original`` gives the bytes of
        event i as they were sent. Without ``keep`` nothing is kept of what is refused.

        Raises:
            Unavailable: nothing of the batch was taken.
        """
        found = self._sort_out(items, traceparent, original)
        records, places = found.records, found.places
        try:
            deliveries = self._publisher.publish(self._topics[Form.EVENT], records) if records else []
        except Unavailable as error:
            self._metrics.unavailable.inc(len(records), error.code)
            raise
        for number, (content, position) in found.own.items():
            self._window.add(number, content, deliveries[position])
        copies = found.copies + [(index, event_id, deliveries[position]) for index, event_id, position in found.twins]
        for item in found.refused:
            self._metrics.rejected.inc(1, item.error.reason)
        waited = {*deliveries, *(delivery for _, _, delivery in copies)}
        try:
            kept = await self._keep(found.refused) if keep else Kept([], 0, 0)
            for delivery in waited:
                with contextlib.suppress(PlatformError):  # each event's fate is told below
                    await delivery.wait()
        except BaseException:
            self._note_unheard(deliveries)
            raise
        odd = [Fate(item.index, item.event_id, item.error) for item in found.refused]
        odd += [Fate(index, event_id, _problem(delivery)) for index, event_id, delivery in copies]
        if any(isinstance(delivery.outcome, PlatformError) for delivery in waited):
            odd += [
                Fate(index, _id_in(record), problem)
                for index, record, delivery in zip(places, records, deliveries, strict=True)
                if (problem := _problem(delivery)) is not None
            ]
        odd.sort(key=lambda fate: fate.index)
        plain = {}
        if verbose:
            strange = {fate.index for fate in odd}
            plain = {
                index: _id_in(record) for index, record in zip(places, records, strict=True) if index not in strange
            }
        self._count(deliveries, copies)
        total = len(records) + len(copies) + len(found.refused)
        partitions = {delivery.partition if delivery.outcome is Stored.KAFKA else None for delivery in waited}
        return Fates(
            total=total,
            accepted=total - sum(fate.error is not None for fate in odd),
            odd=odd,
            plain=plain,
            partition=partitions.pop() if len(partitions) == 1 else None,
            spooled=any(delivery.outcome is Stored.DISK for delivery in {*deliveries}),
            kept=kept,
        )

    def _sort_out(
        self, items: Iterable[Accepted | Refused], traceparent: str | None, original: Callable[[int], bytes]
    ) -> _Sorted:
        window, most = self._window, self._most(self._topics[Form.EVENT])
        window.turn(time.monotonic())
        found = _Sorted([], [], {}, [], [], [])
        records, places, own = found.records, found.places, found.own
        for index, item in enumerate(items):
            if isinstance(item, Refused):
                found.refused.append(item)
                continue
            event_id, content = item.event["event_id"], item.content
            try:
                if content is not None:
                    if (seen := window.find(event_id.int)) is not None:
                        if seen.content != content:
                            raise _conflict()
                        found.copies.append((index, str(event_id), seen.delivery))
                        continue
                    if (mine := own.get(event_id.int)) is not None:
                        if mine[0] != content:
                            raise _conflict()
                        found.twins.append((index, str(event_id), mine[1]))
                        continue
                record = _encoded(item, traceparent, most)
            except InvalidEvent as error:
                named = str(event_id) if content is not None else None
                found.refused.append(Refused(index, named, original(index), error))
                continue
            if content is not None:
                own[event_id.int] = (content, len(records))
            records.append(record)
            places.append(index)
        return found

    def _count(self, deliveries: Iterable[Delivery], copies: Sequence[tuple[int, str, Delivery]]) -> None:
        outcomes = Counter(delivery.outcome for delivery in deliveries)
        for outcome, events in outcomes.items():
            if isinstance(outcome, Stored):
                self._metrics.accepted.inc(events, outcome)
            elif isinstance(outcome, PlatformError):
                self._metrics.unavailable.inc(events, outcome.code)
        if copies:
            self._metrics.duplicates.inc(sum(isinstance(delivery.outcome, Stored) for _, _, delivery in copies))

    def _note_unheard(self, deliveries: Iterable[Delivery]) -> None:
        """Nobody waits for the events any more, a delivery each; they are stored all the same."""

        def note(outcome: Stored | PlatformError) -> None:
            if isinstance(outcome, Stored):
                self._metrics.unheard.inc(1, "gone")

        for delivery in deliveries:
            delivery.then(note)

    # --- refused events

    async def _keep(self, refused: Sequence[Refused], form: Form = Form.EVENT, headers: Headers = NO_HEADERS) -> Kept:
        """Makes dead letters of them; what was refused too often goes to quarantine once, and is only counted from then on."""
        names: list[str] = []
        letters: list[Record] = []
        kept: list[bytes] = []
        quarantined = known = 0
        for item in refused:
            failures = self._failures.note(item.raw)
            letter = self._letter(item, failures, form, headers)
            if failures > self._most_failures > 0:
                known += 1
                continue
            if failures == self._most_failures > 0 and await self._publisher.quarantine(
                letter, item.error.reason, item.error.message, failures
            ):
                quarantined += 1
                continue  # else there is no room, or no disk: it is a dead letter once more
            kept.append(item.raw)
            names.append(item.event_id or dict(letter.headers)[HEADER_DEAD_LETTER_ID].decode())
            letters.append(letter)
        if not letters:
            return Kept([], quarantined, known)
        try:
            for delivery in set(self._publisher.publish(self._dlq, letters)):
                await delivery.wait()
        except PlatformError as error:
            log.warning("refused events could not be kept", events=len(letters), problem=error.message)
            for raw in kept:
                self._failures.take_back(raw)
            return Kept([], quarantined, known, len(letters))
        self._metrics.dead_letters.inc(len(letters))
        return Kept(names, quarantined, known)

    def _letter(self, item: Refused, failures: int, form: Form, headers: Headers) -> Record:
        return dead_letter_record(
            item.raw,
            topic=self._topics[form],
            reason=item.error.reason,
            error=item.error.message,
            stage=STAGE_REFUSED,
            source=self._service,
            failed_at=self._clock(),
            retry_count=failures,
            headers=headers,
        )

    async def keep_one(self, refused: Refused, form: Form, headers: Headers) -> None:
        """Keeps one refused event as a dead letter; ``headers`` are what else was sent of it."""
        await self._keep([refused], form, headers)


def _encoded(accepted: Accepted, traceparent: str | None, most: int) -> Record:
    record = encode(accepted.event, traceparent)
    if len(record.value) > most:
        raise TooLarge(
            f"the event is larger than {most:,} bytes once encoded: send less of it, or several",
            reason="event_too_large",
        )
    return record


def _conflict() -> Conflict:
    return Conflict(
        "this event_id was accepted before with other content: give a new event a new event_id. Both are kept, this one as "
        "a dead letter",
        reason="conflict",
    )


def _id_in(record: Record) -> str:
    return record.headers[0][1].decode()


def _problem(delivery: Delivery) -> PlatformError | None:
    return delivery.outcome if isinstance(delivery.outcome, PlatformError) else None


class _Sorted(NamedTuple):
    """A batch, sorted by what is to be done."""

    records: list[Record]
    places: list[int]
    """Of each record: the index of its event."""
    own: dict[int, tuple[int, int]]
    """Event ids that the client gave -> content, position among the records."""
    copies: list[tuple[int, str, Delivery]]
    """Index and id of events that came before this batch."""
    twins: list[tuple[int, str, int]]
    """Index and id of events that come twice in it, and the position of the first among the records."""
    refused: list[Refused]
