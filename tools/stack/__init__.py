"""The local stack: real Kafka and PostgreSQL, a MongoDB server, and the platform's services on this machine, without Docker.

    config = StackConfig.for_home(Path("some/folder"), programs=("kafka", "postgres"), ephemeral=True)
    stack = LocalStack(config)
    stack.up()          # returns when both serve; stack.kafka_bootstrap, stack.database_url
    stack.down()        # no process left, the data kept; stack.clean() deletes it too

`python -m tools.stack --help` is the same for the keyboard.
"""

from tools.stack.config import StackConfig
from tools.stack.errors import NotInstalledError, NotReadyError, PortTakenError, SettingError, StackError
from tools.stack.stack import LocalStack, Status

__all__ = [
    "LocalStack",
    "NotInstalledError",
    "NotReadyError",
    "PortTakenError",
    "SettingError",
    "StackConfig",
    "StackError",
    "Status",
]
