"""What a stack is made of: its home directory, programs, ports and credentials, and where each setting comes from."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from dotenv import dotenv_values

from tools.stack import ports
from tools.stack.errors import SettingError
from tools.stack.ports import PortUse

REPOSITORY = Path(__file__).resolve().parents[2]
POM = Path(__file__).resolve().parent / "kafka" / "pom.xml"
MONGO = Path(__file__).resolve().parent / "mongo"
SERVICES = ("ingestion", "consumer", "sales", "analytics")
SERVERS = ("postgres", "mongo", "kafka")
ALL_PROGRAMS = (*SERVERS, "migrate", *SERVICES)

DEFAULTS = {
    "HOST": "127.0.0.1",
    "INGESTION_PORTS": "8001,8004,8000",
    "ANALYTICS_PORT": "8002",
    "CONSUMER_PORT": "8003",
    "SALES_PORT": "8005",
    "SALES_METRICS_PORT": "8006",
    "KAFKA_PORT": "9092",
    "KAFKA_CONTROLLER_PORT": "9093",
    "POSTGRES_PORT": "5432",
    "POSTGRES_USER": "postgres",
    "POSTGRES_PASSWORD": "postgres",
    "POSTGRES_DB": "events_db",
    "MONGO_PORT": "27017",
    "MONGO_USER": "admin",
    "MONGO_PASSWORD": "password",
    # Given explicitly, because the sales service would else heed KAFKA_TOPIC and KAFKA_GROUP_ID, which here mean the events'.
    "SALES_TOPIC": "sales_txn",
    "SALES_GROUP_ID": "ingest_service",
}
# Variables that are settings of the platform: they are given to each program as they are at `up`, and a change of one
# restarts the programs at the next `up`. Everything else in the environment is passed on once, to the supervisor.
SETTING_PREFIXES = (
    "ADMIN_",
    "ANALYTICS_",
    "BUFFER_",
    "CONSUMER_",
    "DATABASE_",
    "DLQ_",
    "EVENT",
    "INGESTION_",
    "KAFKA_",
    "LOG_",
    "MAX_BUFFER_",
    "METRICS_",
    "MONGO",
    "OTEL_",
    "POSTGRES_",
    "RETENTION_",
    "SALES_",
)
# Of these the stack has values of its own, which must not stand in the place of what somebody set.
OWN_UNLESS_SET = ("BUFFER_DIR", "DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "KAFKA_SERVER", "MONGODB_URL")
SETTING_NAMES = ("HOST", "ENVIRONMENT", "SERVICE_NAME", "BATCH_SIZE", "FLUSH_INTERVAL", "MAX_RETRIES")
OFF_WHEN_EMPTY = ("BUFFER_DIR",)  # as event_core.settings says it


def is_setting(name: str) -> bool:
    """Whether an environment variable is a setting of the platform."""
    return name.startswith(SETTING_PREFIXES) or name in SETTING_NAMES


def read_settings(environ: Mapping[str, str], env_file: Path | None) -> dict[str, str]:
    """The platform's settings from the environment, then `env_file`, then DEFAULTS. An empty value counts as unset, but of
    OFF_WHEN_EMPTY it is one."""
    from_file = dotenv_values(env_file) if env_file and env_file.is_file() else {}
    ours = {name: value for name, value in environ.items() if is_setting(name)}
    settings = dict(DEFAULTS)
    for source in (from_file, ours):
        settings |= {name: value for name, value in source.items() if value or (value == "" and name in OFF_WHEN_EMPTY)}
    return settings


def read_stack_choice(environ: Mapping[str, str], env_file: Path = REPOSITORY / ".env") -> str | None:
    """What STACK says in the environment, then in `env_file`; None when neither does."""
    from_file = dotenv_values(env_file) if env_file.is_file() else {}
    return environ.get("STACK") or from_file.get("STACK") or None


def parse_port(setting: str, value: str) -> int:
    """The port number of a setting. Raises SettingError."""
    try:
        port = int(value)
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise SettingError(
            f"{setting}={value!r} is not a port.", f"Give a number from 1 to 65535, e.g. {setting}=15000."
        )
    return port


@dataclass(frozen=True, slots=True)
class StackConfig:
    """One stack. Make it with `for_home`; several of them run beside each other when their homes and ports differ."""

    home: Path
    programs: tuple[str, ...]
    host: str
    kafka_port: int
    controller_port: int
    postgres_port: int
    postgres_user: str
    postgres_password: str = field(repr=False)
    postgres_db: str
    mongo_port: int
    mongo_user: str
    mongo_password: str = field(repr=False)
    ingestion_ports: tuple[int, ...]
    analytics_port: int
    consumer_port: int
    sales_port: int
    sales_metrics_port: int
    sales_topic: str
    sales_group: str
    environment: Mapping[str, str] = field(repr=False)
    """What every service and the migration get, beside what the supervisor inherits."""
    kafka_properties: Mapping[str, str]
    """Properties of the broker, over the stack's own."""
    repository: Path = REPOSITORY

    @classmethod
    def for_home(
        cls,
        home: Path,
        *,
        programs: Sequence[str] = ALL_PROGRAMS,
        ephemeral: bool = False,
        kafka_port: int | None = None,
        controller_port: int | None = None,
        postgres_port: int | None = None,
        mongo_port: int | None = None,
        ingestion_ports: Sequence[int] | None = None,
        analytics_port: int | None = None,
        consumer_port: int | None = None,
        sales_port: int | None = None,
        sales_metrics_port: int | None = None,
        environment: Mapping[str, str] | None = None,
        kafka_properties: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        env_file: Path | None = REPOSITORY / ".env",
    ) -> "StackConfig":
        """The stack that keeps its state in `home`.

        Ports that are not given come from the settings (`environ`, by default the process's; then `env_file`; then
        DEFAULTS), or, when `ephemeral`, are free ones. An ephemeral stack heeds no setting but those given here, and
        its DATABASE_URL, MONGODB_URL and KAFKA_BOOTSTRAP_SERVERS always name its own servers. `environment` adds to what
        the services get. Raises SettingError.
        """
        unknown = [name for name in programs if name not in ALL_PROGRAMS]
        if unknown:
            raise SettingError(f"No program is called {', '.join(unknown)}.", f"There are: {', '.join(ALL_PROGRAMS)}.")
        present: Mapping[str, str] = {} if ephemeral else os.environ if environ is None else environ
        settings = read_settings(present, None if ephemeral else env_file)
        free = iter(ports.free_ports(9)) if ephemeral else iter(())

        def port(given: int | None, setting: str) -> int:
            return given if given is not None else next(free, None) or parse_port(setting, settings[setting])

        if ingestion_ports is None:
            listed = [part.strip() for part in settings["INGESTION_PORTS"].split(",")]
            ingestion_ports = (
                [next(free)] if ephemeral else [parse_port("INGESTION_PORTS", part) for part in listed if part]
            )
            if not ingestion_ports:
                raise SettingError("INGESTION_PORTS names no port.", "Give at least one, e.g. INGESTION_PORTS=8001.")
        # The services read .env themselves; only these are taken from there.
        given = {
            name: value
            for name, value in settings.items()
            if name in OWN_UNLESS_SET or (name in present and name not in DEFAULTS)
        }
        config = cls(
            home=home.resolve(),
            programs=tuple(name for name in ALL_PROGRAMS if name in programs),
            host=settings["HOST"],
            kafka_port=port(kafka_port, "KAFKA_PORT"),
            controller_port=port(controller_port, "KAFKA_CONTROLLER_PORT"),
            postgres_port=port(postgres_port, "POSTGRES_PORT"),
            postgres_user=settings["POSTGRES_USER"],
            postgres_password=settings["POSTGRES_PASSWORD"],
            postgres_db=settings["POSTGRES_DB"],
            mongo_port=port(mongo_port, "MONGO_PORT"),
            mongo_user=settings["MONGO_USER"],
            mongo_password=settings["MONGO_PASSWORD"],
            ingestion_ports=tuple(ingestion_ports),
            analytics_port=port(analytics_port, "ANALYTICS_PORT"),
            consumer_port=port(consumer_port, "CONSUMER_PORT"),
            sales_port=port(sales_port, "SALES_PORT"),
            sales_metrics_port=port(sales_metrics_port, "SALES_METRICS_PORT"),
            sales_topic=settings["SALES_TOPIC"],
            sales_group=settings["SALES_GROUP_ID"],
            environment={**given, **(environment or {})},
            kafka_properties=dict(kafka_properties or {}),
        )
        ports.require_distinct(config.port_uses())
        return config

    @property
    def kafka_bootstrap(self) -> str:
        """The broker of this stack, as `host:port`."""
        return f"localhost:{self.kafka_port}"

    @property
    def database_url(self) -> str:
        """The superuser's URL of this stack's database."""
        return self.url_of(self.postgres_db)

    @property
    def url_without_password(self) -> str:
        """`database_url` as it may be shown when the password is not the public one."""
        user = quote(self.postgres_user, safe="")
        return f"postgresql://{user}@localhost:{self.postgres_port}/{quote(self.postgres_db, safe='')}"

    def url_of(self, database: str) -> str:
        """The superuser's URL of any database of this stack's cluster."""
        user, password = quote(self.postgres_user, safe=""), quote(self.postgres_password, safe="")
        return f"postgresql://{user}:{password}@localhost:{self.postgres_port}/{quote(database, safe='')}"

    @property
    def mongodb_url(self) -> str:
        """The URL of this stack's MongoDB server, which names the sales' database."""
        return f"mongodb://{quote(self.mongo_user, safe='')}:{quote(self.mongo_password, safe='')}@{self._mongo_place}"

    @property
    def mongodb_url_without_password(self) -> str:
        """`mongodb_url` as it may be shown when the password is not the public one."""
        return f"mongodb://{quote(self.mongo_user, safe='')}@{self._mongo_place}"

    @property
    def _mongo_place(self) -> str:
        return f"localhost:{self.mongo_port}/sales_db?authSource=admin"

    @property
    def reach(self) -> str:
        """The host name by which this machine reaches the services."""
        return "localhost" if self.host in (*ports.LOOPBACKS, *ports.WILDCARDS) else self.host

    def service_environment(self, program: str = "consumer") -> dict[str, str]:
        """What the services and the migration get. An address or folder that was set explicitly is left alone."""
        # One consumer of each group runs here: with a name of its own it has its partitions back at once after a crash, and
        # not only when the broker gives up on the old member.
        own = {
            "DATABASE_URL": self.database_url,
            "MONGODB_URL": self.mongodb_url,
            "KAFKA_GROUP_INSTANCE_ID": f"{program}-1",
            "BUFFER_DIR": str(self.buffer),
            "INGESTION_URL": f"http://localhost:{self.ingestion_ports[0]}",
        }
        own["KAFKA_BOOTSTRAP_SERVERS"] = self.environment.get("KAFKA_SERVER") or self.kafka_bootstrap
        fixed = {
            "HOST": self.host,
            "INGESTION_PORTS": ",".join(map(str, self.ingestion_ports)),
            "ANALYTICS_PORT": str(self.analytics_port),
            "CONSUMER_PORT": str(self.consumer_port),
            "SALES_PORT": str(self.sales_port),
            "SALES_METRICS_PORT": str(self.sales_metrics_port),
            "SALES_TOPIC": self.sales_topic,
            "SALES_GROUP_ID": self.sales_group,
        }
        return {"PYTHONUNBUFFERED": "1", **own, **self.environment, **fixed}

    def port_uses(self) -> list[PortUse]:
        """The ports that the programs of this stack listen on, program after program."""
        uses = [
            PortUse(self.postgres_port, "postgres", "POSTGRES_PORT"),
            PortUse(self.mongo_port, "mongo", "MONGO_PORT"),
            PortUse(self.kafka_port, "kafka", "KAFKA_PORT"),
            PortUse(self.controller_port, "kafka", "KAFKA_CONTROLLER_PORT"),
            *(PortUse(port, "ingestion", "INGESTION_PORTS") for port in self.ingestion_ports),
            PortUse(self.consumer_port, "consumer", "CONSUMER_PORT"),
            PortUse(self.sales_port, "sales", "SALES_PORT"),
            PortUse(self.sales_metrics_port, "sales", "SALES_METRICS_PORT"),
            PortUse(self.analytics_port, "analytics", "ANALYTICS_PORT"),
        ]
        return [use for use in uses if use.program in self.programs]

    @property
    def jars(self) -> Path:
        """Kafka's jars, shared by all stacks of this repository; one folder per version of the pom."""
        checksum = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
        return self.repository / ".local" / "jars" / checksum

    @property
    def mongo_classes(self) -> Path:
        """The MongoDB server's jars and compiled classes, shared as Kafka's are; one folder per version of their sources."""
        sources = [*sorted(MONGO.glob("*.java")), MONGO / "pom.xml"]
        checksum = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
        return self.repository / ".local" / "jars" / checksum

    @property
    def mongo_data(self) -> Path:
        """The MongoDB server's file."""
        return self.home / "mongo" / "data.mv"

    @property
    def postgres_data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.home / "postgres" / "data"

    @property
    def kafka_data(self) -> Path:
        """The broker's log directory."""
        return self.home / "kafka" / "data"

    @property
    def buffer(self) -> Path:
        """The ingestion service's disk buffer: acknowledged events that Kafka does not have yet."""
        return self.home / "buffer"

    @property
    def logs(self) -> Path:
        """The folder of the programs' log files."""
        return self.home / "logs"

    def log(self, program: str) -> Path:
        """A program's log file."""
        return self.logs / f"{program}.log"
