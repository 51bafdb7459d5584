"""Milvus on this machine without Docker: Milvus Lite, and the real server of the package `milvus` 2.3.5."""

import fcntl
import hashlib
import importlib.util
import lzma
import os
import re
import shutil
import signal
import sys
import time
import urllib.request
from pathlib import Path
from typing import ClassVar

import grpc  # type: ignore[import-untyped]
import yaml

from consumers.local.server import LOOPBACK, Command, LocalServer, exclusively, free_ports, is_free
from pipeline.errors import Unavailable, UsageError

STANDALONE_VERSION = "2.3.5"


class LocalMilvusLite(LocalServer):
    """Milvus Lite serving one data folder on loopback; `address` is its http address.

    One process at a time can have the folder open, so every process that names the same folder shares one server: the
    first one starts it, the others find its address in `.serve/address`, and it runs until the last one has stopped.
    A folder that something else has open (`MilvusClient("x.db")`, a `milvus-lite server`) is a UsageError.
    """

    title = "Milvus Lite"
    port_option = "--milvus-port"
    stop_signal = signal.SIGINT  # the one signal on which it closes its files in order
    stop_grace_s = 10.0
    start_timeout_s = 60.0

    @property
    def run_directory(self) -> Path:
        """A folder inside the data folder that Milvus Lite takes no notice of."""
        return self.directory / ".serve"

    def launch(self) -> None:
        """Find the server of this folder or start it; it answers when this returns."""
        if not self._lock.acquire(alone=False, within_s=2 * self.stop_grace_s):
            raise Unavailable(f"the {self.title} that served {self.directory} does not end; try again")
        with exclusively(self.run_directory / "starting"):
            self._address = self._running()
            if self._address is None:
                self._spawn(self._choose_port())
                super().await_ready()

    def await_ready(self) -> str:
        """The address; the server answered already in `launch`."""
        return self.address

    def check(self) -> None:
        """Unavailable when the server has ended, whoever started it; then `stop` and `start` again."""
        super().check()
        if self._process is None and self._address is not None and not is_milvus_ready(self._address):
            raise Unavailable(f"the {self.title} at {self._address} that serves {self.directory} has ended")

    def _command(self, port: int) -> Command:
        if importlib.util.find_spec("milvus_lite") is None:
            raise UsageError("Milvus Lite needs the package milvus-lite: pip install 'milvus-stream[local]'")
        # Written before the start: whoever comes later must find the server even if this process is killed next.
        self._address_file.write_text(self._address_at(port))
        arguments = [sys.executable, "-m", "milvus_lite", "server", "--host", LOOPBACK]
        return Command([*arguments, "--port", str(port), "--data-dir", str(self.directory)], self.directory)

    def _address_at(self, port: int) -> str:
        return f"http://{LOOPBACK}:{port}"

    def _answers(self) -> bool:
        return is_milvus_ready(self.address)

    @property
    def _address_file(self) -> Path:
        return self.run_directory / "address"

    def _running(self) -> str | None:
        """The address of the server that has the folder open, None when nobody has."""
        address = self._address_file.read_text() if self._address_file.exists() else None
        deadline = time.monotonic() + self.start_timeout_s
        while self._is_open():
            if address is None or time.monotonic() > deadline:
                raise UsageError(
                    f"{self.directory} is open in another process that does not share it; stop that process, or give "
                    "milvus.uri the http address at which it serves"
                )
            if is_milvus_ready(address):
                if self._wanted_port is not None and address != self._address_at(self._wanted_port):
                    raise UsageError(
                        f"{self.directory} is served at {address} already, not on port {self._wanted_port}"
                    )
                return address
            time.sleep(0.1)
        return None

    def _is_open(self) -> bool:
        """Whether a process holds Milvus Lite's own lock of the folder."""
        try:
            file = os.open(self.directory / "LOCK", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False


class LocalMilvusStandalone(LocalServer):
    """A real Milvus server: `milvus run standalone` of the package, embedded etcd, RocksMQ, local files.

    Every one of its ports is moved to a free one, so that several can run on a machine. Version 2.3.5 listens on every
    address of the machine, has no setting against that and asks for no password: for machines that others cannot reach.
    It merges no segments (`compacts`): this version loses deletes that arrive while it does (docs/guarantees.md).
    After a kill -9 its collections can be searched about 40 s after the restart, when etcd has dropped the dead
    server's sessions (lease of 30 s).
    """

    title = "Milvus"
    port_option = "--milvus-port"
    stop_grace_s = 3.0  # on SIGTERM 2.3.5 panics or hangs for more than a minute; a restart is the same after either
    start_timeout_s = 180.0
    compacts: ClassVar[bool] = False

    def __init__(self, directory: Path, port: int | None = None) -> None:
        super().__init__(directory, port)
        self._health_port = 0

    def _command(self, port: int) -> Command:
        package = _package_data()
        binaries = _binaries(package / "bin")
        etcd, peer, self._health_port, *others = self._inner_ports(port)
        self._write_configuration(package, port, others, etcd, peer)
        environment = {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._health_port),
            "MILVUSCONF": str(self.directory / "configs"),
            "LD_LIBRARY_PATH": f"{binaries}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        }
        return Command([str(binaries / "milvus"), "run", "standalone"], self.directory, environment)

    def _address_at(self, port: int) -> str:
        return f"http://{LOOPBACK}:{port}"

    def _answers(self) -> bool:
        # The proxy answers before the other parts do; /healthz is OK when all of them are.
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{LOOPBACK}:{self._health_port}/healthz", timeout=2) as response:
                healthy = b"OK" in response.read()
        except OSError:
            return False
        return healthy and is_milvus_ready(self.address)

    def _choose_port(self) -> int:
        last = self._last_ports()[:1]
        return last[0] if self._wanted_port is None and last and is_free(last[0]) else super()._choose_port()

    def _inner_ports(self, port: int) -> list[int]:
        """The ports of the last start if they are free, else others.

        SIGTERM makes 2.3.5 panic without giving back its etcd sessions. The next server asks the parts named there
        first, and only finds itself at once where their ports are the same; else it waits for the lease: 55 s, not 8.
        """
        ports = self._last_ports()
        if ports[:1] != [port] or not all(map(is_free, ports)):
            ports = [port, *(free for free in free_ports(16) if free != port)]
            self._ports_file.write_text(" ".join(map(str, ports)))
        return ports[1:]

    def _last_ports(self) -> list[int]:
        return [int(port) for port in self._ports_file.read_text().split()] if self._ports_file.exists() else []

    @property
    def _ports_file(self) -> Path:
        return self.directory / "ports"

    def _write_configuration(self, package: Path, port: int, ports: list[int], etcd: int, peer: int) -> None:
        """Write configs/milvus.yaml, where MILVUSCONF points, and etcd.yaml beside it."""
        configs, data = self.directory / "configs", self.directory / "data"
        configs.mkdir(exist_ok=True)
        data.mkdir(exist_ok=True)
        given = {
            "proxy_port": str(port),
            "etcd_port": str(etcd),
            "etcd_data_dir": str(data / "etcd.data"),
            "local_storage_dir": str(data),
            "rocksmq_data_dir": str(data / "rocksmq"),
            "system_log_path": '""',
        }
        free = iter(ports)

        def fill(match: re.Match[str]) -> str:
            name, default = match[1], match[2] or ""
            if name not in given and name.endswith("_port"):
                given[name] = str(next(free))
            return given.get(name, default)

        template = (package / "config.yaml.template").read_text()
        settings = yaml.safe_load(re.sub(r"\{\{\s*(\w+)(?:\(\w+\))?\s*(?::\s*(.*?))?\s*}}", fill, template))
        for part in ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode"):
            settings[part]["ip"] = LOOPBACK  # where the parts find each other
        # 2.3.5 loses deletes that arrive while it compacts a segment, whoever writes and without any fault.
        settings["dataCoord"]["enableCompaction"] = self.compacts
        # With an embedded etcd its ports come from a file of etcd's own, else they are 2379 and 2380.
        settings["etcd"]["config"] = {"path": str(configs / "etcd.yaml")}
        (configs / "milvus.yaml").write_text(yaml.safe_dump(settings))
        client_url, peer_url = f"http://{LOOPBACK}:{etcd}", f"http://{LOOPBACK}:{peer}"
        etcd_settings = {
            "name": "default",
            "listen-client-urls": client_url,
            "advertise-client-urls": client_url,
            "listen-peer-urls": peer_url,
            "initial-advertise-peer-urls": peer_url,
            "initial-cluster": f"default={peer_url}",
        }
        (configs / "etcd.yaml").write_text(yaml.safe_dump(etcd_settings))
        shutil.copy(package / "glog.conf", configs / "glog.conf")


def _package_data() -> Path:
    spec = importlib.util.find_spec("milvus")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"a local Milvus server needs the package milvus=={STANDALONE_VERSION}, which exists for Linux on x86-64: "
            "pip install 'milvus-stream[local]', or use Milvus Lite"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _binaries(packed: Path) -> Path:
    """The folder with the unpacked server, made once per user: 27 MB of LZMA take seconds to unpack."""
    cache = Path.home() / ".cache" / "milvus-stream"
    cache.mkdir(parents=True, exist_ok=True)
    # Named for what it was unpacked from: another build under the same version is unpacked again.
    digest = hashlib.sha256("".join(f"{f.name} {f.stat().st_size}\n" for f in sorted(packed.iterdir())).encode())
    folder = cache / f"milvus-{STANDALONE_VERSION}-{digest.hexdigest()[:12]}"
    with exclusively(cache / "milvus.lock"):
        if not folder.exists():
            fresh = folder.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            for source in packed.glob("*.lzma"):
                target = fresh / source.stem
                with lzma.open(source) as packed_file, target.open("wb") as file:
                    shutil.copyfileobj(packed_file, file, 1 << 20)
                target.chmod(0o755)
            fresh.rename(folder)
    return folder


def is_milvus_ready(uri: str, timeout_s: float = 2.0) -> bool:
    """Whether the Milvus at `uri` lists its collections.

    A raw ShowCollections call, for which no generated code and so no Milvus client is needed: the request is empty, and
    the answer begins with the Status message (field 1), which is empty or has error_code (field 1) and code (field 3).
    """
    # Read by hand: the Milvus client takes seconds to import, and the server starts without it.
    options = (("grpc.enable_http_proxy", 0),)
    with grpc.insecure_channel(uri.removeprefix("http://"), options) as channel:
        call = channel.unary_unary("/milvus.proto.milvus.MilvusService/ShowCollections")
        try:
            answer: bytes = call(b"", timeout=timeout_s)
        except grpc.RpcError:
            return False
    if not answer.startswith(b"\x0a"):  # no Status at all: every field has its default, which means success
        return True
    status = answer[2 : 2 + answer[1]]
    return not status.startswith((b"\x08", b"\x18"))
