"""What can go wrong with the local stack.

StackError              anything a person can act on: `message` says what, `remedy` what to do
├─ SettingError         a setting has no usable value
├─ NotInstalledError    a program or Kafka's jars are not there
├─ PortTakenError       somebody else listens where a program of ours should
└─ NotReadyError        a program did not become ready in time
"""


class StackError(Exception):
    """An error with its remedy; `str()` gives both, the remedy on lines of its own."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}\n{remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class SettingError(StackError):
    """A setting has no usable value."""


class NotInstalledError(StackError):
    """A program or its jars are not there."""


class PortTakenError(StackError):
    """Somebody else listens where a program of ours should."""


class NotReadyError(StackError):
    """A program did not become ready in time."""
