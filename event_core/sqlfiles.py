"""SQL lives in ``.sql`` files, each with a line of purpose."""

from __future__ import annotations

from importlib import resources


def load_sql(package: str, name: str) -> str:
    """The statement in ``<name>.sql`` of ``package``."""
    return (resources.files(package) / f"{name}.sql").read_text(encoding="utf-8")
