"""Documents per second from a filled topic into MongoDB, beside what the server itself takes, and the baseline, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from docker.errors import DockerException

from tests.benchmarks import mongo as mongodb
from tests.benchmarks import selling
from tests.benchmarks.figures import Comparison, Figures
from tests.benchmarks.sales_topic import DUPLICATES, PreloadedSales, preload_sales
from tests.benchmarks.servers import Servers
from tests.support.mongo import open_mongo
from tools.stack.errors import StackError

BATCH_SIZES = (100, 1_000, 5_000)
"""The first is the default."""
SALES = 300_000
SALES_OF_A_STAND_IN = 40_000
"""A stand-in may be a tenth as fast."""
WARM_UP = 10_000
"""Sales of a first run that is thrown away: a server on Java is slow until its code is compiled."""
RATIOS = ("documents_per_second", "server_cpu_us_per_document")

Say = Callable[[str], None]


@dataclass
class Sold:
    """``sizes`` by BATCH_SIZE, beside the server's own ceiling (``bare``); ``errors``: which runs gave no figures, and why."""

    server: str = ""
    real: bool = False
    sales: int = 0
    sizes: dict[int, Comparison] = field(default_factory=dict)
    duplicates: Comparison = field(default_factory=Comparison)
    naive: Comparison = field(default_factory=Comparison)
    value_bytes: float = 0.0
    errors: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        return {
            "server": self.server,
            "real_mongodb": self.real,
            "sales": self.sales,
            "value_bytes": round(self.value_bytes, 1),
            "errors": self.errors,
            "batch_size": {str(size): one.as_json(RATIOS) for size, one in self.sizes.items()},
            "duplicates": {"share": DUPLICATES, **self.duplicates.as_json(RATIOS)},
            "naive": self.naive.as_json(RATIOS),
        }


class Asked(NamedTuple):
    """What the command line asks for. ``sales``: None leaves it to what the server is."""

    rounds: int
    sales: int | None
    naive_sales: int


def run(servers: Servers, home: Path, asked: Asked, say: Say) -> Sold:
    """A run that fails leaves a line in ``errors``, and the others go on; so does a server that cannot be started. The server's
    files are kept in ``home``."""
    own = home / "mongo"
    own.mkdir()
    try:
        opened = open_mongo(own)
    except (StackError, TimeoutError, DockerException) as error:
        say(f"sales: ERROR: no MongoDB: {error}")
        return Sold(errors=[f"no MongoDB: {error}"])
    try:
        return _Run(servers, selling.Mongo(opened.url), asked, say).run()
    finally:
        opened.close()


class _Run:
    """A round goes through the batch sizes, at each ours beside the bare writers; every second one goes backwards."""

    def __init__(self, servers: Servers, mongo: selling.Mongo, asked: Asked, say: Say) -> None:
        self._servers = servers
        self._mongo = mongo
        self._asked = asked
        self._say = say
        name, real = mongodb.server(mongo.client)
        sales = asked.sales or (SALES if real else SALES_OF_A_STAND_IN)
        self._found = Sold(name, real, sales, {size: Comparison() for size in BATCH_SIZES})

    def run(self) -> Sold:
        asked, began = self._asked, time.monotonic()
        plain = preload_sales(self._servers, self._found.sales)
        copies = preload_sales(self._servers, self._found.sales, duplicates=True)
        few = preload_sales(self._servers, asked.naive_sales)
        self._found.value_bytes = plain.value_bytes
        self._say(f"sales: {self._found.server}; the topics are filled in {time.monotonic() - began:.0f} s")
        self._warm_up()
        for number in range(asked.rounds):
            title = f"sales {number + 1}/{asked.rounds}"
            sizes = BATCH_SIZES if number % 2 == 0 else tuple(reversed(BATCH_SIZES))
            for size in sizes:
                measured = self._size(size, plain, title, backwards=bool(number % 2))
                if size == BATCH_SIZES[0] and measured is not None:
                    self._beside_the_default(measured, copies, few, title)
        return self._found

    def _warm_up(self) -> None:
        few = preload_sales(self._servers, WARM_UP)
        self._one("sales, warm-up", lambda: selling.bare(self._mongo, few, BATCH_SIZES[0]))
        self._one("sales, warm-up", lambda: selling.ours(self._servers, self._mongo, few, BATCH_SIZES[0]))

    def _size(self, size: int, plain: PreloadedSales, title: str, *, backwards: bool) -> Figures | None:
        """Ours and the bare writers: both or none are kept, since a run without its neighbour gives no ratio. Returns ours."""

        def ours() -> Figures | None:
            return self._one(f"{title} ours {size:,}", lambda: selling.ours(self._servers, self._mongo, plain, size))

        def bare() -> Figures | None:
            return self._one(f"{title} bare {size:,}", lambda: selling.bare(self._mongo, plain, size))

        if backwards:
            beside, measured = bare(), ours()
        else:
            measured, beside = ours(), bare()
        if measured is not None and beside is not None:
            self._found.sizes[size].ours.rounds.append(measured)
            self._found.sizes[size].bare.rounds.append(beside)
        return measured

    def _beside_the_default(self, plain: Figures, copies: PreloadedSales, few: PreloadedSales, title: str) -> None:
        duplicates = self._one(
            f"{title} duplicates", lambda: selling.ours(self._servers, self._mongo, copies, BATCH_SIZES[0])
        )
        if duplicates is not None:
            self._found.duplicates.ours.rounds.append(duplicates)
            self._found.duplicates.plain.rounds.append(plain)
        naive = self._one(f"{title} naive", lambda: selling.naive(self._servers, self._mongo, few))
        if naive is not None:
            self._found.naive.ours.rounds.append(plain)
            self._found.naive.naive.rounds.append(naive)

    def _one(self, title: str, measure: Callable[[], Figures]) -> Figures | None:
        try:
            figures = measure()
        except (RuntimeError, AssertionError, TimeoutError) as error:
            self._found.errors.append(f"{title}: {error}")
            self._say(f"{title}: ERROR: {error}")
            return None
        peak = figures.get("memory_peak_mib")
        self._say(
            f"{title:22} {figures['documents_per_second']:7,.0f} documents/s  {figures['cpu_us_per_document']:5.1f} µs  "
            f"MongoDB {figures['server_cpu_us_per_document']:5.1f} µs" + (f"  peak {peak:.0f} MiB" if peak else "")
        )
        return figures
