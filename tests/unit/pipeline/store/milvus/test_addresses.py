"""Ways to a Milvus server: IPv6 addresses, proxies, and what is read of the environment."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc

from pipeline.errors import Unavailable, UsageError
from pipeline.store.milvus.addresses import proxy_hint, server_address
from pipeline.store.milvus.client import connect


class _Servicer(milvus_pb2_grpc.MilvusServiceServicer):  # type: ignore[misc]
    """As much of Milvus as answers a connection."""

    def Connect(self, request: Any, context: Any) -> Any:
        return milvus_pb2.ConnectResponse(status=common_pb2.Status(), identifier=1)

    def GetVersion(self, request: Any, context: Any) -> Any:
        return milvus_pb2.GetVersionResponse(status=common_pb2.Status(), version="v2.5.0")


@contextmanager
def server(host: str) -> Iterator[str]:
    """A gRPC server on this host; its uri."""
    made = grpc.server(ThreadPoolExecutor(2))
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(_Servicer(), made)
    port = made.add_insecure_port(f"{host}:0")
    made.start()
    try:
        yield f"http://{host}:{port}"
    finally:
        made.stop(None).wait()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_server_is_reached_by_every_kind_of_address(host: str) -> None:
    with server(host) as uri, closing(connect(uri)) as milvus:
        assert milvus.server.version == "v2.5.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
@pytest.mark.parametrize("variable", ["http_proxy", "grpc_proxy", "https_proxy"])
def test_no_proxy_is_between_here_and_loopback(monkeypatch: pytest.MonkeyPatch, variable: str, host: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with server(host) as uri, closing(connect(uri)) as milvus:
        assert milvus.server.version == "v2.5.0"


def test_a_proxy_on_the_way_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:hunter2@127.0.0.1:1")
    with pytest.raises(
        Unavailable, match=r"is it running\?.*variable http_proxy.*add milvus\.invalid to no_proxy"
    ) as error:
        connect("http://milvus.invalid:19530", timeout_s=1)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"http_proxy": ""},
        {"http_proxy": "http://p:1", "no_proxy": "a, example.com"},
        {"grpc_proxy": "http://p:1", "no_grpc_proxy": "milvus.example.com"},
    ],
)
def test_a_proxy_that_is_not_used_is_not_named(env: dict[str, str]) -> None:
    assert proxy_hint("http://milvus.example.com:19530", env) == ""


@pytest.mark.parametrize(
    "uri", ["http://::1:19530", "http://[::1:19530", "http://h:port", "http://h:99999", "http://u:p@"]
)
def test_what_no_client_could_parse_is_a_wrong_setting(uri: str) -> None:
    with pytest.raises(UsageError, match="in brackets"):
        server_address(uri)


def test_no_file_of_a_folder_above_the_installation_is_read_into_the_environment(tmp_path: Path) -> None:
    """python-dotenv looks for `.env` above the module that asks; here that is a copy of it."""
    package = tmp_path / "inside" / "pymilvus"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import dotenv\ndotenv.load_dotenv()\nraise SystemExit(0)\n")
    (tmp_path / ".env").write_text("SMUGGLED=1\n")
    script = tmp_path / "script.py"
    code = "import atexit, os; atexit.register(lambda: print(os.environ.get('SMUGGLED')))"
    script.write_text(f"{code}\nfrom pipeline.store import connect\n")
    env = {name: value for name, value in os.environ.items() if name != "PYTHON_DOTENV_DISABLED"}
    env["PYTHONPATH"] = f"{package.parent}{os.pathsep}{Path.cwd()}"
    ran = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=True)
    assert ran.stdout == "None\n"
