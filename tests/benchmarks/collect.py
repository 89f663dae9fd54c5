"""Batches of learner events with durable acknowledgements, plain and packed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from tests.benchmarks import closed_loop
from tests.benchmarks.bodies import write
from tests.benchmarks.closed_loop import Case
from tests.benchmarks.figures import Comparison
from tests.benchmarks.learners import Learners
from tests.benchmarks.servers import Servers

EVENTS = 200_000
"""In a file of bodies: twice what the service remembers, so that none is a duplicate when it comes again."""
CONNECTIONS = 12


def run(
    servers: Servers, generator: str, *, rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[str, Comparison]:
    """Ours and the bare one, which inflates nothing."""
    learners = Learners(datetime.now(UTC), rate=2_000, seed=1)
    hundreds = write(servers.logs / "hundreds", learners.bodies(100, EVENTS // 100), events=100)
    thousands = write(servers.logs / "thousands", learners.bodies(1000, EVENTS // 1000), events=1000)
    packed = write(servers.logs / "packed", learners.bodies(1000, EVENTS // 1000), events=1000, encoding="gzip")
    path = "/api/v1/collect"
    cases = [
        Case("batches of 100", path, CONNECTIONS, hundreds, ("ours", "bare")),
        Case("batches of 1,000", path, CONNECTIONS, thousands, ("ours", "bare")),
        Case("batches of 1,000, gzip", path, CONNECTIONS, packed, ("ours",)),
    ]
    return closed_loop.run(servers, generator, cases, rounds=rounds, seconds=seconds, say=say)
