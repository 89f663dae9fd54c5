"""The error tree. Each class says whether trying the same thing again can help; a service maps classes to HTTP statuses.

PlatformError
├── InvalidEvent                the sender must change the event; never retriable
│   ├── MalformedBody           not JSON at all
│   ├── TooLarge                over a size, depth or width limit
│   └── Unstorable              valid JSON that no store of ours can hold (NUL, NaN, 2^64 …)
├── Unavailable                 retriable: nothing is wrong with the event
│   ├── BrokerUnavailable       Kafka did not acknowledge in time or cannot be reached
│   ├── DatabaseUnavailable     Postgres cannot be reached
│   └── Overloaded              too much is in flight
├── RecordsRefused              the broker will never take these records; nothing is wrong with the broker
├── UndecodableMessage          a record of a topic that is no event: a dead letter
├── DeadLetterFlood             so many are bad that the fault must be ours: nothing more is set aside
├── LogGap                      a log is not the one that was read, or lost unread records: somebody must decide
├── ClientBroken                a client library's background work has ended: only a new process mends it
├── SchemaMismatch              the database's schema is not one that this code knows
└── ConfigurationError          the operator must change a setting
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class PlatformError(Exception):
    """Root of the tree. ``code`` is stable and machine-readable; the message is for people and names the remedy."""

    code: ClassVar[str] = "internal_error"
    retriable: ClassVar[bool] = False

    def __init__(self, message: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidEvent(PlatformError):
    """The event breaks the documented form. ``reason`` is a closed set of labels, safe for metrics."""

    code: ClassVar[str] = "invalid_event"

    def __init__(self, message: str, *, reason: str | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, details=details)
        self.reason = reason or self.code


class MalformedBody(InvalidEvent):
    code: ClassVar[str] = "malformed_body"


class TooLarge(InvalidEvent):
    code: ClassVar[str] = "too_large"


class Unstorable(InvalidEvent):
    code: ClassVar[str] = "unstorable_value"


class Unavailable(PlatformError):
    """Try again after ``retry_after`` seconds."""

    code: ClassVar[str] = "unavailable"
    retriable: ClassVar[bool] = True

    def __init__(self, message: str, *, retry_after: int = 1, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, details=details)
        self.retry_after = retry_after


class BrokerUnavailable(Unavailable):
    code: ClassVar[str] = "broker_unavailable"


class RecordsRefused(PlatformError):
    """A batch that the broker refused for good; of one record, that one is at fault. ``records`` are the codec's."""

    code: ClassVar[str] = "refused_by_broker"

    def __init__(self, message: str, records: Sequence[Any]) -> None:
        super().__init__(message)
        self.records = records


class DatabaseUnavailable(Unavailable):
    """``sqlstate`` is PostgreSQL's code, None where the connection failed before it could say."""

    code: ClassVar[str] = "database_unavailable"

    def __init__(self, message: str, *, retry_after: int = 1, sqlstate: str | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.sqlstate = sqlstate


class Overloaded(Unavailable):
    code: ClassVar[str] = "overloaded"


class UndecodableMessage(PlatformError):
    """A record that is no event. ``reason``: one of not_json, invalid_event, unstorable_value, refused_by_store,
    overdue, conflict."""

    code: ClassVar[str] = "undecodable_message"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class DeadLetterFlood(PlatformError):
    code: ClassVar[str] = "dead_letter_flood"


class LogGap(PlatformError):
    code: ClassVar[str] = "log_gap"


class ClientBroken(PlatformError):
    code: ClassVar[str] = "client_broken"


class SchemaMismatch(PlatformError):
    code: ClassVar[str] = "schema_mismatch"


class ConfigurationError(PlatformError):
    code: ClassVar[str] = "configuration_error"
