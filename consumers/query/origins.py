"""Requests of browsers to the API: which web sites may send them, and read the answers (CORS)."""

from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consumers.http.problems import Problem

_FOLDERS = ("/v1/", "/mcp", "/openapi.json")
_HEADERS = ("authorization", "content-encoding", "mcp-protocol-version", "mcp-session-id")
_SHOWN = ("retry-after", "www-authenticate")
_MAX_AGE_S = 600


class Origins:
    """The web sites of `query.cors_origins`: exact origins, or `*` for all."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self.allowed = tuple(allowed)

    def allow(self, origin: str | None) -> bool:
        """Whether scripts of this origin may use the API; None: the browser sent none."""
        return origin is not None and ("*" in self.allowed or origin in self.allowed)


NO_ORIGINS = Origins()


class OriginLayer:
    """The layer for the API's paths; every other request passes as it is, pages have a check of their own.

    1. A preflight of an allowed origin: answered here, before any key is looked at. It carries none.
    2. Another web site makes its visitor's browser send the request, other than by a link: 403.
    3. Otherwise the answer says that the allowed origin may read it. Never with credentials: a script sends a key in
       `Authorization`, and the page's cookie stays with the page.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins
        self._cors = CORSMiddleware(
            app,
            allow_origins=origins.allowed,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=_HEADERS,
            expose_headers=_SHOWN,
            max_age=_MAX_AGE_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or not scope["path"].startswith(_FOLDERS):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if not self._origins.allow(request.headers.get("origin")):
            if from_elsewhere(request):
                detail = "another web site made this request; query.cors_origins lists those that may"
                refused = Problem(403, "foreign-origin", "Not a page of this server", detail).response()
                await refused(scope, receive, _varying(send))
            else:
                await self._app(scope, receive, _varying(send) if self._origins.allowed else send)
            return
        await self._cors(scope, receive, send)


def _varying(send: Send) -> Send:
    """A `send` whose answers say that they depend on the origin."""

    async def varying(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).add_vary_header("Origin")
        await send(message)

    return varying


def from_elsewhere(request: Request) -> bool:
    """Whether another web site makes its visitor's browser send this, other than by a link to a page.

    Such a request cannot be read there, but it would search. Programs and old browsers do not send these headers.
    """
    site = request.headers.get("sec-fetch-site", "none")
    if site in ("none", "same-origin"):
        return False
    return request.method not in ("GET", "HEAD") or request.headers.get("sec-fetch-dest") != "document"
