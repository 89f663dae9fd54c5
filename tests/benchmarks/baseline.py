"""How the baselines are served: as the platform's services are, on uvloop and httptools."""

from __future__ import annotations

import os
from typing import Any

import uvicorn


def serve(app: Any) -> None:
    """Serves an ASGI application on PORT until it is told to end."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ.get("PORT", "8001")),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
