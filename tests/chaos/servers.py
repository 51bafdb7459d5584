"""Kafka and Milvus that can be killed, stopped, filled up and set back, and come back at the same address."""

import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from consumers.local import LocalKafka, LocalMilvusStandalone
from consumers.local.server import LOOPBACK, LocalServer, free_ports
from pipeline.errors import MilvusStreamError
from tests.chaos.isolation import Disk
from tests.chaos.report import say

READY_S = 300.0
"""Milvus has been seen to need 130 s after a kill: etcd keeps the dead server's lease, then its log is read."""


class ProxiedKafka(LocalKafka):
    """A broker with a further listener for each proxy: its clients are sent to the proxy by the metadata, too.

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
        advertised = "".join(f",PROXY{n}://{LOOPBACK}:{proxy}" for n, (_, proxy) in numbered)
        kinds = "".join(f",PROXY{n}:PLAINTEXT" for n, _ in numbered)
        lines = []
        for line in text.splitlines():
            if line.startswith("listeners="):
                line += own  # noqa: PLW2901
            elif line.startswith("advertised.listeners="):
                line += advertised  # noqa: PLW2901
            lines.append(line)
        lines.append(f"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{kinds}")
        path.write_text("\n".join(lines) + "\n")
        return path


class Killable:
    """A local server that faults strike."""

    def __init__(self, server: LocalServer, disk: Disk | None = None) -> None:
        self.server = server
        self.disk = disk

    @property
    def alive(self) -> bool:
        """Whether its process runs, stopped or not."""
        return bool(self._processes())

    def kill(self) -> None:
        """kill -9 of the server itself, not of the guard that watches it."""
        for each in self._processes():
            with suppress(psutil.NoSuchProcess):
                each.kill()
        guard = self.server._process
        if guard is not None:
            guard.wait(20)
        self.server.stop()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT; nothing to do where it does not run."""
        self._signal(signal.SIGCONT)

    def launch(self) -> None:
        """Start it again, on the same data and port; it answers later. Nothing to do where it runs."""
        if not self.alive:
            self.server.stop()
            self.server.launch()

    def await_ready(self, within: float = READY_S) -> None:
        """Wait until it answers; start it again where it ended while it recovered."""
        deadline = time.monotonic() + within
        while True:
            try:
                self.server.await_ready()
            except MilvusStreamError as error:
                if time.monotonic() > deadline:
                    raise
                if not self.alive:
                    say(f"  {self.server.title} has ended by itself and is started again: {str(error)[-300:]!r}")
                    self.launch()
            else:
                return

    def fill_disk(self) -> None:
        """Leave no room for its data."""
        assert self.disk is not None, "a disk of its own needs root and namespaces"
        self.disk.fill()

    def free_disk(self) -> None:
        """Give the room back, and start it again: a server that met a full disk is not known to recover in place."""
        assert self.disk is not None
        self.disk.free()
        self.kill()
        self.launch()

    def snapshot(self, folder: Path) -> None:
        """Copy its data as they are at one instant; it is stopped for that time."""
        self.freeze()
        try:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self._data, folder)
        finally:
            self.thaw()

    def restore(self, folder: Path) -> None:
        """Put the data of a snapshot in the place of what it has; it must not run."""
        shutil.rmtree(self._data)
        shutil.copytree(folder, self._data)

    @property
    def _data(self) -> Path:
        return self.server.directory / "data"

    def _processes(self) -> list[psutil.Process]:
        guard = self.server._process
        if guard is None or guard.poll() is not None:
            return []
        try:
            children = psutil.Process(guard.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

    def _signal(self, number: signal.Signals) -> None:
        for each in self._processes():
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)


def make_kafka(directory: Path, proxies: int) -> ProxiedKafka:
    """A broker on a fixed free port."""
    return ProxiedKafka(directory, free_ports(1)[0], proxies)


def make_milvus(directory: Path) -> LocalMilvusStandalone:
    """A standalone Milvus on a fixed free port."""
    return LocalMilvusStandalone(directory, free_ports(1)[0])
