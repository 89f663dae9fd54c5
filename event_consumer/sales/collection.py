"""The collection that sales are stored in: the interface, MongoDB's, and the fake that ships beside it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from prometheus_client import Counter
from pymongo import ASCENDING, AsyncMongoClient, IndexModel, ReadPreference
from pymongo.errors import BulkWriteError, ConnectionFailure, OperationFailure, PyMongoError, WTimeoutError
from pymongo.write_concern import WriteConcern

from event_consumer import __version__
from event_consumer.sales.settings import SalesSettings
from event_consumer.sales.verdict import DUPLICATE, judge
from event_consumer.verdict import Verdict
from event_core.errors import ConfigurationError, DatabaseUnavailable

Document = dict[str, Any]

INDEXES: Final = (
    # With MongoDB's own names: those that somebody made before are the same then.
    IndexModel([("event_id", ASCENDING)], unique=True),
    IndexModel([("sku", ASCENDING), ("ts", ASCENDING)]),
)
FIND_IDS: Final = 1_000
"""Identities in one question: a question is a document, and those have a limit of 16 MB."""
PING_SECONDS: Final = 1.5
"""Who asks for the service's health waits little longer."""
CLOSE_SECONDS: Final = 3.0
INDEX_CONFLICTS: Final = frozenset({85, 86})
"""IndexOptionsConflict, IndexKeySpecsConflict."""
DURABLE: Final = WriteConcern(w="majority", j=True)


class Refusal(NamedTuple):
    """A document that was not inserted. ``place``: of those given, from 0; ``code`` is MongoDB's."""

    place: int
    code: int
    message: str


class Facts(NamedTuple):
    """What the server says of itself. ``documents`` is its estimate."""

    version: str
    documents: int


class Collection(Protocol):
    """Documents by their ``_id``, which is also their ``event_id``.

    Every call may raise DatabaseUnavailable: whether anything was written is not known then; and ConfigurationError: an operator
    must see to it.
    """

    async def prepare(self) -> None:
        """Makes the indexes that are missing."""

    async def insert(self, documents: Sequence[Document]) -> list[Refusal]:
        """Inserts all it can, each on its own; returns once what it inserted is durable."""

    async def find(self, ids: Sequence[str]) -> dict[str, Document]:
        """The documents that hold any of ``ids``, by ``event_id``."""


