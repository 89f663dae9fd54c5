"""The events that the benchmarks send, and the file in which a generator is given its bodies."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import orjson

_NAMES = ["page_view", "page_view", "page_view", "search", "add_to_cart", "purchase"]


class Bodies(NamedTuple):
    """A file of ``number`` bodies with ``events`` events each; ``encoding`` is their Content-Encoding, empty for none."""

    path: Path
    number: int
    events: int = 1
    encoding: str = ""


def write(path: Path, found: Iterable[bytes], *, events: int = 1, encoding: str = "") -> Bodies:
    """Each body as its length in decimal, a line feed, then its bytes."""
    count = 0
    with path.open("wb") as file:
        for body in found:
            packed = gzip.compress(body, 6) if encoding == "gzip" else body
            file.write(b"%d\n%b" % (len(packed), packed))
            count += 1
    return Bodies(path, count, events, encoding)


def read(path: Path) -> Iterator[bytes]:
    """What ``write`` wrote."""
    with path.open("rb") as file:
        while line := file.readline():
            yield file.read(int(line))


def bodies(count: int, *, users: int = 50_000, seed: int = 1, extra: int = 0, ids: bool = False) -> list[bytes]:
    """``count`` bodies of POST /events of about 200 bytes, with ``extra`` more in their metadata, of different users.

    Without ``ids`` they hold no event_id: the platform makes it, as it does for most senders.
    """
    rng = random.Random(seed)
    now = datetime.now(UTC)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    found = []
    for number in range(count):
        metadata: dict[str, object] = {
            "page": f"/products/{rng.randrange(10_000)}",
            "session": f"{rng.getrandbits(64):016x}",
            "price": round(rng.uniform(1, 500), 2),
            "country": rng.choice(["US", "IN", "DE", "BR", "NG"]),
        }
        if extra:
            metadata["referrer"] = "".join(rng.choices(letters, k=max(1, extra - 14)))
        event: dict[str, object] = {"event_id": UUID(int=rng.getrandbits(128), version=4)} if ids else {}
        event |= {
            "user_id": f"user_{rng.randrange(users):06d}",
            "event_name": _NAMES[number % len(_NAMES)],
            "metadata": metadata,
            "timestamp": now - timedelta(milliseconds=rng.randrange(60_000)),
        }
        found.append(orjson.dumps(event))
    return found
