"""``python -m ingestion_service.openapi [--check] [FILE]``: the API's OpenAPI document as a file, from the app itself.

A developer's command: it needs PyYAML, which the service does not.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Scope

from event_core.telemetry import Tracing
from ingestion_service.app import Deps, create_app
from ingestion_service.metrics import Metrics
from ingestion_service.publisher import MemoryPublisher
from ingestion_service.settings import IngestionSettings

DEFAULT_FILE = Path("docs/api/rest/event-collector.yaml")
HEAD = "# Made by `make api-docs` from the code of ingestion_service; tests/unit/test_openapi_document.py compares.\n"
SERVERS = [
    {"url": "http://localhost:8001", "description": "The ingestion service"},
    {"url": "http://localhost:8000", "description": "The same, at the event collector's port"},
]
"""In the file only: what the running service shows is meant for its own address."""
MOST_SHOWN = 40


def document() -> dict[str, Any]:
    """What GET /openapi.json answers, whatever the environment says, and where to reach the service."""
    settings = IngestionSettings.model_construct()
    publisher = MemoryPublisher()
    app = create_app(settings, Deps(publisher, [publisher], Metrics(), Tracing(None)))
    made: dict[str, Any] = orjson.loads(asyncio.run(_get(app, "/openapi.json")))
    return {"openapi": made.pop("openapi"), "info": made.pop("info"), "servers": SERVERS, **made}


def text() -> str:
    """The file's content.

    Raises:
        ImportError: PyYAML is missing.
    """
    import yaml  # only this command needs it

    class Dumper(yaml.SafeDumper):
        """Repeats what is the same instead of pointing to it, and keeps lines as they are."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def string(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    Dumper.add_representer(str, string)
    return HEAD + yaml.dump(document(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


async def _get(app: ASGIApp, path: str) -> bytes:
    body = b""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal body
        body += message.get("body", b"")

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": None,
        "server": None,
    }
    await app(scope, receive, send)
    return body


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, or the same; 1 the file differs; 2 something is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m ingestion_service.openapi", description="Write the OpenAPI document of the API to a file."
    )
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, help="by default %(default)s")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where the file differs")
    given = parser.parse_args(arguments)
    try:
        wanted = text()
    except ImportError as error:
        print(f"{error}: this command needs PyYAML, which `make venv` installs", file=sys.stderr)
        return 2
    if not given.check:
        given.file.parent.mkdir(parents=True, exist_ok=True)
        given.file.write_text(wanted, encoding="utf-8")
        return 0
    found = given.file.read_text(encoding="utf-8") if given.file.exists() else ""
    if found == wanted:
        return 0
    changes = difflib.unified_diff(found.splitlines(), wanted.splitlines(), str(given.file), "the code", "", "", 1, "")
    print(*list(changes)[:MOST_SHOWN], sep="\n", file=sys.stderr)
    print(f"{given.file} is not what the code says: run `make api-docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
