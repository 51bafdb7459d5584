"""Compression of answers, and bodies of requests that are compressed.

No answer holds a key, a token or a cookie, so no guess in a request can be compared with one by the length of the
compressed answer (BREACH). What documents say is found out by searching them, whatever the length is.
"""

import re
import zlib
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consumers.http.problems import HttpProblem, Problem, bad_body

LEAST_BYTES = 1_024
"""Smaller answers are one packet either way."""
_LEVEL = 4
"""Level 9 takes twenty times as long for 4 % less."""
PIECE_BYTES = 64 * 1024
MOST_PACKED_BYTES = 8 * 1024 * 1024
"""Of one body as it is sent: packed bytes need not unpack to any."""

_NO_GZIP = re.compile(r"(^|,)\s*(x-)?gzip\s*;\s*q=0(\.0*)?\s*(,|$)", re.IGNORECASE)


class CompressedAnswers:
    """The layer that sends large answers as gzip to clients that take it; no event streams."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressing = GZipMiddleware(app, minimum_size=LEAST_BYTES, compresslevel=_LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        refused = scope["type"] == "http" and _NO_GZIP.search(Headers(scope=scope).get("accept-encoding", ""))
        await (self._app if refused else self._compressing)(scope, receive, send)


class UnpackedBodies:
    """The layer that unpacks bodies with `content-encoding: gzip` while they are read.

    Whoever reads the body sees pieces of at most 64 KiB, counts their bytes, and stops at its own limit. So no more
    than a piece is unpacked beyond it. Another encoding is 415; what is not gzip, or ends early, is 400 for the reader.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        encodings = [value.strip().lower() for value in Headers(scope=scope).getlist("content-encoding")]
        if encodings in ([], ["identity"]):
            await self._app(scope, receive, send)
        elif encodings in (["gzip"], ["x-gzip"]):
            _describe_unpacked(scope)
            try:
                await self._app(scope, _Unpacking(receive), send)
            except HttpProblem as error:
                # Of a reader that leaves the answer to others. Here the audit log and the origin's headers are around.
                await error.problem.response(error.headers)(scope, receive, send)
        else:
            detail = "send the body as it is, or with the header content-encoding: gzip"
            problem = Problem(415, "unknown-encoding", "The encoding of the body is not known", detail)
            await problem.response({"accept-encoding": "gzip"})(scope, receive, send)


def _describe_unpacked(scope: MutableMapping[str, Any]) -> None:
    """Take the headers away that are about the packed body. In place: the layers around see the route in the scope."""
    packed = (b"content-encoding", b"content-length")
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in packed]


class _Unpacking:
    """A `receive` whose pieces are unpacked."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._packed = b""
        """Received and not unpacked yet; never more than one piece of the server."""
        self._packed_bytes = 0
        self._ended = False
        """The last piece was received."""
        self._read = False
        """The last piece was read."""

    async def __call__(self) -> Message:
        """The next piece, or that the client has left. Raises HttpProblem 400 and 413."""
        if self._read:
            return await self._receive()  # whoever waits here for the client's leaving must wait
        while True:
            piece = self._unpack()
            whole = self._unpacker.eof
            if whole and (self._unpacker.unused_data or self._packed):
                raise _no_gzip("there is something behind the end of the gzip")
            if piece or (whole and self._ended):
                self._read = whole and self._ended
                return {"type": "http.request", "body": piece, "more_body": not self._read}
            if self._ended:
                raise _no_gzip("it is cut off")
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._packed = message.get("body", b"")
            self._ended = not message.get("more_body", False)
            self._packed_bytes += len(self._packed)
            if self._packed_bytes > MOST_PACKED_BYTES:
                most = f"the body may have {MOST_PACKED_BYTES:,} bytes as gzip"
                raise bad_body(413, "body-too-large", "The body is too large", most)

    def _unpack(self) -> bytes:
        if self._unpacker.eof:
            return b""
        try:
            piece = self._unpacker.decompress(self._packed, PIECE_BYTES)
        except zlib.error:
            raise _no_gzip("it cannot be unpacked") from None
        self._packed = self._unpacker.unconsumed_tail
        return piece


def _no_gzip(why: str) -> HttpProblem:
    return bad_body(400, "malformed", "The body is not gzip", why)
