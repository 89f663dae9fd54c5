"""Superset's own commands, one after the other in one process, as loading Superset takes longer than most of them.

Runs in Superset's environment, each argument is one command: ``python -P superset_commands.py "db upgrade" init "run -p 8088"``
"""

from __future__ import annotations

import logging
import shlex
import sys

from flask.cli import ScriptInfo  # type: ignore[import-not-found]
from superset.app import create_app  # type: ignore[import-not-found]
from superset.cli.main import superset  # type: ignore[import-not-found]

app = create_app()
for command in sys.argv[1:]:
    # Alembic, of "db upgrade", silences every logger that is there already.
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False
    superset.main(shlex.split(command), standalone_mode=False, obj=ScriptInfo(create_app=lambda: app))
