"""The query worker's process: an HTTP server that starts on an address and stops on SIGTERM."""

import signal
import threading

import structlog
from starlette.types import ASGIApp

from consumers.http.server import HttpServer, is_loopback, listen

CONNECTIONS = 1024
"""Clients at a time; of their searches `query.concurrency` are under way."""

_log = structlog.get_logger(__name__)


def serve(app: ASGIApp, host: str, port: int, *, drain_s: float = 30.0) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is under way for at most `drain_s`, then return.

    `port` 0 takes a free one; the log line `query.listening` names it. Raises UsageError where the address is taken.
    """
    listener = listen("query", host, port)
    if not is_loopback(listener):
        _log.warning("query.no_authentication", host=host, advice="anyone who reaches this port can search everything")
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
