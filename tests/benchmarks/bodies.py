"""The events that the benchmarks send."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import orjson

_NAMES = ["page_view", "page_view", "page_view", "search", "add_to_cart", "purchase"]


def bodies(count: int, *, users: int = 50_000, seed: int = 1, extra: int = 0) -> list[bytes]:
    """``count`` bodies of POST /events of about 200 bytes, with ``extra`` more in their metadata, of different users.

    They hold no event_id: the platform makes it, as it does for most senders.
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
        event = {
            "user_id": f"user_{rng.randrange(users):06d}",
            "event_name": _NAMES[number % len(_NAMES)],
            "metadata": metadata,
            "timestamp": now - timedelta(milliseconds=rng.randrange(60_000)),
        }
        found.append(orjson.dumps(event))
    return found
