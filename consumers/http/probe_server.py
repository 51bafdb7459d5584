"""The HTTP server for probes and metrics of a worker, a replay job or a rekey stage, on a thread of its own."""

import socket
import threading
from collections.abc import Mapping
from typing import Literal, Self

import structlog

from consumers.http.operations import Exposition, Operations, Problems, operations_app
from consumers.http.server import HttpServer

CONNECTIONS = 64
"""Probes and scrapes are a few."""

_log = structlog.get_logger(__name__)


class ProbeServer:
    """Answers from entering the block on: while the model is loaded, and while the worker waits for Milvus.

    Until `watch` is called the process is alive and not ready. The listener is closed at the end.
    """

    def __init__(
        self,
        process: Literal["ingest", "replay", "rekey", "query"],
        listener: socket.socket,
        metrics: Exposition,
        *,
        announce: bool = True,
    ) -> None:
        """`announce`: log the address."""
        self._process = process
        self._announce = announce
        self._operations = Operations(metrics, alive=dict, ready=_starting)
        bound_host, bound_port = listener.getsockname()[:2]
        self.address = f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}"
        """With the port that is open; `port` 0 takes a free one."""
        self.server = HttpServer(operations_app(self._operations), listener, connections=CONNECTIONS, drain_s=1)
        self._thread = threading.Thread(target=self.server.serve_until_stopped, name="probes", daemon=True)

    def watch(self, *, alive: Problems, ready: Problems) -> None:
        """Answer with these checks from now on."""
        self._operations.alive, self._operations.ready = alive, ready

    def __enter__(self) -> Self:
        self._thread.start()
        if self._announce:
            _log.info(f"{self._process}.listening", address=self.address)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join()
        self._operations.close()


def _starting() -> Mapping[str, str]:
    return {"start": "the worker is loading its model or connecting"}
