"""The ingest worker's side port: /metrics, /healthz (the loop turns) and /readyz (its dependencies answer)."""

import json
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from pipeline.errors import UsageError

STOP_S = 0.05
"""Between two looks whether to stop: the standard library's 0.5 s would be waited for at the end of every run."""

Problems = Callable[[], Mapping[str, str]]
"""What is wrong at the moment, by the thing that is wrong; empty when all is well."""


class SidePort:
    """Serves from threads of its own, so that a probe is answered while the worker waits for Milvus.

    `/healthz` fails only when the consumer loop itself hangs: an outage of Kafka or Milvus must not get a worker
    killed that is doing the right thing. `/readyz` names what cannot be used.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, *, alive: Problems, ready: Problems) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry))
                elif self.path in ("/healthz", "/readyz"):
                    problems = alive() if self.path == "/healthz" else ready()
                    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
                    body = {"status": "unavailable" if problems else "ok", "problems": dict(problems)}
                    self._answer(status, "application/json", json.dumps(body).encode())
                else:
                    self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"see /metrics, /healthz, /readyz\n")

            def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes every few seconds would fill the log."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise UsageError(
                f"telemetry.port {port} on {host} cannot be opened ({error.strerror}): "
                "choose another with --set telemetry.port=N, or 0 for any free port"
            ) from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(STOP_S,), name="side-port", daemon=True
        )

    @property
    def address(self) -> str:
        """`http://host:port`, with the port really opened."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        if self._thread.ident is not None:
            self._server.shutdown()
        self._server.server_close()
