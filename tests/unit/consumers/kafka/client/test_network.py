"""The network of a Kafka client: what it leaves when it is closed."""

import selectors
import socket
from collections.abc import Callable, Iterator

import pytest
from kafka.net.inet import create_connection
from kafka.net.transport import KafkaTCPTransport

from consumers.kafka.client.internals import open_network
from tests.support.waiting import eventually


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Every socket that is made while the test runs."""
    sockets: list[socket.socket] = []
    make = socket.socket.__init__

    def recorded(self: socket.socket, *arguments: object, **options: object) -> None:
        make(self, *arguments, **options)  # type: ignore[arg-type]
        sockets.append(self)

    monkeypatch.setattr(socket.socket, "__init__", recorded)
    yield sockets
    for connection in sockets:
        connection.close()


def waits_to_write(network: object) -> Callable[[], bool]:
    kernel = network._net._selector  # type: ignore[attr-defined]
    return lambda: any(key.events & selectors.EVENT_WRITE for key in list(kernel.get_map().values()))


def test_a_connection_under_way_is_closed_with_the_client(made: list[socket.socket]) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    for _ in range(4):  # of a full backlog no connection is accepted
        filling = socket.socket()
        filling.setblocking(False)
        filling.connect_ex(listener.getsockname())
    network = open_network()
    network._net.start()
    before = len(made)
    network._net.call_soon_with_future(create_connection, network._net, *listener.getsockname())
    eventually(waits_to_write(network), what="the connection under way")
    network.close()
    assert [connection.fileno() for connection in made[before:]] == [-1]


def test_a_closed_connection_with_unsent_bytes_is_closed_with_the_client(made: list[socket.socket]) -> None:
    ours, _theirs = socket.socketpair()
    ours.setblocking(False)
    network = open_network()
    network._net.start()
    transport = KafkaTCPTransport(network._net, ours)
    network._net.call_soon_threadsafe(lambda: transport.write(b"x" * 10_000_000))
    eventually(lambda: transport.last_write, what="the first bytes")
    network._net.call_soon_threadsafe(transport.close)
    eventually(transport.is_closing, what="the end of the connection")
    network.close()
    assert ours.fileno() == -1


def test_a_network_may_be_closed_twice() -> None:
    network = open_network()
    network._net.start()
    network.close()
    network.close()
