"""The documented examples are real: the service gives these very replies to these questions about the sample week.

``ANALYTICS_EXAMPLES=write pytest tests/integration/test_analytics_examples.py`` writes them anew.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from analytics_service.examples import EXAMPLES
from tests.conftest import Platform
from tests.support.process import Service
from tests.support.sample import store_shop

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parents[2] / "analytics_service"
AGE = 0.4


@pytest.fixture
def service(platform: Platform) -> Service:
    store_shop(platform.database_url)
    return platform.start("analytics_service")


def settled(reply: dict[str, Any]) -> dict[str, Any]:
    """The reply; how long ago the week was changes."""
    assert reply["freshness"]["age_seconds"] > 0
    reply["freshness"]["age_seconds"] = AGE
    return reply


def test_the_documented_replies_are_what_the_service_says(service: Service) -> None:
    found = {}
    for name, example in EXAMPLES.items():
        parts = urlsplit(example["get"])
        reply = service.get(parts.path, **_grouped(parse_qsl(parts.query)))
        assert reply.status_code == 200, (name, reply.text)
        found[name] = {**example, "reply": settled(reply.json())}
        if "post" in example:
            posted = service.post("/v1/query", example["post"])
            assert settled(posted.json()) == found[name]["reply"], name
    if os.environ.get("ANALYTICS_EXAMPLES") == "write":
        (FOLDER / "examples.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    else:
        same(found, EXAMPLES)


def same(found: Any, shown: Any) -> None:
    """Alike but for the last digits of what was integrated: those depend on the processor."""
    if isinstance(shown, dict):
        assert list(found) == list(shown)
        for key, value in shown.items():
            same(found[key], value)
    elif isinstance(shown, list):
        assert len(found) == len(shown)
        for one, other in zip(found, shown, strict=True):
            same(one, other)
    elif isinstance(shown, float):
        assert found == pytest.approx(shown, rel=1e-9)
    else:
        assert found == shown


def _grouped(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    return {name: [value for other, value in pairs if other == name] for name, _ in pairs}


def test_the_description_shows_them(service: Service) -> None:
    described = service.get("/openapi.json").json()
    shown = {
        path: operation["responses"]["200"]["content"]["application/json"]["example"]
        for path, operations in described["paths"].items()
        for operation in operations.values()
        if "example" in operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
    }
    assert len(shown) >= len(EXAMPLES)
    for path, example in shown.items():
        assert example in [one["reply"] for one in EXAMPLES.values()], path


def test_every_curl_of_the_readme_runs(service: Service) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL) for line in block.splitlines()]
    asked = [shlex.split(line) for line in commands if line.startswith("curl ")]
    assert len(asked) >= 12
    for words in asked:
        if "/analytics/stream" in " ".join(words):
            continue  # it never ends: tests/integration/test_analytics_live.py listens
        [url] = [word for word in words if word.startswith("localhost:8002")]
        parts = urlsplit(f"http://{url}")
        if "-d" in words:
            form = {"content-type": "application/x-www-form-urlencoded"}  # as curl calls what -d gives
            reply = httpx.post(service.url + parts.path, content=words[words.index("-d") + 1], headers=form)
        else:
            reply = service.get(parts.path, **_grouped(parse_qsl(parts.query)))
        assert reply.status_code == 200, (words, reply.text)