class MongoCollection:
    """A collection of MongoDB, with a client of its own."""

    name = "mongodb"

    def __init__(self, settings: SalesSettings, writes: Counter) -> None:
        """``writes`` counts the bulk writes by status: success, partial, error.

        Raises:
            ConfigurationError: the connection string, or a name, cannot be used.
        """
        self._writes = writes
        milliseconds = int(settings.mongodb_timeout_seconds * 1000)
        try:
            self._client: AsyncMongoClient[Document] = AsyncMongoClient(
                settings.mongodb_url,
                appname=f"event_consumer_sales/{__version__}",
                connectTimeoutMS=min(5_000, milliseconds),
                serverSelectionTimeoutMS=min(5_000, milliseconds),
                socketTimeoutMS=milliseconds,  # a server that is frozen answers nothing, and TCP would wait for hours
            )
            # What was refused as a duplicate is read back: a secondary might not have it yet.
            self._documents = self._client.get_database(settings.mongodb_database).get_collection(
                settings.mongodb_collection, write_concern=DURABLE, read_preference=ReadPreference.PRIMARY
            )
        except (PyMongoError, ValueError, OSError) as error:  # its text may quote a password
            raise ConfigurationError(
                f"MONGODB_URL, MONGODB_DATABASE or MONGODB_COLLECTION cannot be used ({type(error).__name__}): percent-encode"
                " what is special in the user's name and password, and see to the options and names"
            ) from None

    async def prepare(self) -> None:
        with _translated():
            try:
                await self._documents.create_indexes(list(INDEXES))
            except OperationFailure as error:
                if error.code in DUPLICATE:
                    raise ConfigurationError(
                        f"{self._documents.full_name} holds documents of the same event_id, so no unique index can be made:"
                        f" remove them, or set MONGODB_COLLECTION to another collection ({error.details or error})"
                    ) from error
                if error.code in INDEX_CONFLICTS:
                    raise ConfigurationError(
                        f"{self._documents.full_name} has an index that is in the way of ours ({error}): drop it, or set"
                        " MONGODB_COLLECTION to another collection"
                    ) from error
                raise

    async def insert(self, documents: Sequence[Document]) -> list[Refusal]:
        status = "error"
        try:
            refusals = await self._insert(documents)
            status = "partial" if refusals else "success"
        finally:
            self._writes.labels(status).inc()
        return refusals

    async def _insert(self, documents: Sequence[Document]) -> list[Refusal]:
        with _translated():
            try:
                await self._documents.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                if concerns := error.details.get("writeConcernErrors"):
                    raise DatabaseUnavailable(f"MongoDB did not make a write durable: {concerns[0]}") from error
                return [
                    Refusal(one["index"], int(one["code"]), str(one.get("errmsg", "")))
                    for one in error.details["writeErrors"]
                ]
        return []

    async def find(self, ids: Sequence[str]) -> dict[str, Document]:
        found: dict[str, Document] = {}
        with _translated():
            for first in range(0, len(ids), FIND_IDS):
                chosen = {"event_id": {"$in": list(ids[first : first + FIND_IDS])}}
                found |= {document["event_id"]: document async for document in self._documents.find(chosen)}
        return found

    async def facts(self) -> Facts:
        """Asks the server. Raises DatabaseUnavailable."""
        with _translated():
            server = await self._client.server_info()
            return Facts(str(server["version"]), await self._documents.estimated_document_count())

    async def ping(self) -> None:
        """Raises DatabaseUnavailable where the server does not answer."""
        with _translated():
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._client.admin.command("ping")
            except TimeoutError:
                raise DatabaseUnavailable(f"MongoDB does not answer within {PING_SECONDS:g} s") from None

    async def close(self) -> None:
        """Ends within some seconds, whatever the server does."""
        closing = asyncio.create_task(self._client.close())
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        if not closing.done():
            closing.cancel()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Errors that waiting mends as DatabaseUnavailable, those that an operator must mend as ConfigurationError."""
    try:
        yield
    except (ConnectionFailure, WTimeoutError) as error:
        raise DatabaseUnavailable(f"MongoDB does not answer: {error}") from error
    except OperationFailure as error:
        verdict = judge(error.code)
        if verdict is Verdict.WAIT:
            raise DatabaseUnavailable(f"MongoDB cannot do it now: {error}") from error
        raise ConfigurationError(f"MongoDB refuses: {error}; see to MONGODB_URL and to its user's rights") from error
    except PyMongoError as error:  # a name that no resolver knows, say
        raise DatabaseUnavailable(f"MongoDB cannot be reached: {error}") from error


class MemoryCollection:
    """A collection for tests. Set ``outage`` to make every call fail, ``refuses`` to make SKUs unwelcome (by MongoDB's code), and
    ``lose_answers`` to how many inserts' answers are lost although they were done."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.outage: DatabaseUnavailable | None = None
        self.refuses: Mapping[str, int] = {}
        self.lose_answers = 0
        self.inserts = 0

    async def prepare(self) -> None:
        self._reach()

    async def insert(self, documents: Sequence[Document]) -> list[Refusal]:
        self._reach()
        self.inserts += 1
        refusals = []
        for index, document in enumerate(documents):
            if (code := self.refuses.get(document["sku"])) is not None:
                refusals.append(Refusal(index, code, "refused"))
            elif document["_id"] in self.documents:
                refusals.append(Refusal(index, 11000, "E11000 duplicate key error"))
            else:
                self.documents[document["_id"]] = dict(document)
        if self.lose_answers:
            self.lose_answers -= 1
            raise DatabaseUnavailable("the connection broke before the answer")
        return refusals

    async def find(self, ids: Sequence[str]) -> dict[str, Document]:
        self._reach()
        return {one: dict(self.documents[one]) for one in ids if one in self.documents}

    def _reach(self) -> None:
        if self.outage is not None:
            raise self.outage
