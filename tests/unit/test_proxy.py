"""The tests' own TCP proxy does to a connection what it says."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy


class Echo(socketserver.BaseRequestHandler):
    """Sends everything back, after the server's letter."""

    def handle(self) -> None:
        while data := self.request.recv(1 << 16):
            self.request.sendall(self.server.letter + data)  # type: ignore[attr-defined]


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, letter: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.letter = letter
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.socket.getsockname()[1])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(b"") as server:
        yield server
        server.shutdown()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.address) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def echo(client: socket.socket, data: bytes = b"ping") -> float:
    """Seconds until all of ``data`` was back."""
    began = time.monotonic()
    client.sendall(data)
    back = b""
    while len(back) < len(data):
        got = client.recv(1 << 16)
        if not got:
            raise ConnectionError("closed")
        back += got
    assert back == data
    return time.monotonic() - began


def silent(client: socket.socket, seconds: float = 0.2) -> bool:
    client.settimeout(seconds)
    try:
        return not client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)


def test_it_passes_on_what_it_is_given_in_both_directions(proxy: Proxy) -> None:
    data = bytes(range(256)) * 40_000
    with connect(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        back = b""
        while len(back) < len(data):
            back += client.recv(1 << 20)
        sender.join()
    assert back == data
    assert proxy.passed == (len(data), len(data))


def test_an_end_is_passed_on(proxy: Proxy) -> None:
    with connect(proxy) as client:
        echo(client)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


def test_each_direction_can_be_delayed(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert echo(client) < 0.2
        proxy.delay(to_target=0.2, to_client=0.1)
        assert 0.3 <= echo(client) < 1
        proxy.heal()
        assert echo(client) < 0.2


def test_frozen_it_holds_everything_back_and_thawed_it_goes_on(proxy: Proxy) -> None:
    with connect(proxy) as client:
        echo(client)
        proxy.freeze()
        client.sendall(b"later")
        with connect(proxy) as another:
            another.sendall(b"me too")
            assert silent(client)
            proxy.heal()
            assert client.recv(100) == b"later"
            assert another.recv(100) == b"me too"


@pytest.mark.parametrize("to_target", [True, False])
def test_one_direction_can_be_cut(proxy: Proxy, to_target: bool) -> None:
    with connect(proxy) as client:
        proxy.cut(to_target=to_target, to_client=not to_target)
        client.sendall(b"ping")
        assert silent(client)
        assert proxy.passed == (0 if to_target else 4, 0)
        proxy.heal()
        assert client.recv(100) == b"ping"


def test_connections_can_be_dropped_and_made_again(proxy: Proxy) -> None:
    with connect(proxy) as client:
        echo(client)
        proxy.drop()
        with pytest.raises(ConnectionError):
            echo(client)
    with connect(proxy) as client:
        echo(client)
    assert proxy.accepted == 2


def test_it_can_refuse_connections_and_take_them_again(proxy: Proxy) -> None:
    port = proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.heal()
    assert proxy.port == port
    with connect(proxy) as client:
        echo(client)


def test_new_connections_go_to_the_new_target(proxy: Proxy) -> None:
    with Server(b"2") as second, connect(proxy) as client:
        echo(client)
        proxy.retarget(*second.address)
        echo(client)
        with connect(proxy) as another:
            another.sendall(b"x")
            assert another.recv(10) == b"2x"
        second.shutdown()


def test_a_target_that_is_not_there_closes_the_connection(proxy: Proxy, server: Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy.retarget("127.0.0.1", unused.getsockname()[1])
        with connect(proxy) as client, pytest.raises(ConnectionError):
            echo(client)
