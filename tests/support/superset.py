"""A real Superset for tests: Apache's package in an environment of its own, as a process with a metadata database of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.support.backend import free_port

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".local" / "superset"
INSTALL_SECONDS = 300.0
READY_SECONDS = 180.0
"""Loading it, making its database and its roles takes 10 s on an idle machine, and a minute on a busy one."""
_USER, _PASSWORD = "admin", "admin"
_CONFIG = """\
import os
SECRET_KEY = os.environ["SUPERSET_SECRET_KEY"]
SQLALCHEMY_DATABASE_URI = "sqlite:///" + os.path.join(os.environ["SUPERSET_HOME"], "metadata.db")
WTF_CSRF_ENABLED = False  # the tests are no browser
TALISMAN_ENABLED = False
DATA_CACHE_CONFIG = {"CACHE_TYPE": "SimpleCache", "CACHE_DEFAULT_TIMEOUT": 86400}
"""


class SupersetError(Exception):
    """What Superset replied instead of an answer."""


def installed() -> Path:
    """Its Python; installs what requirements/superset.lock says where that is not there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run side by side
        done = subprocess.run(
            ["tools/setup.sh", "superset"], cwd=ROOT, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    if done.returncode:
        raise RuntimeError(f"Superset could not be installed (tools/setup.sh superset):\n{done.stdout}{done.stderr}")
    return FOLDER / "venv" / "bin" / "python"


class Superset:
    """Starts at once and is waited for when first asked. Its files and its log are in ``home``, a new folder."""

    def __init__(self, home: Path) -> None:
        config = home / "superset_config.py"
        config.write_text(_CONFIG)
        self.log = home / "superset.log"
        port = free_port()
        admin = f"--username {_USER} --password {_PASSWORD} --firstname A --lastname A --email admin@example.org"
        commands = ("db upgrade", f"fab create-admin {admin}", "init", f"run --host 127.0.0.1 --port {port}")
        inherited = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                # -P: beside the script is this file, which has Superset's name.
                [installed(), "-P", Path(__file__).with_name("superset_commands.py"), *commands],
                cwd=home,
                env={
                    **inherited,
                    "HOME": str(home),
                    "TZ": "UTC",
                    "SUPERSET_CONFIG_PATH": str(config),
                    "SUPERSET_HOME": str(home),
                    "SUPERSET_SECRET_KEY": secrets.token_hex(32),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

    def wait(self) -> None:
        """Returns once it serves, and this is logged in."""
        deadline = time.monotonic() + READY_SECONDS
        while "Authorization" not in self._client.headers:
            assert self._process.poll() is None, f"Superset ended with {self._process.returncode}:\n{self._tail()}"
            assert time.monotonic() < deadline, f"Superset does not serve:\n{self._tail()}"
            with contextlib.suppress(httpx.TransportError):
                login = {"username": _USER, "password": _PASSWORD, "provider": "db"}
                token = self.post("/api/v1/security/login", login)["access_token"]
                self._client.headers["Authorization"] = f"Bearer {token}"
                return
            time.sleep(0.2)

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._request("POST", path, body)

    def delete(self, path: str) -> None:
        self._request("DELETE", path)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The reply of its REST API; raises SupersetError where it is none of success."""
        reply = self._client.request(method, path, json=body)
        if reply.is_error:
            raise SupersetError(f"{path}: {reply.status_code} {reply.text}")
        found: dict[str, Any] = reply.json()
        return found

    @contextlib.contextmanager
    def reading(self, database_url: str) -> Iterator[Analyst]:
        """The database as a new login sees it that has no right but those of analytics_reader."""
        self.wait()
        name, password = f"superset_{secrets.token_hex(6)}", secrets.token_hex(16)
        role = sql.Identifier(name)
        where = conninfo_to_dict(database_url)
        uri = f"postgresql+psycopg2://{name}:{password}@{where['host']}:{where['port']}/{where['dbname']}"
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(sql.SQL("create role {} login password {}").format(role, password))
            try:
                connection.execute(sql.SQL("grant analytics_reader to {}").format(role))
                with contextlib.closing(Analyst(self, name, uri)) as analyst:
                    yield analyst
            finally:
                connection.execute(sql.SQL("drop role {}").format(role))

    def close(self) -> None:
        """Ends it, and whatever it started."""
        self._client.close()
        for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                return


class Analyst:
    """Asks about one database by way of Superset."""

    def __init__(self, superset: Superset, name: str, uri: str) -> None:
        extra = {"engine_params": {"connect_args": {"options": "-c timezone=utc -c statement_timeout=30000"}}}
        database = {
            "database_name": name,
            "sqlalchemy_uri": uri,
            "expose_in_sqllab": True,
            "allow_dml": True,  # what cannot be done, the database alone forbids
            "extra": json.dumps(extra),
        }
        self._superset = superset
        self._database = int(superset.post("/api/v1/database/", database)["id"])
        self._datasets: list[int] = []

    def close(self) -> None:
        """Forgets the database. Superset on SQLite has room for one dataset of a name, whatever its schema and database."""
        for dataset in self._datasets:
            self._superset.delete(f"/api/v1/dataset/{dataset}")
        self._superset.delete(f"/api/v1/database/{self._database}")

    def dataset(self, view: str, *, schema: str = "analytics") -> int:
        """A new dataset over a view or table; its number."""
        body = {"database": self._database, "schema": schema, "table_name": view}
        self._datasets.append(int(self._superset.post("/api/v1/dataset/", body)["id"]))
        return self._datasets[-1]

    def chart(
        self,
        dataset: int,
        metric: str,
        time_column: str,
        from_ts: datetime,
        to_ts: datetime,
        *,
        columns: Sequence[str] = (),
        grain: str | None = None,
        names: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """The rows that a chart of an SQL expression over a range shows, never from Superset's cache: the metric is called
        ``metric``. ``grain`` (P1D: days) adds the time column cut to it, as a datetime; ``names`` filters by event_name."""
        filters: list[dict[str, Any]] = [
            {"col": time_column, "op": "TEMPORAL_RANGE", "val": f"{_wall(from_ts)} : {_wall(to_ts)}"}
        ]
        if names:
            filters.append({"col": "event_name", "op": "IN", "val": list(names)})
        axis = {
            "timeGrain": grain,
            "columnType": "BASE_AXIS",
            "sqlExpression": time_column,
            "label": time_column,
            "expressionType": "SQL",
        }
        query = {
            "filters": filters,
            "columns": [*([axis] if grain else ()), *columns],
            "metrics": [{"expressionType": "SQL", "sqlExpression": metric, "label": "metric"}],
            "orderby": [],
            "row_limit": 10_000,
            "extras": {"time_grain_sqla": grain} if grain else {},
        }
        source = {"id": dataset, "type": "table"}
        body = {"datasource": source, "force": True, "queries": [query], "result_format": "json", "result_type": "full"}
        [result] = self._superset.post("/api/v1/chart/data", body)["result"]
        rows: list[dict[str, Any]] = result["data"]
        if grain:
            for row in rows:
                row[time_column] = datetime.fromtimestamp(row[time_column] / 1000, UTC)
        return rows

    def run(self, statement: str) -> list[dict[str, Any]]:
        """The rows of a statement in SQL Lab."""
        body = {"database_id": self._database, "sql": statement, "runAsync": False, "client_id": secrets.token_hex(5)}
        rows: list[dict[str, Any]] = self._superset.post("/api/v1/sqllab/execute/", body)["data"]
        return rows


def _wall(at: datetime) -> str:
    """As Superset takes times: what a clock in UTC shows."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat()


@contextlib.contextmanager
def open_superset(home: Path) -> Iterator[Superset]:
    superset = Superset(home)
    try:
        yield superset
    finally:
        superset.close()
