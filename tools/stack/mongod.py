"""The server that speaks MongoDB's protocol: how it is started and asked. Its sources are in mongo/, and they say what it is."""

import shlex
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.saslprep import saslprep

from tools.stack.config import StackConfig
from tools.stack.errors import NotInstalledError
from tools.stack.program import Program

PRIORITY = 15
JVM_FLAGS = (
    "-Xms64m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss,SSS",
)


def require_classes(config: StackConfig) -> None:
    """Raises NotInstalledError when the server has not been fetched and compiled."""
    if not config.mongo_classes.is_dir():
        raise NotInstalledError(
            "The MongoDB server's jars are not there.", "Run `make setup`, which fetches them with Maven."
        )


def program(java: Path, config: StackConfig) -> Program:
    """The server as a supervised program. It takes its user from the environment at every start, so a changed password
    counts at the next `make up`."""
    classes = f"{config.mongo_classes}/*:{config.mongo_classes}"
    command = [str(java), *JVM_FLAGS, "-cp", classes, "Mongod", str(config.mongo_data), str(config.mongo_port)]
    return Program(
        name="mongo",
        command="exec " + shlex.join(command),
        directory=config.home,
        priority=PRIORITY,
        environment={
            "MONGO_USER": config.mongo_user,
            # As every client prepares it before it proves that it knows it (RFC 4013).
            "MONGO_PASSWORD": saslprep(config.mongo_password),
        },
        probe=lambda: ask(config.mongodb_url),
    )


def ask(url: str) -> str | None:
    """None when the server answers a ping with the URL's credentials, else why not."""
    client: MongoClient[dict[str, object]] = MongoClient(url, serverSelectionTimeoutMS=1500, socketTimeoutMS=2000)
    try:
        client.admin.command("ping")
    except OperationFailure:
        return "it takes another user or password than MONGO_USER and MONGO_PASSWORD; with `make up` it follows them"
    except PyMongoError as error:
        return str(error).partition(" (configured timeouts")[0].partition(", Timeout:")[0]
    finally:
        client.close()
    return None
