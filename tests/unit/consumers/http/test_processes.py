"""The HTTP servers in processes of their own: few descriptors, and probes from the first moment on."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.support.processes import Running, running
from tests.support.waiting import eventually

DESCRIPTORS = 256
SERVER = """
import os, resource, sys
from contextlib import suppress
from pipeline.telemetry import configure_logging
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.served import query_server, probe_server
from tests.support.rigs.search import COLLECTION, DOCUMENTS

configure_logging("info", "json")
soft, hard = map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
milvus = FakeMilvus()
milvus.create_collection(DOCUMENTS)
with probe_server() if sys.argv[1] == "probe-server" else query_server(milvus, COLLECTION) as served:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    print('{"address": "%s", "port": %d, "limit": %d}' % (served.address, served.port, limit), flush=True)
    held = []
    for line in sys.stdin:
        if line == "take\\n":
            with suppress(OSError):
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
        else:
            for each in held:
                os.close(each)
        print('{}', flush=True)
"""


class Server(Running):
    """One server; `tell` has it take every descriptor that is left, or give them back."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        super().__init__(process, errors)
        started = self.json_line(60)
        self.port: int = started["port"]
        self.address: str = started["address"]
        self.limit: int = started["limit"]

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        self.json_line(20)

    def connect(self, sent: bytes) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        client.sendall(sent)
        return client


@pytest.fixture(params=["query-worker", "probe-server"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Both, with few descriptors; the soft limit is lower still."""
    log = tmp_path / "server.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, request.param, "128", str(DESCRIPTORS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
    try:
        yield Server(process, log)
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def test_half_open_connections_leave_descriptors_and_probes(server: Server) -> None:
    assert server.limit == DESCRIPTORS
    with ExitStack() as clients:
        for _ in range(2 * DESCRIPTORS):
            clients.enter_context(closing(server.connect(b"GET /healthz HTTP/1.1\r\n")))
        assert httpx.get(f"{server.address}/healthz").status_code == 200
        assert httpx.get(f"{server.address}/readyz").status_code == 200
        assert psutil.Process(server.process.pid).num_fds() < 0.75 * DESCRIPTORS
    assert "accept_failed" not in server.errors()


def test_without_descriptors_it_waits_says_so_now_and_then_and_goes_on(server: Server) -> None:
    def failures() -> int:
        return server.errors().count("http.accept_failed")

    server.tell("take")
    with ExitStack() as clients:
        for _ in range(40):
            clients.enter_context(closing(server.connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")))
        eventually(lambda: failures() >= 1)
        process = psutil.Process(server.process.pid)
        before = process.cpu_times()
        eventually(lambda: failures() >= 3)
        after = process.cpu_times()
        assert failures() <= 4
        assert after.user + after.system - before.user - before.system < 1.0, "of the two seconds between"
        assert len(server.errors()) < 4000
        server.tell("give back")
        assert eventually(lambda: httpx.get(f"{server.address}/healthz", timeout=5).status_code == 200)


def test_probes_are_answered_before_the_worker_can_work(tmp_path: Path) -> None:
    """Milvus takes the connection and says nothing: as long as a model takes to load."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = tmp_path / "config.yaml"
        milvus = {"uri": f"http://127.0.0.1:{silent.getsockname()[1]}", "timeout": "60s"}
        telemetry = {"host": "::1", "port": 0, "log_format": "json"}
        config.write_text(
            yaml.safe_dump({"kafka": {"topics": ["t"]}, "milvus": milvus, "telemetry": telemetry}), encoding="utf-8"
        )
        with running(["-m", "consumers.cli", "ingest", "-c", str(config)], tmp_path / "log") as worker:
            lines = eventually(
                lambda: [line for line in worker.errors().splitlines() if "listening" in line], within=60
            )
            address = json.loads(lines[0])["address"]
            assert address.startswith("http://[::1]:")
            assert httpx.get(f"{address}/healthz").status_code == 200
            response = httpx.get(f"{address}/readyz")
            assert response.status_code == 503
            assert list(response.json()["problems"]) == ["start"]
            assert "ingest_records_total" in httpx.get(f"{address}/metrics").text
            assert worker.process.poll() is None


def test_probes_need_no_heavy_imports() -> None:
    code = "import sys; import consumers.http.probe_server; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert "uvicorn" in loaded
    assert not {"torch", "transformers", "pymilvus", "kafka", "fastapi"} & set(loaded)
