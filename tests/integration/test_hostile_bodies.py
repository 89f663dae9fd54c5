"""Bodies made to cost more than they weigh: each gets its 4xx (or is taken), the process stays up, and its memory bounded."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import brotli  # type: ignore[import-untyped]  # ships no types
import httpx
import pytest
import zstandard

from tests.conftest import Platform
from tests.support.process import Service

pytestmark = pytest.mark.integration

MOST_BYTES = 50 << 20
"""What one body may cost over the idle process."""
MIB = 1 << 20


def zeros(encoding: str) -> bytes:
    """A GiB of zeros (a tenth for brotli and zstd, whose ratios are larger still), compressed."""
    if encoding == "gzip":
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        chunk = bytes(MIB)
        return b"".join(packer.compress(chunk) for _ in range(1024)) + packer.flush()
    if encoding == "zstd":
        return zstandard.ZstdCompressor().compress(bytes(100 * MIB))
    return bytes(brotli.compress(bytes(100 * MIB), quality=1))


def event(data: object) -> bytes:
    body = json.dumps({"learner_id": "l", "event_type": "interaction", "event_data": data}, ensure_ascii=False)
    return body.encode()


def bodies() -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """(what it is, the body, headers)."""
    for encoding in ("gzip", "zstd", "br"):
        yield f"{encoding} bomb", zeros(encoding), {"content-encoding": encoding}
    yield "a bomb within a bomb", gzip.compress(zeros("gzip")), {"content-encoding": "gzip"}
    yield "not deflate at all", b"\xff" * MIB, {"content-encoding": "deflate"}
    yield "deep", b"[" * (9 * MIB), {}
    yield "deep and closed", b"[" * 40_000 + b"]" * 40_000, {}
    yield "wide", b"[" + b"[]," * (3 * MIB) + b"[]]", {}
    yield "wide strings", b'["' + b'","' * (3 * MIB) + b'"]', {}
    yield "wide numbers", b"[" + b"1," * (4 * MIB) + b"1]", {}
    yield "keys", b'[{"learner_id":"l","event_type":"interaction"' + b',"k":1' * MIB + b"}]", {}
    yield "one long text beyond the Basic Multilingual Plane", b"[" + event("x" * (9 * MIB) + "\U0001f600") + b"]", {}
    yield "long texts", b"[" + b",".join(event("\U0001f600" + "x" * 9_500) for _ in range(1_000)) + b"]", {}
    yield "empty lists", b"[" + b",".join(event([[]] * 60) for _ in range(800)) + b"]", {}
    yield (
        "a thousand bad events",
        b"[" + b",".join([b'{"learner_id":5,"x":"' + b"y" * 9_000 + b'"}'] * 1_000) + b"]",
        {},
    )
    yield "escapes", b"[" + event("\\u0000" * 100_000) + b"]", {}
    yield "an open string", b'["' + b"\\" * (9 * MIB), {}
    yield "a long number", b"[" + b"9" * (9 * MIB) + b"]", {}


def resident(service: Service, *, peak: bool = False) -> int:
    """Bytes; ``peak`` since the last ``forget_peak``."""
    name = "VmHWM:" if peak else "VmRSS:"
    status = Path(f"/proc/{service.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) * 1024


def forget_peak(service: Service) -> None:
    Path(f"/proc/{service.pid}/clear_refs").write_text("5")


def test_one_hostile_body_costs_little_and_breaks_nothing(platform: Platform) -> None:
    # Without a dead letter for each of a thousand bad events the figures are of the bodies alone.
    service = platform.start("ingestion_service")
    good = [{"learner_id": "l", "event_type": "interaction"}]
    for _ in range(20):
        assert httpx.post(service.url + "/api/v1/collect", json=good).status_code == 200
    costs: dict[str, int] = {}
    for path in ("/events", "/api/v1/collect"):
        for what, body, headers in bodies():
            idle = resident(service)
            forget_peak(service)
            began = time.monotonic()
            reply = httpx.post(service.url + path, content=body, headers=headers, timeout=60)
            assert reply.status_code < 500, (path, what, reply.text[:300])
            assert time.monotonic() - began < 30, (path, what)
            costs[f"{path} {what}"] = resident(service, peak=True) - idle
            assert httpx.post(service.url + "/api/v1/collect", json=good).status_code == 200
    dear = {what: f"{cost / MIB:.0f} MiB" for what, cost in costs.items() if cost > MOST_BYTES}
    assert not dear
