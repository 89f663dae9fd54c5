"""The tests' MongoDB, whichever it is, keeps what the sales pipeline relies on, also when it is killed."""

from __future__ import annotations

import functools
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient, WriteConcern
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from tests.support.mongo import Mongo
from tests.support.wait import until

pytestmark = pytest.mark.integration

Documents = Collection[dict[str, Any]]


@pytest.fixture
def documents(mongo: Mongo) -> Iterator[Documents]:
    """A collection of this test's own, in the way the sales are written."""
    with MongoClient[dict[str, Any]](mongo.url, serverSelectionTimeoutMS=20_000, socketTimeoutMS=20_000) as client:
        concern = WriteConcern(w="majority", j=True)
        name = f"t_{uuid.uuid4().hex}"
        yield client.get_default_database().get_collection(name, write_concern=concern)
        client.get_default_database().drop_collection(name)


def test_it_wants_its_password(mongo: Mongo) -> None:
    with_none = mongo.url.replace("admin:password@", "").replace("?authSource=admin", "")
    for url in (mongo.url.replace(":password@", ":wrong@"), with_none):
        with (
            MongoClient[dict[str, Any]](url) as client,
            pytest.raises(OperationFailure, match=r"(?i)authentication"),
        ):
            client.get_default_database()["raw_sales"].find_one()


def test_it_counts_what_it_inserted_and_names_what_it_refused(documents: Documents) -> None:
    documents.insert_many([{"_id": "a", "n": 1}, {"_id": "b", "n": 1}])
    for ordered, inserted, refused in ((False, 1, [0, 2]), (True, 0, [0])):
        new = [{"_id": "a", "n": 2}, {"_id": f"new-{ordered}", "n": 2}, {"_id": "b", "n": 2}]
        with pytest.raises(BulkWriteError) as caught:
            documents.insert_many(new, ordered=ordered)
        details = caught.value.details
        assert details is not None
        assert details["nInserted"] == inserted
        assert [(error["index"], error["code"]) for error in details["writeErrors"]] == [(i, 11000) for i in refused]
    assert {document["_id"]: document["n"] for document in documents.find()} == {"a": 1, "b": 1, "new-False": 2}


def test_a_unique_index_is_kept_and_may_be_asked_for_again(documents: Documents) -> None:
    for _ in range(2):
        assert documents.create_index("event_id", unique=True) == "event_id_1"
    documents.insert_one({"_id": 1, "event_id": "x"})
    with pytest.raises(PyMongoError, match="E11000"):
        documents.insert_one({"_id": 2, "event_id": "x"})


def test_what_was_acknowledged_survives_kills_and_can_still_be_found_by_every_index(
    mongo: Mongo, documents: Documents
) -> None:
    documents.create_index("event_id", unique=True)
    acknowledged: list[str] = []

    def write(done: threading.Event) -> None:
        while not done.is_set():
            batch = [f"{uuid.uuid4()}" for _ in range(50)]
            try:
                documents.insert_many([{"_id": one, "event_id": one, "n": 1} for one in batch], ordered=False)
            except PyMongoError:
                continue  # no answer is no acknowledgement
            acknowledged.extend(batch)

    def at_least(wanted: int) -> bool:
        return len(acknowledged) >= wanted

    for wanted in (500, 1000, 1500):
        done = threading.Event()
        writer = threading.Thread(target=write, args=(done,))
        writer.start()
        try:
            until(f"{wanted} acknowledged", functools.partial(at_least, wanted))
            mongo.kill()
        finally:
            done.set()
            mongo.start()
            writer.join()
    stored = {document["_id"] for document in documents.find()}
    assert set(acknowledged) <= stored
    # Neither found without its entries in the indexes, nor an entry without its document, as half a write would leave it.
    assert {document["event_id"] for document in documents.find({"event_id": {"$in": sorted(stored)}})} == stored
    for one in sorted(stored):
        with pytest.raises(PyMongoError, match="E11000"):
            documents.insert_one({"_id": one, "event_id": one, "n": 2})


def test_a_paused_server_answers_when_it_is_resumed(mongo: Mongo, documents: Documents) -> None:
    mongo.pause()
    try:
        with (
            MongoClient[dict[str, Any]](mongo.url, serverSelectionTimeoutMS=1000, socketTimeoutMS=1000) as client,
            pytest.raises(PyMongoError),
        ):
            client.admin.command("ping")
    finally:
        mongo.resume()
    documents.insert_one({"_id": 1})
    assert documents.count_documents({}) == 1
