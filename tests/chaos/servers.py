"""Kafka and Milvus that can be killed and come back with their data at the same address."""

from pathlib import Path

import psutil
import yaml

from consumers.local import LocalKafka, LocalMilvusStandalone
from consumers.local_server import LOOPBACK, LocalServer, free_ports


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


class WithoutCompaction(LocalMilvusStandalone):
    """Milvus 2.3.5 that merges no segments.

    This version loses deletes that arrive while it compacts or loads a segment, without any fault and whoever writes
    (docs/guarantees.md, `python -m tests.chaos.server_alone`). What it loses while loading comes back with a reload;
    what it loses while compacting does not, and nobody could tell it from a fault of the writer.
    """

    def _write_configuration(self, package: Path, port: int, ports: list[int], etcd: int, peer: int) -> None:
        super()._write_configuration(package, port, ports, etcd, peer)
        path = self.directory / "configs" / "milvus.yaml"
        settings = yaml.safe_load(path.read_text())
        settings["dataCoord"]["enableCompaction"] = False
        path.write_text(yaml.safe_dump(settings))


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
    return WithoutCompaction(directory, free_ports(1)[0])
