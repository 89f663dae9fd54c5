"""Requests that schemathesis makes up from the OpenAPI document, valid and invalid ones, to the real service without a Kafka."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import brotli  # type: ignore[import-untyped]  # ships no types
import pytest
import requests
import schemathesis
import zstandard
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ingestion_service.openapi import DEFAULT_FILE
from tests.support.process import ROOT, Service

ALIKE_EACH_TIME = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
"""What takes long here is the service, not the making of requests. ``max_examples`` is per operation, and beside those that
schemathesis derives from the schema."""
AS_DOCUMENTED = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "br": brotli.compress,
}

schema = schemathesis.openapi.from_path(ROOT / DEFAULT_FILE)


class Compressing(requests.Session):
    """Compresses what says that it is compressed: no made-up body is a gzip stream by chance."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        codec = CODECS.get(str(request.headers.get("Content-Encoding")))
        if codec is not None and request.body:
            body = request.body
            request.body = codec(body.encode() if isinstance(body, str) else body)
            request.prepare_content_length(request.body)
        return super().send(request, **options)


@contextlib.contextmanager
def collector(folder: Path, **more: str) -> Iterator[Service]:
    """Its Kafka is away for good."""
    made = Service(
        "ingestion_service", {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "ENVIRONMENT": "test", **more}, folder / "log"
    )
    made.start(ready=False)
    yield made
    assert made.stop() == 0
    log = made.log.read_text(errors="replace")
    assert "failed unexpectedly" not in log, made.tail()
    assert "Traceback" not in log, made.tail()


@pytest.fixture(scope="module")
def spooling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Takes every event, to its disk."""
    folder = tmp_path_factory.mktemp("spooling")
    with collector(folder, BUFFER_DIR=str(folder / "buffer")) as made:
        yield made


@pytest.fixture(scope="module")
def without_any_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Cannot take a single event."""
    with collector(tmp_path_factory.mktemp("without"), BUFFER_DIR="") as made:
        yield made


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with Compressing() as made:
        made.trust_env = False  # no proxy stands between
        yield made


@schema.parametrize()
@settings(ALIKE_EACH_TIME, max_examples=150)
def test_no_request_gets_a_server_error_or_an_answer_that_is_not_documented(
    case: schemathesis.Case[Any], spooling: Service, session: requests.Session
) -> None:
    case.call_and_validate(
        base_url=spooling.url, session=session, checks=[not_a_server_error, *AS_DOCUMENTED], timeout=30
    )


@schema.include(tag="events").parametrize()
@settings(ALIKE_EACH_TIME, max_examples=30)
def test_where_nothing_can_be_stored_the_answer_is_the_documented_503(
    case: schemathesis.Case[Any], without_any_store: Service, session: requests.Session
) -> None:
    response = case.call_and_validate(base_url=without_any_store.url, session=session, checks=AS_DOCUMENTED, timeout=30)

    assert response.status_code == 503 or 400 <= response.status_code < 500, response.text
