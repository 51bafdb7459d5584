"""The audit log: one line `query.audit` for each request of a known caller, and for each that was refused.

It has who, which tenant, what, the number of results and the status; never a text, unless `query.audit_text` is set.
"""

import time
from collections.abc import MutableMapping, Sequence
from typing import Any

import structlog
from starlette.requests import Request
from starlette.types import Message, Scope, Send

from consumers.query.access.caller import Caller

_NOTES = "milvus_stream.audit"

_log = structlog.get_logger(__name__)


def note(request: Request, *, results: int, texts: Sequence[str] = ()) -> None:
    """Note for the audit log how many results a request gets, and the texts it searched for."""
    notes: MutableMapping[str, Any] | None = request.scope.get(_NOTES)
    if notes is not None:
        notes.update(results=results, texts=list(texts))


class AuditEntry:
    """The line about one request, filled while it is answered."""

    def __init__(self, scope: Scope, *, with_texts: bool) -> None:
        self.caller: Caller | None = None
        self._scope = scope
        self._with_texts = with_texts
        self._notes: dict[str, Any] = {}
        self._status: int | None = None
        self._started = time.monotonic()
        scope[_NOTES] = self._notes

    def watching(self, send: Send) -> Send:
        """A `send` that also notes the status of the answer."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
            await send(message)

        return watched

    def write(self) -> None:
        """Log the line. The route is the pattern of the path: a path itself may hold an id, or anything."""
        facts = {name: value for name, value in self._notes.items() if name != "texts" or self._with_texts}
        _log.info(
            "query.audit",
            caller=None if self.caller is None else self.caller.name,
            tenant=None if self.caller is None else self.caller.tenant,
            method=self._scope["method"],
            route=getattr(self._scope.get("route"), "path", None),
            status=self._status or 500,
            total_ms=round((time.monotonic() - self._started) * 1000, 3),
            **facts,
        )
