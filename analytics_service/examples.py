"""What the documentation shows: questions, and the replies that the service gave to them. A test asks them again."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

import orjson

EXAMPLES: Final[dict[str, dict[str, Any]]] = orjson.loads(
    (resources.files("analytics_service") / "examples.json").read_bytes()
)
"""By kind of question: ``get``, the path to ask; ``post``, the same as a body of POST /v1/query; ``reply``."""
