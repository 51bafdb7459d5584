"""Kafka and Milvus that can be killed and come back with their data at the same address."""

from pathlib import Path

import psutil

from consumers.local import LocalKafka, LocalMilvusStandalone
from consumers.local.server import LOOPBACK, LocalServer, free_ports


class ProxiedKafka(LocalKafka):
    """A broker with a further listener for each proxy: a client that comes through one is told to stay with it.

    `listeners`: its ports; the advertised port of each is the proxy's, see `advertise`.
    """

    def __init__(self, directory: Path, port: int, proxies: int) -> None:
        super().__init__(directory, port)
        self.listeners = [free for free in free_ports(proxies + 1) if free != port][:proxies]
        self._advertised: list[int] = []

    def advertise(self, ports: list[int]) -> None:
        """The proxies' ports, in the order of `listeners`; before the start."""
        self._advertised = ports

    def _write_settings(self, port: int, data: Path) -> Path:
        path = super()._write_settings(port, data)
        text = path.read_text()
        numbered = list(enumerate(zip(self.listeners, self._advertised, strict=True)))
        own = "".join(f",PROXY{n}://{LOOPBACK}:{listener}" for n, (listener, _) in numbered)
        told = "".join(f",PROXY{n}://{LOOPBACK}:{proxy}" for n, (_, proxy) in numbered)
        kinds = "".join(f",PROXY{n}:PLAINTEXT" for n, _ in numbered)
        lines = []
        for line in text.splitlines():
            if line.startswith("listeners="):
                line += own  # noqa: PLW2901
            elif line.startswith("advertised.listeners="):
                line += told  # noqa: PLW2901
            lines.append(line)
        lines.append(f"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{kinds}")
        path.write_text("\n".join(lines) + "\n")
        return path


class Killable:
    """A local server that a fault kills, and that is started again later."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server

    def kill(self) -> None:
        """kill -9 of the server itself, not of the guard that watches it."""
        guard = self._server._process
        assert guard is not None
        for child in psutil.Process(guard.pid).children(recursive=True):
            child.kill()
        guard.wait(20)
        self._server.stop()

    def launch(self) -> None:
        """Start it again, on the same data and port; it answers later."""
        self._server.launch()

    def await_ready(self) -> None:
        """Wait until it answers."""
        self._server.await_ready()


def make_kafka(directory: Path, proxies: int) -> ProxiedKafka:
    """A broker on a fixed free port."""
    return ProxiedKafka(directory, free_ports(1)[0], proxies)


def make_milvus(directory: Path) -> LocalMilvusStandalone:
    """A standalone Milvus on a fixed free port."""
    return LocalMilvusStandalone(directory, free_ports(1)[0])
