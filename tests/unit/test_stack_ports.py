"""Taken ports: found, told apart from our own, and named with a remedy."""

import os
import re
import socket
from collections.abc import Iterator

import pytest

from tools.stack import PortTakenError, ports
from tools.stack.processes import Process

USE = ports.PortUse(5432, "postgres", "POSTGRES_PORT")
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000 100 0 0 10 0
   1: 0100007F:9C40 0100007F:1538 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000 100 0 0 10 0
"""
TABLE6 = """\
  sl  local_address                         remote_address                        st tx_queue ...
   0: 00000000000000000000000001000000:1F41 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 12 1 0 100
   1: 0000000000000000FFFF00000100007F:1F42 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 13 1 0 100
"""


@pytest.fixture
def listening() -> Iterator[int]:
    """A port that this test listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_only_listening_sockets_are_read_from_the_table() -> None:
    assert ports.parse_listeners(TABLE) == [ports.Listener("127.0.0.1", 5432, 4711)]


def test_ipv6_addresses_are_read_and_mapped_ones_unwrapped() -> None:
    assert ports.parse_listeners(TABLE6) == [
        ports.Listener("::1", 8001, 12),
        ports.Listener("127.0.0.1", 8002, 13),
    ]


@pytest.mark.parametrize(
    ("address", "host", "blocks"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("::1", "127.0.0.1", True),  # `localhost` may reach that one instead of ours
        ("192.0.2.7", "127.0.0.1", False),
        ("192.0.2.7", "0.0.0.0", True),
    ],
)
def test_which_listeners_are_in_the_way(address: str, host: str, blocks: bool) -> None:
    assert ports.in_the_way(ports.Listener(address, 1, 1), host) is blocks


def test_a_taken_port_is_found_with_its_holder(listening: int) -> None:
    use = ports.PortUse(listening, "kafka", "KAFKA_PORT")
    [taken] = ports.taken([use], host="127.0.0.1", own=lambda process: False)
    assert taken.use == use
    assert taken.holder is not None
    assert taken.holder.pid == os.getpid()


def test_a_port_that_our_own_process_holds_is_not_taken(listening: int) -> None:
    use = ports.PortUse(listening, "kafka", "KAFKA_PORT")
    assert ports.taken([use], host="127.0.0.1", own=lambda process: process.pid == os.getpid()) == []


def test_a_port_of_an_invisible_holder_is_ours_only_when_our_program_was_given_it(
    listening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "holders", lambda inodes: {})
    use = ports.PortUse(listening, "postgres", "POSTGRES_PORT")
    assert ports.taken([use], host="127.0.0.1", own=lambda process: False, own_ports={listening}) == []
    [taken] = ports.taken([use], host="127.0.0.1", own=lambda process: False)
    assert taken.holder is None


def test_a_free_port_is_not_taken() -> None:
    [port] = ports.free_ports(1)
    assert ports.taken([ports.PortUse(port, "kafka", "KAFKA_PORT")], host="127.0.0.1", own=lambda process: False) == []


def test_the_message_names_port_holder_setting_and_a_way_out() -> None:
    holder = Process(4242, 1, ("/usr/lib/postgresql/17/bin/postgres", "-D", "/var/lib/postgresql"))
    with pytest.raises(PortTakenError) as caught:
        ports.refuse([ports.TakenPort(USE, holder)], "make up")
    said = str(caught.value)
    assert "Port 5432, which postgres needs, is taken by process 4242" in said
    assert "/usr/lib/postgresql/17/bin/postgres" in said
    assert "kill 4242" in said
    assert "POSTGRES_PORT=" in said
    assert "make up" in said
    assert ".env" in said


def test_the_message_is_honest_about_an_invisible_holder() -> None:
    with pytest.raises(PortTakenError, match="not visible") as caught:
        ports.refuse([ports.TakenPort(USE, None)], "make up")
    assert "kill" not in str(caught.value)


def test_nothing_taken_is_no_error() -> None:
    ports.refuse([], "make up")


def test_free_ports_are_different_and_can_be_bound() -> None:
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    assert all(ports.can_bind(port) for port in found)


def test_waiting_for_a_port_ends_when_it_is_given_up(listening: int) -> None:
    assert ports.wait_free([listening], 0.1) is False
    [free] = ports.free_ports(1)
    assert ports.wait_free([free], 0.1) is True


def test_no_port_that_is_about_to_be_used_is_proposed_and_none_twice() -> None:
    first, *_ = ports.free_ports(1)
    uses = [ports.PortUse(first, "consumer", "CONSUMER_PORT"), ports.PortUse(first, "analytics", "ANALYTICS_PORT")]
    kept = [ports.PortUse(first + 1, "ingestion", "INGESTION_PORTS"), *uses]
    with pytest.raises(PortTakenError) as caught:
        ports.refuse([ports.TakenPort(use, None) for use in uses], "make up", kept)
    proposed = re.findall(r"_PORT=(\d+)", str(caught.value))
    assert len(set(proposed)) == 2
    assert str(first + 1) not in proposed


def test_the_proxy_of_a_container_is_not_to_be_killed() -> None:
    holder = Process(4242, 1, ("/usr/sbin/docker-proxy", "-host-port", "5432"))
    with pytest.raises(PortTakenError) as caught:
        ports.refuse([ports.TakenPort(USE, holder)], "make up")
    assert "kill" not in str(caught.value)
    assert "make down STACK=compose" in str(caught.value)
