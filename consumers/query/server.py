"""The query worker's process: an HTTP server that starts on an address and stops on SIGTERM."""

import signal
import threading

import structlog
from starlette.types import ASGIApp

from consumers.http.server import HttpServer, is_loopback, listen
from pipeline.errors import UsageError

CONNECTIONS = 1024
"""Clients at a time; of their searches `query.concurrency` are under way."""

_log = structlog.get_logger(__name__)


def serve(app: ASGIApp, host: str, port: int, *, local_only: bool = False, drain_s: float = 30.0) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is under way for at most `drain_s`, then return.

    `port` 0 takes a free one; the log line `query.listening` names it. Raises UsageError where the address is taken,
    and with `local_only` where others than this machine can connect to it.
    """
    listener = listen("query", host, port)
    if local_only and not is_loopback(listener):
        listener.close()
        raise UsageError(f"query.host {host} is an address that others can connect to, and no keys are configured")
    server = HttpServer(app, listener, connections=CONNECTIONS, drain_s=drain_s)
    previous = {}
    # After a graceful stop uvicorn raises the signal again for the handler of before: with Python's that is exit 143.
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    _log.info("query.listening", host=host, port=listener.getsockname()[1])
    try:
        server.serve_until_stopped()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    _log.info("query.stopped")
