"""ingestion_service/README.md against the code: nobody shall find there what is not, or miss what is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from event_core.errors import BrokerUnavailable, MalformedBody, Overloaded, PlatformError, Unstorable
from event_core.settings import env_names
from ingestion_service.errors import BodyTimeout, BufferBroken, BufferFull, Conflict, UnsupportedEncoding
from ingestion_service.forms import _REASONS
from ingestion_service.metrics import Metrics
from ingestion_service.openapi import document
from ingestion_service.settings import IngestionSettings

FOLDER = Path(__file__).parents[2] / "ingestion_service"
README = (FOLDER / "README.md").read_text()
RAISED_WITHOUT_A_REASON: tuple[type[PlatformError], ...] = (
    MalformedBody,
    Unstorable,
    BodyTimeout,
    UnsupportedEncoding,
    Conflict,
    BrokerUnavailable,
    Overloaded,
    BufferFull,
    BufferBroken,
)
SETTINGS_TABLE = README.partition("## Settings")[2].partition("## ")[0]


def test_every_setting_is_in_the_table_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("event_core.settings.ENV_FILE", "/dev/null")
    settings = IngestionSettings.model_construct()
    rows = [row.split("|")[1:3] for row in SETTINGS_TABLE.splitlines() if row.startswith("| `")]
    told = {
        name: shown
        for names, defaults in rows
        for name, shown in _pairs(re.findall("`([A-Z_]+)`", names), re.findall("`([^`]+)`|unset", defaults))
    }

    wanted = {
        name: _shown(getattr(settings, field))
        for field, names in env_names(IngestionSettings).items()
        for name in names
    }
    assert told == wanted


def _pairs(names: list[str], defaults: list[str]) -> list[tuple[str, str]]:
    """Several names have a default each, or share one."""
    return list(zip(names, defaults * (len(names) if len(defaults) == 1 else 1), strict=True))


def _shown(value: Any) -> str:
    """'' where it is unset."""
    if isinstance(value, Path):
        return f"./{value}"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_every_metric_is_in_the_table() -> None:
    told = set(re.findall(r"`(ingestion_[a-z_]+)", README))
    told = {re.sub("_bucket$", "", name) for name in told}
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
        if family.name.startswith("ingestion_")
    }

    assert names <= told
    assert told - names == {"ingestion_service"}


def test_every_endpoint_is_named() -> None:
    for path in document()["paths"]:
        assert f"`{path}" in README, path


def test_every_error_code_is_in_the_table() -> None:
    source = "".join(path.read_text() for path in FOLDER.glob("*.py"))
    codes = {
        *re.findall(r'reason="([a-z_0-9]+)"', source),
        *re.findall(r'Problem\(\s*"([a-z_]+)"', source),
        *_REASONS.values(),
    }
    codes |= {kind.code for kind in RAISED_WITHOUT_A_REASON}

    missing = {code for code in codes if f"`{code}`" not in README}
    assert not missing


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (FOLDER / target).exists(), target
