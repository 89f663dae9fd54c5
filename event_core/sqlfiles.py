"""SQL lives in ``.sql`` files, each with a line of purpose."""

from __future__ import annotations

from importlib import resources


def load_sql(package: str, name: str, **parts: str) -> str:
    """The statement in ``<name>.sql`` of ``package``; ``{part}`` in it stands for what several statements share."""
    text = (resources.files(package) / f"{name}.sql").read_text(encoding="utf-8")
    for part, shared in parts.items():
        text = text.replace(f"{{{part}}}", shared)
    return text
