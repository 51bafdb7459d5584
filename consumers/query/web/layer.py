"""The layer around the application for requests of browsers: the key of a cookie, refusals as pages."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consumers.query.origins import from_elsewhere
from consumers.query.web.keys import PAGES, cookie_key, key_form
from consumers.query.web.render import html

_PROBLEM = "application/problem+json"


class PageLayer:
    """Outside of the access layer, for the paths of pages only; every other request passes as it is.

    1. Another web site makes its visitor's browser send the request, other than by a link: 403.
    2. There is a cookie and no `Authorization`: its key is sent on in that header.
    3. The answer is a problem, such as that of the access layer: it becomes a page; 401 the form for a key.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or scope["path"] not in PAGES:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if from_elsewhere(request):
            refused = html("message.html", 403, title="Refused", detail="Another web site made this request.")
            await refused(scope, receive, send)
            return
        key = cookie_key(request)
        if key is not None and "authorization" not in request.headers:
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", b"Bearer " + key)]}
        await self._app(scope, receive, _Pages(request, receive, send))


class _Pages:
    """A `send` that holds an answer back which is a problem, and sends it as a page."""

    def __init__(self, request: Request, receive: Receive, send: Send) -> None:
        self._request = request
        self._receive = receive
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if Headers(raw=message["headers"]).get("content-type") == _PROBLEM:
                self._start = message
                return
        elif self._start is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._answer(self._start)
            return
        await self._send(message)

    async def _answer(self, start: Message) -> None:
        status = start["status"]
        if status == 401:
            url = self._request.url
            page = key_form(f"{url.path}?{url.query}" if url.query else url.path)
        else:
            problem: Mapping[str, Any] = orjson.loads(self._body)
            retry = Headers(raw=start["headers"]).get("retry-after")
            headers = {} if retry is None else {"retry-after": retry}
            page = html("message.html", status, headers, title=problem["title"], detail=problem["detail"])
        await page(self._request.scope, self._receive, self._send)
