"""HEAD for every route that has GET."""

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadAsGet:
    """The layer that routes HEAD as GET; the server leaves the body out. FastAPI's own routes know no HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        # A copy: the server decides by the method of its own whether a body is sent.
        routed = {**scope, "method": "GET"}
        try:
            await self._app(routed, receive, send)
        finally:
            scope["route"] = routed.get("route")  # the audit log names it
