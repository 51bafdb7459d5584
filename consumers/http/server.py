"""The HTTP server of every process: uvicorn with time limits, a limit on connections, and a check of the Host header.

uvicorn waits for ever for a request to arrive and for an answer to be taken, and counts no connection before its
request is there. So a client that does nothing holds a descriptor, and one that does not read holds its answer.
"""

import asyncio
import errno
import ipaddress
import logging
import re
import resource
import socket
from collections.abc import Callable
from typing import Any, cast

import h11
import structlog
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from consumers.http.problems import SECURITY_HEADERS, Problem
from pipeline.errors import UsageError

REQUEST_TIMEOUT_S = 10.0
"""From a request's first byte to the last one of its body; also for how long a new connection may say nothing."""
KEEP_ALIVE_S = 5
"""Between two requests on one connection."""
SEND_TIMEOUT_S = 10.0
"""From the first byte of an answer that the client's window does not take at once to the last one."""
STOPPING_TIMEOUT_S = 2.0
"""The same two limits from the moment when the server is to stop."""
BACKLOG = 128
"""Connections that the kernel holds until they are accepted."""
PORTS_TRIED = 256
"""From a default port on, that another process may have."""
MOST_DESCRIPTORS = 65_536
"""The soft limit is raised to the hard one, but not beyond: some libraries loop over all possible descriptors."""

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_LOOPBACK_HOST = re.compile(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)

_log = structlog.get_logger(__name__)


class HttpServer(uvicorn.Server):
    """Serves `app` on `listener`, for at most `connections` clients at a time, until `should_exit` is set.

    When one client more comes, the one that has waited longest without a whole request is dropped, so that a probe is
    answered whatever others do. Connections take at most half of the descriptors that the process may have.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket, *, connections: int, drain_s: float) -> None:
        if is_loopback(listener):
            app = LoopbackHosts(app)
        config = uvicorn.Config(
            cast(Any, app),
            http=_TimedProtocol,
            loop="asyncio",
            ws="none",
            log_config=None,
            log_level=logging.ERROR,  # lower levels log a line for each malformed request
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(drain_s)),
            # asyncio accepts as often as this says at each turn and, without descriptors, logs as many errors and
            # tries each of them again a second later.
            backlog=1,
        )
        super().__init__(config)
        self._listener = listener
        self.server_state = self.connections = Connections(min(connections, _raise_descriptor_limit() // 2))

    def serve_until_stopped(self) -> None:
        """Run in this thread; closes the listener at the end."""
        try:
            self.run(sockets=[self._listener])
        finally:
            self._listener.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start uvicorn, then restore the kernel's queue of connections."""
        asyncio.get_running_loop().set_exception_handler(_report)
        await super().startup(sockets)
        self._listener.listen(BACKLOG)


class Connections(ServerState):
    """The open connections; `waiting` has those whose request is incomplete, the longest wait first."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.waiting: dict[_TimedProtocol, None] = {}

    def make_room_for(self, newest: "_TimedProtocol") -> None:
        """Drop one connection where there are too many: the newest only if all others are being answered."""
        if len(self.connections) > self.limit:
            dropped = next(iter(self.waiting), newest)
            self.waiting.pop(dropped, None)
            dropped.transport.abort()


class _TimedProtocol(H11Protocol):
    """One connection with a time limit for each request to arrive and for each answer to be taken."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all = server_state
        self._answer = cast(ASGIApp, self.app)
        self.app = cast(Any, self._answer_whole)
        self._arriving: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        # Writing is paused whenever anything is left to send, and resumed when nothing is.
        transport.set_write_buffer_limits(high=0)
        self._all.make_room_for(self)
        self._follow()

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self._stop_waiting()  # the first byte of a request: its time begins here
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._sending = self._after(SEND_TIMEOUT_S)
        self._follow()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._sending is not None:
            self._sending.cancel()
        self._sending = None
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._sending is not None:
            self._sending.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        self._stopping = True
        if self._sending is not None:
            self._sending.cancel()
            self._sending = self._after(SEND_TIMEOUT_S)
        if self._arriving is not None:
            self._stop_waiting()
            self._follow()

    def _follow(self) -> None:
        """Run the clock of the arriving request exactly while a request is incomplete or the connection is new."""
        whole = self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}
        if whole or self._sending is not None or self.transport.is_closing():
            self._stop_waiting()
        elif self._arriving is None:
            self._arriving = self._after(REQUEST_TIMEOUT_S)
            self._all.waiting[self] = None

    def _stop_waiting(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
        self._arriving = None
        self._all.waiting.pop(self, None)

    def _after(self, seconds: float) -> asyncio.TimerHandle:
        limit = min(seconds, STOPPING_TIMEOUT_S) if self._stopping else seconds
        return self.loop.call_later(limit, self.transport.abort)

    async def _answer_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application's last `send` return only when the answer has left the process, or never will."""

        async def send_whole(message: Message) -> None:
            await cast(Callable[[Any], Any], send)(message)
            if message["type"] == "http.response.body":
                await self.flow.drain()

        await self._answer(scope, receive, send_whole)


class LoopbackHosts:
    """Refuses requests for another host's name where only this machine can connect.

    Else a web page whose own name leads to 127.0.0.1 (DNS rebinding) could read everything through its visitor.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            if _LOOPBACK_HOST.fullmatch(host) is None:
                detail = "the Host header must be localhost, 127.0.0.1 or [::1]: the server listens on loopback only"
                problem = Problem(421, "wrong-host", "Not a host of this server", detail)
                await problem.response(SECURITY_HEADERS)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def listen(section: str, host: str, port: int) -> socket.socket:
    """A listening socket; `::` takes IPv4, too. Raises UsageError that names the settings `section`.host and .port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = family is socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {section}.host {host}, {section}.port {port}: {error.strerror or error}; "
            f"choose another address, or with --set {section}.port=0 any free port"
        ) from error
    # Accepted connections inherit it. asyncio sets it only on sockets it opened itself, and without it an answer's
    # body waits 40 ms for the acknowledgement of its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def listen_from(section: str, host: str, port: int) -> socket.socket:
    """A socket as `listen` opens it, on `port` or the next one that is free; logs a port that is not `port`."""
    for other in range(port, port + PORTS_TRIED):
        try:
            listener = listen(section, host, other)
        except UsageError as error:
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE):
                raise
            continue
        if other != port:
            _log.warning(f"{section}.port_in_use", port=port, taken=other, do=f"set {section}.port to choose one")
        return listener
    return listen(section, host, port)


def check_address(section: str, host: str, port: int) -> bool:
    """Whether only this machine can connect to the address. Raises as `listen` would at this moment."""
    with listen(section, host, port) as listener:
        return is_loopback(listener)


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log in one line that no connection can be accepted; asyncio retries a second later."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES:
        _log.error("http.accept_failed", why=error.strerror)
    else:
        loop.default_exception_handler(context)


def _raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return most
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
