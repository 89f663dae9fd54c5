"""Which TCP ports are taken, by whom, and which are free. Reads /proc where there is one, else tries to bind."""

import contextlib
import ipaddress
import os
import random
import socket
import time
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.stack import processes
from tools.stack.errors import PortTakenError, SettingError

LISTEN_STATE = "0A"
LOOPBACKS = ("127.0.0.1", "::1")
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound
# Below what Linux hands to outgoing connections (32768 and up), so that none takes the port before we bind it.
FREE_RANGE = range(20000, 32000)


@dataclass(frozen=True, slots=True)
class PortUse:
    """A port that a program of the stack listens on, and the setting that moves it."""

    port: int
    program: str
    setting: str


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket: its address (without IPv4-in-IPv6 wrapping), port, and inode (0 when unknown)."""

    address: str
    port: int
    inode: int


@dataclass(frozen=True, slots=True)
class TakenPort:
    """A port of ours that somebody else holds; `holder` is None when the system does not tell whose it is."""

    use: PortUse
    holder: processes.Process | None

    def describe(self) -> str:
        """One line for a person: which port, what wants it, and who has it."""
        by = (
            f"process {self.holder.pid} ({self.holder.short_command})"
            if self.holder
            else "a process that is not visible"
        )
        return f"Port {self.use.port}, which {self.use.program} needs, is taken by {by}."


def parse_listeners(table: str) -> list[Listener]:
    """The listening sockets of a /proc/net/tcp or /proc/net/tcp6 table."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != LISTEN_STATE:
            continue
        raw, port = fields[1].split(":")
        # Each group of eight digits is one 32-bit word in the machine's (little-endian) order.
        packed = b"".join(bytes.fromhex(raw[i : i + 8])[::-1] for i in range(0, len(raw), 8))
        address = ipaddress.ip_address(packed)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        found.append(Listener(str(mapped or address), int(port, 16), int(fields[9])))
    return found


def listeners() -> list[Listener]:
    """Every listening TCP socket of this network namespace; empty where there is no /proc."""
    found: list[Listener] = []
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            found += parse_listeners(Path(name).read_text())
        except OSError:
            continue
    return found


def in_the_way(listener: Listener, host: str) -> bool:
    """Whether a listener keeps us from listening on `host`, or would answer in our place for `localhost`."""
    return listener.address in (*LOOPBACKS, *WILDCARDS, host) or host in WILDCARDS


def can_bind(port: int, host: str = "127.0.0.1") -> bool:
    """Whether this process could listen on the port now (lingering closed connections do not count)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise SettingError(
                f"Port {port} may not be used: {error.strerror}.", "Choose one of 1024 or more."
            ) from error
        except OSError:
            return False
    return True


def holders(inodes: Iterable[int]) -> dict[int, processes.Process]:
    """The process behind each socket inode, where this user may see it."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes if inode}
    found: dict[int, processes.Process] = {}
    for pid in processes.pids() if wanted else ():
        for link in wanted.keys() & _open_files(pid):
            process = processes.read(pid)
            if process:
                found.setdefault(wanted[link], process)
    return found


def _open_files(pid: int) -> set[str]:
    """What a process's file descriptors point at; empty when this user may not see it."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def taken(
    uses: Sequence[PortUse],
    *,
    host: str,
    own: Callable[[processes.Process], bool],
    own_ports: Collection[int] = (),
) -> list[TakenPort]:
    """The ports among `uses` that somebody other than `own` processes holds.

    `own_ports` are those that running programs of ours were given: they are taken to hold them where the system does
    not tell (root in a container may not look into processes of other users).
    """
    blocking = [listener for listener in listeners() if in_the_way(listener, host)]
    by_inode = holders(listener.inode for listener in blocking if listener.port in {use.port for use in uses})
    result = []
    for use in uses:
        mine = [listener for listener in blocking if listener.port == use.port]
        known = [by_inode[listener.inode] for listener in mine if listener.inode in by_inode]
        strangers = [process for process in known if not own(process)]
        if strangers:
            result.append(TakenPort(use, strangers[0]))
        elif not known and use.port not in own_ports and (mine or not can_bind(use.port)):
            result.append(TakenPort(use, None))
    return result


def require_distinct(uses: Sequence[PortUse]) -> None:
    """Raises SettingError when two programs were given the same port."""
    seen: dict[int, PortUse] = {}
    for use in uses:
        other = seen.setdefault(use.port, use)
        if other is not use:
            raise SettingError(
                f"Port {use.port} is given twice: to {other.program} ({other.setting}) and {use.program} ({use.setting}).",
                "Give each its own, in the environment or in .env.",
            )


def refuse(taken_ports: Sequence[TakenPort], command: str, configured: Iterable[PortUse] = ()) -> None:
    """Raises PortTakenError naming each taken port, its holder, and how to end that or to use another port.

    No port of `configured` is proposed: what it belongs to is about to need it.
    """
    if not taken_ports:
        return
    avoid = {use.port for use in configured} | {t.use.port for t in taken_ports}
    changes: dict[str, list[str]] = {}
    for use in dict.fromkeys(t.use for t in taken_ports):
        port = suggest(use, avoid)
        avoid.add(port)
        changes.setdefault(use.setting, []).append(str(port))
    # A setting of several ports is given whole: those that are free stay as they are.
    for setting, ports_of in changes.items():
        changes[setting] = [
            *(
                str(use.port)
                for use in configured
                if use.setting == setting and use not in {t.use for t in taken_ports}
            ),
            *ports_of,
        ]
    settings = " ".join(f"{setting}={','.join(values)}" for setting, values in changes.items())
    holders_of = {t.holder.pid: t.holder for t in taken_ports if t.holder}
    if any("docker-proxy" in holder.short_command for holder in holders_of.values()):
        # Ending the proxy would cut the container's port off and leave the container running.
        stop = "Stop the container that has it (docker ps shows it; this platform's own: make down STACK=compose)"
    elif holders_of:
        stop = f"Stop the other process (kill {' '.join(map(str, holders_of))})"
    else:
        stop = "Stop the other process"
    raise PortTakenError(
        "\n".join(t.describe() for t in taken_ports),
        f"{stop}, or use another port: {settings} {command} (or the same in .env).",
    )


def suggest(use: PortUse, avoid: Container[int] = ()) -> int:
    """A free port near the taken one, none of `avoid`; 0 where there is none."""
    used = {listener.port for listener in listeners()}
    candidates = range(use.port + 1, 65536)
    return next((port for port in candidates if port not in used and port not in avoid and can_bind(port)), 0)


def free_ports(count: int) -> list[int]:
    """`count` different ports that nobody listens on now."""
    used = {listener.port for listener in listeners()}
    chosen: list[int] = []
    for port in random.sample(FREE_RANGE, len(FREE_RANGE)):
        if port not in used and can_bind(port):
            chosen.append(port)
        if len(chosen) == count:
            break
    return chosen


def wait_free(wanted: Iterable[int], timeout: float) -> bool:
    """Waits up to `timeout` seconds until nobody listens on the ports; says whether that came true."""
    deadline = time.monotonic() + timeout
    remaining = set(wanted)
    while remaining:
        remaining = {port for port in remaining if not can_bind(port)}
        if remaining and time.monotonic() > deadline:
            return False
        if remaining:
            time.sleep(0.05)
    return True
