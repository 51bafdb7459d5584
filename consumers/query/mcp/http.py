"""The MCP server at `/mcp`, as streamable HTTP: one request, one JSON answer, no sessions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from consumers.http.named_route import NamedRoute
from consumers.http.problems import Problem, http_problem
from consumers.query.mcp.server import mcp_server
from consumers.query.mcp.tools import Tools
from consumers.query.origins import Origins

PATH = "/mcp"
MAX_BODY_BYTES = 128 * 1024


class McpEndpoint:
    """The ASGI application of `/mcp`; `running` must be entered while it answers, and once only.

    Nothing is kept between requests, so any query worker behind a load balancer answers any of them. A stream that the
    client opens with GET would stay empty, and is refused as the protocol provides.
    """

    def __init__(self, tools: Tools, origins: Origins) -> None:
        """`origins`: further web sites whose scripts may call."""
        self._origins = origins
        self._manager = StreamableHTTPSessionManager(
            mcp_server(tools), json_response=True, stateless=True, max_request_body_size=MAX_BODY_BYTES
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer requests until the end of the block."""
        async with self._manager.run():
            yield

    def route(self) -> NamedRoute:
        """The route, for the router of an application."""
        return NamedRoute(PATH, self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        request = Request(scope)
        if request.method != "POST":
            refusal = http_problem(405, "Method Not Allowed").response({"allow": "POST"})
            await refusal(scope, receive, send)
        elif _is_foreign(request) and not self._origins.allow(request.headers.get("origin")):
            detail = "the page that sent this request belongs to another site"
            await Problem(403, "foreign-origin", "Not a page of this server", detail).response()(scope, receive, send)
        else:
            await self._manager.handle_request(scope, receive, send)


def _is_foreign(request: Request) -> bool:
    """Whether a web page of another site sends the request, which a server must refuse."""
    origin = request.headers.get("origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc != request.headers.get("host", "")
    except ValueError:  # as of [, which is no address
        return True
