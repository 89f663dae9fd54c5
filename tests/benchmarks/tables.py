"""How the report's tables and numbers look."""

from __future__ import annotations

from rich import box
from rich.table import Table


def table(first: str, *numbers: str) -> Table:
    """One column for titles, the others for numbers."""
    made = Table(box=box.SIMPLE_HEAD)
    made.add_column(first, no_wrap=True)
    for number in numbers:
        made.add_column(number, justify="right", no_wrap=True)
    return made


def number(value: object) -> str:
    """With a digit after the point where it is below 100."""
    found = float(str(value))
    return f"{found:,.0f}" if abs(found) >= 100 else f"{found:,.1f}"
