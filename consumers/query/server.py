"""The query worker's process: an HTTP server that starts on an address and stops when told."""

import ipaddress
import signal
import socket
import threading

import structlog
import uvicorn
from fastapi import FastAPI

from pipeline.errors import UsageError

_log = structlog.get_logger(__name__)


def serve(app: FastAPI, host: str, port: int, *, drain_s: float = 30.0) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is under way for at most `drain_s`, then return.

    `port` 0 takes a free one; the log line `query.listening` names it. Raises UsageError where the address is taken.
    """
    listener = _listen(host, port)
    if not _loopback(host):
        _log.warning("query.no_authentication", host=host, advice="anyone who reaches this port can search everything")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )
    server = uvicorn.Server(config)
    previous = {}
    # After a graceful stop uvicorn raises the signal again for the handler of before: with Python's that is exit 143.
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    _log.info("query.listening", host=host, port=listener.getsockname()[1])
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
    _log.info("query.stopped")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot listen on {host}:{port}: {reason}; change query.host or query.port") from error
    # Accepted connections inherit it. asyncio sets it only on sockets it opened itself, and without it an answer's
    # body waits 40 ms for the acknowledgement of its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
