"""The two HTTP servers of the project on real sockets: the query worker's and a worker's probe server."""

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from consumers.http.operations import exposition
from consumers.http.probe_server import ProbeServer
from consumers.http.server import HttpServer, listen
from consumers.query.app import create_app
from pipeline.query import Searcher, SearchService
from pipeline.telemetry.metrics import IngestMetrics, QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.waiting import eventually


@dataclass
class Served:
    """A running server; `problems` is what its readiness says."""

    host: str
    port: int
    server: HttpServer
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def open(self) -> int:
        """Connections that the server holds."""
        return len(self.server.connections.connections)

    def connect(self, sent: bytes = b"", *, receive_bytes: int | None = None) -> socket.socket:
        """A client that has sent this, and gives up a read after 20 s."""
        client = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        if receive_bytes is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.settimeout(20)
        client.connect((self.host, self.port))
        client.sendall(sent)
        return client

    def answer(self, method: str, path: str, host: str = "localhost", body: str = "") -> tuple[int, str, str]:
        """Status, head and body of one request, as on the wire."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        typed = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        with self.connect(f"{head}{typed}\r\n{body}".encode()) as client:
            received = bytearray()
            while data := client.recv(65536):
                received += data
        top, _, content = received.decode().partition("\r\n\r\n")
        return int(top.split()[1]), top, content


def reply(client: socket.socket) -> tuple[int, int]:
    """Status of the next answer, and how many bytes its body has, read whole."""
    received = bytearray()
    while (end := received.find(b"\r\n\r\n") + 4) < 4:
        received += _more(client)
    lines = received[:end].decode().lower().split("\r\n")
    length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
    left = end + length - len(received)
    while left > 0:
        left -= len(_more(client))
    assert left == 0, f"{-left} bytes more than the answer has"
    return int(lines[0].split()[1]), length


def _more(client: socket.socket) -> bytes:
    data = client.recv(65536)
    assert data, "the connection ended within an answer"
    return data


def ended(client: socket.socket) -> bool:
    """Whether the server ends the connection; TimeoutError where it does not. What it sends before is thrown away."""
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return True


class East:
    """Embeds every text to the east."""

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[1, 0]] * len(texts), np.float32)


@contextmanager
def query_server(
    milvus: FakeMilvus, collection: str, *, host: str = "127.0.0.1", connections: int = 1024, concurrency: int = 4
) -> Iterator[Served]:
    """The query worker's application over this Milvus."""
    registry = CollectorRegistry()
    problems: dict[str, str] = {}

    def ready() -> Mapping[str, str]:
        return problems

    service = SearchService(Searcher(milvus, collection), East(), QueryMetrics(registry), concurrency=concurrency)
    app = create_app(service, ready, registry=registry)
    listener = listen("query", host, 0)
    server = HttpServer(app, listener, connections=connections, drain_s=60)
    thread = threading.Thread(target=server.serve_until_stopped)
    port = listener.getsockname()[1]
    thread.start()
    try:
        eventually(lambda: server.started)
        yield Served(host, port, server, problems)
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def probe_server(*, host: str = "127.0.0.1") -> Iterator[Served]:
    """A worker's probe server, its worker up."""
    problems: dict[str, str] = {}
    registry = IngestMetrics(CollectorRegistry()).registry
    with ProbeServer("ingest", listen("telemetry", host, 0), exposition(registry)) as opened:
        opened.watch(alive=dict, ready=lambda: problems)
        eventually(lambda: opened.server.started)
        yield Served(host, int(opened.address.rpartition(":")[2]), opened.server, problems)
