"""Single POSTs with durable acknowledgements."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks import closed_loop
from tests.benchmarks.bodies import bodies, write
from tests.benchmarks.closed_loop import Case
from tests.benchmarks.figures import Comparison
from tests.benchmarks.servers import Servers

NAMED = 150_000
"""Bodies with an event_id: more than the service remembers, so that none is a duplicate when it comes again."""


def run(
    servers: Servers, generator: str, *, rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[str, Comparison]:
    """Ours, the naive and the bare one."""
    made = write(servers.logs / "singles", bodies(4096))
    named = write(servers.logs / "named-singles", bodies(NAMED, ids=True))
    cases = [
        Case("64 connections", "/events", 64, made, ("ours", "naive", "bare")),
        Case("256 connections", "/events", 256, made, ("ours", "naive", "bare")),
        Case("256 connections, own event_id", "/events", 256, named, ("ours", "bare")),
    ]
    return closed_loop.run(servers, generator, cases, rounds=rounds, seconds=seconds, say=say)
